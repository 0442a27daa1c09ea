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
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from .encoding import COLUMNS, Columns, EncodingOptions, encode_passages
from ..errors import NoBlankError, PassageError
from ..passages.passage import UNLABELLED, Passage
from ..passages.reading import Record, is_lines, line_record, open_file, parse_record
from .vocabulary import UNK, Vocabulary

#: Input of a shard, a line or a document more at most: half a second of work, a few MB of memory.
SHARD_BYTES = 1 << 20

_DOCUMENT_BYTES = 1 << 10  # what a small file counts at least, so that a shard is a bounded number of files
_UNREADABLE = (OSError, EOFError, zlib.error)


# -- parts of the input ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A file, or a part of one.

    Attributes:
        path: the file
        id: its default passage id
        first_line: number of the first line, 0 for a file that is one document
        span: start and end of the lines in the file
        data: the lines themselves, of a file that can only be read from its start
        problem: why the file cannot be read
    """

    path: str
    id: str
    first_line: int = 0
    span: Tuple[int, int] = (0, 0)
    data: Optional[bytes] = None
    problem: Optional[str] = None


Shard = Tuple[Piece, ...]


def plan(files: Iterable[Tuple[Path, str]]) -> Iterator[Shard]:
    """Cut files into shards, in order; reads JSONL once, to find its lines.

    Args:
        files: files with their default passage ids, see :func:`fairseq_cloze.passages.reading.find_files`
    """
    shard: List[Piece] = []
    size = 0
    for path, default_id in files:
        for piece, length in _pieces(path, default_id):
            shard.append(piece)
            size += length
            if size >= SHARD_BYTES:
                yield tuple(shard)
                shard, size = [], 0
    if shard:
        yield tuple(shard)


def _pieces(path: Path, default_id: str) -> Iterator[Tuple[Piece, int]]:
    """The pieces of a file, and what each counts."""
    if not is_lines(path):
        try:
            size = path.stat().st_size
        except OSError:  # the worker will say it
            size = 0
        yield Piece(str(path), default_id), max(size, _DOCUMENT_BYTES)
        return
    first, start, size = 1, 0, 0
    held: List[bytes] = []

    def piece() -> Tuple[Piece, int]:
        return Piece(str(path), default_id, first, (start, start + size), b"".join(held) if held else None), size

    try:
        seekable = stat.S_ISREG(path.stat().st_mode) and path.suffix.lower() != ".gz"
        with open_file(path) as lines:
            for number, line in enumerate(lines, 1):
                size += len(line)
                if not seekable:
                    held.append(line)
                if size >= SHARD_BYTES:
                    yield piece()
                    first, start, size, held = number + 1, start + size, 0, []
    except _UNREADABLE as error:
        if size:
            yield piece()
        yield Piece(str(path), default_id, problem=_why(error)), _DOCUMENT_BYTES
        return
    if size:
        yield piece()


def _records(shard: Shard) -> Iterator[Record]:
    for piece in shard:
        if piece.problem is not None:
            yield Record(piece.path, piece.id, b"", piece.problem)
            continue
        try:
            if not piece.first_line:
                with open_file(Path(piece.path)) as document:
                    content = document.read()
                yield Record(piece.path, piece.id, content)
                continue
            content = piece.data if piece.data is not None else _read(piece.path, *piece.span)
        except _UNREADABLE as error:
            yield Record(piece.path, piece.id, b"", _why(error))
            continue
        for number, line in enumerate(io.BytesIO(content), piece.first_line):
            if line.strip():
                yield line_record(piece.path, piece.id, number, line)


def _read(path: str, start: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def _why(error: Exception) -> str:
    return f"cannot be read ({error}); check the file"


def stamp(files: Sequence[Tuple[Path, str]]) -> str:
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


def can_be_read_again(files: Sequence[Tuple[Path, str]]) -> bool:
    """Whether all are plain files, and none a pipe."""
    return all(path.is_file() for path, _ in files)


# -- encoding a shard ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Why a passage was skipped; text, so that it crosses processes."""

    source: str
    text: str


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


def encode_shard(shard: Shard, target: Path, work: Work, vocabulary: Vocabulary) -> Optional[Problem]:
    """Encode a shard into the file *target*.

    Returns:
        the problem for which it gave up; nothing is written then
    """
    passages: List[Passage] = []
    problems: List[Problem] = []
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
            problems.append(Problem(error.source, error.problem))
            if work.stop and not isinstance(error, NoBlankError):
                return problems[-1]
    columns = encode_passages(passages, vocabulary, work.options)
    sources = [passage.source.encode("utf-8", "surrogateescape") for passage in passages]
    report = {
        "read": read,
        "labelled": int((columns["gold"] != UNLABELLED).sum()),
        "unknown_tokens": int((columns["tokens"] == UNK).sum()),
        "problems": [[problem.source, problem.text] for problem in problems],
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
    return None


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
        problems: passages that were skipped
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
        self.problems = [Problem(*problem) for problem in report["problems"]]

    def columns(self) -> Columns:
        """The encoded passages."""
        with np.load(self._path) as arrays:
            return {name: arrays[name] for name in COLUMNS}

    def ids(self) -> List[Tuple[str, str]]:
        """Id and source of each passage."""
        texts: Dict[str, List[str]] = {}
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
        self._runs: List[np.ndarray] = []

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
