"""Release: fairseq's tarballs of pretrained weights, such as ``roberta.large.tar.gz``, as they come.

What is needed is found by the last part of its name, read as a stream and written under a name of ours, so no path and
no link of an archive is ever followed.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from ..data.fairseq_files import DICTIONARY_FILE, ENCODER_FILE, GPT2_BPE_URL, MERGES_FILE
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError, ClozeError, first_line
from ..files import PathLike, alone_in, cannot_write, open_regular, read_regular, replacing
from .carried import MODEL_FILE
from .checkpoint import Checkpoint
from .plain import show
from .reading import refuse_pointer

_BPE_FILES = (ENCODER_FILE, MERGES_FILE)

MOST = 16 << 30  #: bytes of an archive, unpacked; RoBERTa-large has 0.7 GB
_MOST_MEMBERS = 1000
_MOST_PACKED = 100  # bytes that gzip makes of weights' one, at most; it makes 1,000 of zeros
_MOST_TEXT = 64 << 20  # bytes of a file of the vocabulary
_MOST_AT_ONCE = 16 << 20  # bytes that the reader of headers may ask for: one can claim to be gigabytes long


def import_release(
    source: PathLike, out: PathLike, gpt2_bpe: PathLike | None = None, announce: Callable[[str], Any] | None = None
) -> Path:
    """Make a folder of weights of a tarball of fairseq's.

    Args:
        source: ``.tar`` or ``.tar.gz`` with ``model.pt`` and ``dict.txt``
        out: folder to write ``model.pt``, whose path is returned, and the vocabulary into
        gpt2_bpe: folder with ``encoder.json`` and ``vocab.bpe``; without, they are looked for in the tarball and beside
            it
        announce: called with a line that says what was found

    Raises:
        CheckpointError: it is damaged, holds something else, or what belongs to it is not to be found
        ClozeError: *out* cannot be written
    """
    path = Path(out) / MODEL_FILE
    with alone_in(out), replacing(path) as temporary:
        found = _read(Path(source), temporary, path)
        files = _vocabulary_files(Path(source), found, gpt2_bpe)
        checkpoint = Checkpoint.read(temporary, str(source))
        checkpoint.require_sound()
        vocabulary = Vocabulary(files, str(source))
        if checkpoint.rows != len(vocabulary):
            found_rows = f"{DICTIONARY_FILE} of {len(vocabulary):,}"
            raise _refused(
                Path(source), f"{DICTIONARY_FILE} of {checkpoint.rows:,} rows, as the weights have", found_rows
            )
        if announce:
            heads = f"; it has heads of other tasks ({', '.join(sorted(checkpoint.heads))})" if checkpoint.heads else ""
            announce(f"{source}: {checkpoint.architecture.encoder_layers} layers, {checkpoint.rows:,} tokens{heads}")
        vocabulary.save(Path(out))
    return path


def _read(source: Path, model: Path, out: Path) -> dict[str, bytes]:
    """Write ``model.pt`` of an archive to the file *model*, *out* in messages; the files of a vocabulary, by name."""
    texts: dict[str, bytes] = {}
    seen: set[str] = set()
    with _opened(source) as archive:
        for number, member in enumerate(archive):
            name = PurePosixPath(member.name).name
            if number >= _MOST_MEMBERS:
                raise _refused(source, f"at most {_MOST_MEMBERS:,} files", "more")
            if name not in (MODEL_FILE, DICTIONARY_FILE, *_BPE_FILES) or member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise _refused(source, f"{name} as a file", "a link or a device of that name")
            if name in seen:
                raise _refused(source, f"one {name}", "two")
            if name != MODEL_FILE and member.size > _MOST_TEXT:
                raise _refused(source, f"{name} of at most {_MOST_TEXT >> 20} MB", f"one of {member.size:,} bytes")
            seen.add(name)
            if name == MODEL_FILE:
                _copy(content, model, out)
            else:
                texts[name] = content.read(_MOST_TEXT)
    for name in (MODEL_FILE, DICTIONARY_FILE):
        if name not in seen:
            raise _refused(source, f"{MODEL_FILE} and {DICTIONARY_FILE}, as fairseq's releases have", f"no {name}")
    return texts


def _copy(content: IO[bytes], model: Path, out: Path) -> None:
    with open(model, "wb") as file:
        while piece := content.read(_MOST_AT_ONCE):
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise cannot_write(out, error.strerror or str(error)) from error


class _Bounded:
    """A file to read of which no piece is larger than is sensible, and neither is all of it; it has *packed* bytes."""

    def __init__(self, file: BinaryIO, source: Path, packed: int) -> None:
        self._file, self._source = file, source
        self._most = min(MOST, max(_MOST_TEXT, packed * _MOST_PACKED))
        self.tell = file.tell

    def seek(self, place: int) -> int:
        if place > self._most:
            raise self._too_large()
        return self._file.seek(place)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE or self._file.tell() + size > self._most + _MOST_AT_ONCE:
            raise self._too_large()
        return self._file.read(size)

    def _too_large(self) -> CheckpointError:
        return _refused(self._source, f"at most {self._most:,} bytes", "more, or a header that claims so")


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    refuse_pointer(source)
    try:
        with open_regular(source) as raw:
            unpacked: Any = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
            raw.seek(0)
            bounded: Any = _Bounded(unpacked, source, os.fstat(raw.fileno()).st_size)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                yield archive
    except ClozeError:
        raise
    except Exception as error:  # tarfile, gzip and zlib raise many kinds for damaged files
        raise CheckpointError(
            f"{source}: cannot be read as a tarball ({show(first_line(error), 200)}); it is cut short or damaged, "
            "download it again"
        ) from error


def _vocabulary_files(source: Path, found: dict[str, bytes], gpt2_bpe: PathLike | None) -> dict[str, bytes]:
    """fairseq's three files: the dictionary of the archive, the others from wherever they are."""
    files = {DICTIONARY_FILE: found[DICTIONARY_FILE]}
    for name in _BPE_FILES:
        folder = source.parent if gpt2_bpe is None else Path(gpt2_bpe)
        try:
            files[name] = found[name] if name in found and gpt2_bpe is None else read_regular(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{source}: expected {' and '.join(_BPE_FILES)} in {folder}, found no {name} "
                f"({error.strerror or error}); fairseq's tarballs come without: get both from {GPT2_BPE_URL} and give "
                "their folder as --gpt2-bpe (for XLM-R and CamemBERT import the model of the hub instead)"
            ) from error
    return files


def _refused(source: Path, expected: str, found: str) -> CheckpointError:
    return CheckpointError(f"{source}: expected {expected}, found {found}; take fairseq's own tarball")
