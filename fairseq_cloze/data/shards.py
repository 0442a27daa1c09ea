"""Shards: bounded parts of the input, each encoded in one go into one file.

A shard's file appears whole or not at all, and its content follows from the input alone.  So a run that was killed is
taken up by leaving out the shards whose files are there, and the number of workers changes nothing.
"""

import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NoBlankError, PassageError, UnreadablePassageError
from ..files import is_stdin, unused
from ..passages.markers import Marker
from ..passages.passage import UNLABELLED, Passage
from ..passages.reading import Numbering, Record, find_records, parse_record
from ..passages.text import likely_language
from .encoding import COLUMNS, Columns, EncodingOptions, encode_passages
from .vocabulary import UNK, Vocabulary

#: Input of a shard, a line or a document more at most: half a second of work, a few MB of memory.
SHARD_BYTES = 1 << 20

_LOOKED_AT = 16  # passages of a shard whose language is told

_DOCUMENT_BYTES = 1 << 10  # what a small file counts at least, so that a shard is a bounded number of files

Shard = tuple[Record, ...]


def plan(files: Iterable[tuple[Path, str]]) -> Iterator[Shard]:
    """Cut files with their default passage ids into shards, in order; reads JSONL, but no documents."""
    shard: list[Record] = []
    size = 0
    for record in find_records(files):
        shard.append(record)
        size += len(record.data) if record.data else max(_size(record.source), _DOCUMENT_BYTES)
        if size >= SHARD_BYTES:
            yield tuple(shard)
            shard, size = [], 0
    if shard:
        yield tuple(shard)


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:  # the worker will say it
        return 0


def stamp(files: Sequence[tuple[Path, str]]) -> str:
    """A digest of what is to be read and how it is cut: paths, default ids, sizes and times of change."""
    digest = hashlib.sha256(f"{SHARD_BYTES} of records\n".encode())
    for path, default_id in files:
        try:
            found = path.stat()
            is_file = stat.S_ISREG(found.st_mode) and not is_stdin(path)
            state = f"{found.st_size} {found.st_mtime_ns}" if is_file else "a stream"
        except OSError as error:
            state = str(error.errno)
        digest.update(f"{path}\0{default_id}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards."""

    vocabulary: Vocabulary
    options: EncodingOptions
    stop: bool  #: at the first passage that does not fit
    marker: Marker | None = None  #: what stands for a blank

    def __call__(self, task: tuple[Shard, Path, bool]) -> Path:
        """Encode a shard into a file, unless that is there; see :meth:`encode`."""
        shard, target, needs_answers = task
        if not target.exists():
            self.encode(shard, target, needs_answers)
        return target

    def encode(self, shard: Shard, target: Path, needs_answers: bool) -> None:
        """Encode a shard into the file *target*; with *needs_answers* unlabelled passages do not fit.

        Raises:
            PassageError: a passage does not fit, and :attr:`stop`; nothing is written
            UnreadablePassageError: a file that was there is there no more; nothing is written
        """
        passages: list[Passage] = []
        numbering = Numbering()
        problems: list[tuple[str, str]] = []
        for record in shard:
            try:
                passage = parse_record(record, self.marker)
                if needs_answers and UNLABELLED in passage.gold:
                    raise PassageError(
                        record.source, "expected answers, as train and valid need them, found none", "answers"
                    )
                passages.append(passage)
                numbering.note(record, passage)
            except PassageError as error:
                if isinstance(error, UnreadablePassageError) and not os.path.lexists(record.path):
                    raise
                numbering.note(record, error)
                if self.stop and not isinstance(error, NoBlankError):
                    raise
                problems.append((error.source, error.problem))
        columns = encode_passages(passages, self.vocabulary, self.options)
        report = {
            "labelled": int((columns["gold"] != UNLABELLED).sum()),
            "unknown_tokens": int((columns["tokens"] == UNK).sum()),
            "makeshift_tokens": int(self.vocabulary.makeshift[columns["tokens"]].sum()),
            "languages": Counter(filter(None, (likely_language(one.article) for one in passages[:_LOOKED_AT]))),
            "problems": problems,
            "numbering": numbering.groups,
            "sources": [passage.source for passage in passages],
        }
        arrays: dict[str, Any] = {
            **columns,
            "id_digest": np.array([id_digest(passage.id) for passage in passages], dtype=np.uint64),
            "report": np.frombuffer(json.dumps(report).encode("ascii"), np.uint8),
        }
        temporary = unused(target.parent)
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def id_digest(passage_id: str) -> int:
    """Eight bytes that stand for a passage id; where they are equal, the ids need a look."""
    return int.from_bytes(hashlib.blake2b(passage_id.encode("utf-8"), digest_size=8).digest(), "little")


class EncodedShard:
    """The file of a shard."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            report = json.loads(arrays["report"].tobytes())
            self.id_digests: np.ndarray = arrays["id_digest"]  #: see :func:`id_digest`, ``uint64 (passages,)``
            self.columns: Columns = {name: arrays[name] for name in COLUMNS}
        self.labelled: int = report["labelled"]  #: blanks with an answer
        self.unknown_tokens: int = report["unknown_tokens"]
        self.makeshift_tokens: int = report["makeshift_tokens"]  #: see :attr:`Vocabulary.makeshift`
        self.languages: dict[str, int] = report["languages"]  #: how many of the passages looked at seem to be in each
        self.looked_at = min(len(report["sources"]), _LOOKED_AT)
        self.problems: list[tuple[str, str]] = [(source, reason) for source, reason in report["problems"]]
        self.numbering: dict[str, dict[str, Any]] = report["numbering"]  #: groups of :class:`Numbering`
        self._sources: list[str] = report["sources"]

    def ids(self) -> list[tuple[str, str]]:
        """Id and source of each passage."""
        content, ends = self.columns["id_bytes"].tobytes(), np.cumsum(self.columns["id_length"]).tolist()
        return [(content[a:b].decode(), source) for a, b, source in zip([0, *ends], ends, self._sources)]


def is_sound(path: Path) -> bool:
    """Whether a shard's file is there and undamaged, also after a power cut."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
