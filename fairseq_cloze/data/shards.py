"""Shards: bounded parts of the input, each encoded in one go into one file.

A shard's file appears whole or not at all, and its content follows from the input alone.  So a run that was killed is
taken up by leaving out the shards whose files are there, and the number of workers changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import NoBlankError, PassageError
from ..passages.passage import UNLABELLED, Passage
from ..passages.reading import Record, is_lines, line_record, open_file, parse_record
from .encoding import COLUMNS, Columns, EncodingOptions, encode_passages
from .vocabulary import UNK, Vocabulary

#: Input of a shard, a line or a document more at most: half a second of work, a few MB of memory.
SHARD_BYTES = 1 << 20

_DOCUMENT_BYTES = 1 << 10  # what a small file counts at least, so that a shard is a bounded number of files
_UNREADABLE = (OSError, EOFError, zlib.error)


# -- parts of the input ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A file, or a part of one.

    Attributes:
        path: the file
        id: its default passage id
        first_line: number of the first line, 0 for a file that is one document
        start, end: place of the lines in the file, in bytes
        data: the lines themselves, of a file that can only be read from its start
        problem: why the file cannot be read
    """

    path: str
    id: str
    first_line: int = 0
    start: int = 0
    end: int = 0
    data: bytes | None = None
    problem: str | None = None


Shard = tuple[Span, ...]


def plan(files: Iterable[tuple[Path, str]]) -> Iterator[Shard]:
    """Cut files into shards, in order; reads JSONL once, to find its lines.

    Args:
        files: files with their default passage ids, see :func:`fairseq_cloze.passages.reading.find_files`
    """
    shard: list[Span] = []
    size = 0
    for path, default_id in files:
        for span, length in _spans(path, default_id):
            shard.append(span)
            size += length
            if size >= SHARD_BYTES:
                yield tuple(shard)
                shard, size = [], 0
    if shard:
        yield tuple(shard)


def _spans(path: Path, default_id: str) -> Iterator[tuple[Span, int]]:
    """The spans of a file, and what each counts."""
    if not is_lines(path):
        try:
            size = path.stat().st_size
        except OSError:  # the worker will say it
            size = 0
        yield Span(str(path), default_id), max(size, _DOCUMENT_BYTES)
        return
    first, start, size = 1, 0, 0
    held: list[bytes] = []

    def lines_so_far() -> tuple[Span, int]:
        return Span(str(path), default_id, first, start, start + size, b"".join(held) if held else None), size

    try:
        seekable = stat.S_ISREG(path.stat().st_mode) and path.suffix.lower() != ".gz"
        with open_file(path) as lines:
            for number, line in enumerate(lines, 1):
                size += len(line)
                if not seekable:
                    held.append(line)
                if size >= SHARD_BYTES:
                    yield lines_so_far()
                    first, start, size, held = number + 1, start + size, 0, []
    except _UNREADABLE as error:
        if size:
            yield lines_so_far()
        yield Span(str(path), default_id, problem=_why(error)), _DOCUMENT_BYTES
        return
    if size:
        yield lines_so_far()


def _records(shard: Shard) -> Iterator[Record]:
    for span in shard:
        if span.problem is not None:
            yield Record(span.path, span.id, b"", span.problem)
            continue
        try:
            if not span.first_line:
                with open_file(Path(span.path)) as document:
                    content = document.read()
                yield Record(span.path, span.id, content)
                continue
            content = span.data if span.data is not None else _read(span.path, span.start, span.end)
        except _UNREADABLE as error:
            yield Record(span.path, span.id, b"", _why(error))
            continue
        for number, line in enumerate(io.BytesIO(content), span.first_line):
            if line.strip():
                yield line_record(span.path, span.id, number, line)


def _read(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def _why(error: Exception) -> str:
    return f"cannot be read ({error}); check the file"


def stamp(files: Sequence[tuple[Path, str]]) -> str:
    """A digest of what is to be read and how it is cut: paths, default ids, sizes and times of change."""
    digest = hashlib.sha256(f"{SHARD_BYTES}\n".encode())
    for path, default_id in files:
        try:
            found = path.stat()
            state = f"{found.st_size} {found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else "a stream"
        except OSError as error:
            state = str(error.errno)
        digest.update(f"{path}\0{default_id}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def can_be_read_again(files: Sequence[tuple[Path, str]]) -> bool:
    """Whether all are plain files, and none a pipe."""
    return all(path.is_file() for path, _ in files)


# -- encoding a shard ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What is asked of a worker beside the shard.

    Attributes:
        options: how text becomes tokens
        needs_answers: an unlabelled passage does not fit
        stop: give up at the first passage that does not fit
    """

    options: EncodingOptions
    needs_answers: bool
    stop: bool


class ShardEncoder:
    """Encodes shards with a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, task: tuple[Shard, Path, Work]) -> Path:
        """Encode a shard into a file, unless that is there; see :func:`encode_shard`."""
        shard, target, work = task
        if not target.exists():
            encode_shard(shard, target, work, self._vocabulary)
        return target


def encode_shard(shard: Shard, target: Path, work: Work, vocabulary: Vocabulary) -> None:
    """Encode a shard into the file *target*.

    Raises:
        PassageError: a passage does not fit and *work* says to stop then; nothing is written
    """
    passages: list[Passage] = []
    problems: list[tuple[str, str]] = []
    read = 0
    for record in _records(shard):
        read += 1
        try:
            passage = parse_record(record)
            if work.needs_answers and UNLABELLED in passage.gold:
                raise PassageError(
                    record.source, "expected answers, as train and valid need them, found none", "answers"
                )
            passages.append(passage)
        except PassageError as error:
            if work.stop and not isinstance(error, NoBlankError):
                raise
            problems.append((error.source, error.problem))
    columns = encode_passages(passages, vocabulary, work.options)
    sources = [passage.source.encode("utf-8", "surrogateescape") for passage in passages]
    report = {
        "read": read,
        "labelled": int((columns["gold"] != UNLABELLED).sum()),
        "unknown_tokens": int((columns["tokens"] == UNK).sum()),
        "problems": problems,
    }
    arrays = {
        **columns,
        "id_digest": np.array([id_digest(passage.id) for passage in passages], dtype=np.uint64),
        "source_bytes": np.array(bytearray(b"".join(sources)), dtype=np.uint8),
        "source_length": np.array([len(source) for source in sources], dtype=np.int64),
        "report": np.frombuffer(json.dumps(report).encode("ascii"), np.uint8),
    }
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def id_digest(passage_id: str) -> int:
    """Eight bytes that stand for a passage id; where they are equal, the ids need a look."""
    return int.from_bytes(hashlib.blake2b(passage_id.encode("utf-8"), digest_size=8).digest(), "little")


# -- the file of a shard ---------------------------------------------------------------------------------------------


class EncodedShard:
    """The file of a shard; its arrays are read when they are asked for.

    Attributes:
        read: records met
        labelled: blanks with an answer
        unknown_tokens: tokens that are not in the dictionary
        problems: sources of the passages that were skipped, and why
        id_digests: see :func:`id_digest`, ``uint64 (passages,)``
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with np.load(path) as arrays:
            report = json.loads(arrays["report"].tobytes())
            self.id_digests: np.ndarray = arrays["id_digest"]
        self.read: int = report["read"]
        self.labelled: int = report["labelled"]
        self.unknown_tokens: int = report["unknown_tokens"]
        self.problems: list[tuple[str, str]] = [(source, reason) for source, reason in report["problems"]]

    def columns(self) -> Columns:
        """The encoded passages."""
        with np.load(self._path) as arrays:
            return {name: arrays[name] for name in COLUMNS}

    def ids(self) -> list[tuple[str, str]]:
        """Id and source of each passage."""
        texts: dict[str, list[str]] = {}
        with np.load(self._path) as arrays:
            for name in ("id", "source"):
                content, ends = arrays[f"{name}_bytes"].tobytes(), np.cumsum(arrays[f"{name}_length"]).tolist()
                texts[name] = [
                    content[start:end].decode("utf-8", "surrogateescape") for start, end in zip([0, *ends], ends)
                ]
        return list(zip(texts["id"], texts["source"]))


def is_sound(path: Path) -> bool:
    """Whether a shard's file is there and undamaged, also after a power cut."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


class IdDigests:
    """Digests of the ids met so far; eight bytes each, in a few sorted runs that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add digests.

        Returns:
            those of them that were met before, or occur in them twice
        """
        new = np.sort(digests)
        repeated = [new[1:][new[1:] == new[:-1]]]
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, new), len(run) - 1)
            repeated.append(new[run[places] == new])
        if len(new):
            self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate([before, last]), kind="stable"))
        return np.unique(np.concatenate(repeated))
