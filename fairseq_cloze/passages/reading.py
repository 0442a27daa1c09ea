"""Reading: passages from files: one JSON file per passage, a folder tree of them, or JSONL; each may be gzipped."""

import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ClozeError, NoBlankError, PassageError
from ..files import PathLike
from .passage import UNLABELLED, Passage

_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_SUFFIXES = (".json", ".json.gz", *_LINES)

#: What reading a file, packed or not, may raise.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)

_OPENERS: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Record(NamedTuple):
    """The bytes of one passage, not yet parsed, or why they could not be read; ``None`` for a file not read yet."""

    source: str
    id: str
    data: bytes | None
    problem: str | None = None


@dataclass
class Tally:
    """What a reader met: nothing is dropped without a count here."""

    passages: int = 0
    blanks: int = 0
    labelled: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored_files: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line with every count."""
        text = f"{self.passages:,} passages, {self.blanks:,} blanks"
        if self.labelled != self.blanks:
            text += f" ({self.blanks - self.labelled:,} unlabelled)"
        text += f", {len(self.skipped):,} skipped"
        if self.ignored_files:
            text += f", {len(self.ignored_files):,} files that are not JSON or JSONL ignored"
        return text

    def require_passages(self, paths: Iterable[PathLike]) -> None:
        """Make sure that *paths* held something to work on.

        Raises:
            ClozeError: no passage with a blank
        """
        if not self.passages:
            raise ClozeError(
                f"{', '.join(map(str, paths))}: expected passages with blanks, found none ({self.summary()})"
            )


def find_files(path: PathLike, tally: Tally | None = None) -> list[tuple[Path, str]]:
    """List the passage files under *path* with their default passage ids, sorted by path.

    Raises:
        ClozeError: the path does not exist, holds no passage file, or is a file of another kind
    """
    root = Path(path)
    if not root.exists():
        raise ClozeError(f"{root}: no such file or folder; give a JSON or JSONL file, or a folder of them")
    if not root.is_dir():
        if not root.name.lower().endswith(_SUFFIXES):
            raise ClozeError(
                f"{root}: expected a name that ends in .json or .jsonl (or .gz after it), found '{root.name}'; "
                "rename the file after its format"
            )
        return [(root, _stem(root.name))]
    found, ignored = files_under(root, _SUFFIXES)
    if tally is not None:
        tally.ignored_files += map(str, ignored)
    if not found:
        raise ClozeError(f"{root}: expected a folder with .json or .jsonl files, found none; check the path")
    return [(file, _stem(file.relative_to(root).as_posix())) for file in found]


def _stem(name: str) -> str:
    return name[: name.rfind(".", 0, -3 if name.lower().endswith(".gz") else None)]


def files_under(root: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """The files below *root* with one of *suffixes*, sorted, and the others; what is hidden is among the others.

    Links to folders are followed, each folder once.

    Raises:
        ClozeError: a folder cannot be read
    """

    def unreadable(error: OSError) -> None:
        raise ClozeError(f"{error.filename}: cannot be read ({error.strerror}); check the folder") from error

    found: list[Path] = []
    others: list[Path] = []
    seen = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        hidden = any(part.startswith(".") for part in Path(folder).relative_to(root).parts)
        for name in names:
            fits = not hidden and not name.startswith(".") and name.lower().endswith(suffixes)
            (found if fits else others).append(Path(folder, name))
        below = sorted(folders, key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        folders.clear()
        for name in below:
            real = os.path.realpath(os.path.join(folder, name))
            if real not in seen:
                seen.add(real)
                folders.append(name)
    return sorted(found, key=lambda file: file.relative_to(root).as_posix()), others


def open_file(file: Path) -> Any:
    """Open a file to read its bytes, unpacked."""
    return _OPENERS.get(file.suffix.lower(), open)(file, "rb")


def find_records(files: Iterable[tuple[Path, str]]) -> Iterator[Record]:
    """Yield the records of files with their default ids, in order; a document is left to :func:`parse_record` to read.

    A file that cannot be read becomes a record that says so.
    """
    for file, default_id in files:
        if not file.name.lower().endswith(_LINES):
            yield Record(str(file), default_id, None)
            continue
        try:
            with open_file(file) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield Record(f"{file}, line {number}", f"{default_id}:{number}", line)
        except UNREADABLE as error:
            yield Record(str(file), default_id, b"", _why(error))


def _why(error: Exception) -> str:
    return f"cannot be read ({error}); check the file"


def read_passages(paths: Iterable[PathLike], on_error: str = "stop", tally: Tally | None = None) -> Iterator[Passage]:
    """Yield the checked passages under *paths*, in order.

    Args:
        paths: files or folders
        on_error: ``stop`` raises at the first passage that does not fit, ``skip`` counts it in *tally*
        tally: filled with counts as passages are read

    Raises:
        PassageError: a passage does not fit and *on_error* is ``stop``
        ClozeError: a path holds nothing to read, or two passages share an id
    """
    tally = Tally() if tally is None else tally
    seen: dict[str, str] = {}
    for record in find_records([entry for path in paths for entry in find_files(path, tally)]):
        try:
            passage = parse_record(record)
        except PassageError as error:
            if on_error == "stop" and not isinstance(error, NoBlankError):
                raise
            tally.skipped.append((error.source, error.problem))
            continue
        check_unique_id(passage.id, passage.source, seen)
        tally.passages += 1
        tally.blanks += len(passage.gold)
        tally.labelled += sum(gold != UNLABELLED for gold in passage.gold)
        yield passage


def check_unique_id(passage_id: str, source: str, seen: dict[str, str]) -> None:
    """Record an id in *seen* (id → source).

    Raises:
        ClozeError: the id was met before
    """
    other = seen.setdefault(passage_id, source)
    if other is not source:
        raise ClozeError(
            f"{source}: passage id '{passage_id}' is taken by {other}; "
            "give each passage its own 'id', or pass the folder above both"
        )


def parse_record(record: Record) -> Passage:
    """Parse and check one record.

    Raises:
        NoBlankError: the article has no blank
        PassageError: anything else that does not fit
    """
    source, default_id, data, problem = record
    if problem is not None:
        raise PassageError(source, problem)
    try:
        if data is None:
            with open_file(Path(source)) as document:
                data = document.read()
        fields = json.loads(data.decode("utf-8-sig"))
    except UNREADABLE as error:
        problem = _why(error)
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8 text, found byte 0x{error.object[error.start]:02x} at offset {error.start}"
    except json.JSONDecodeError as error:
        problem = f"expected JSON, found a mistake in line {error.lineno}, column {error.colno} ({error.msg})"
        if error.msg == "Extra data":
            problem += "; name the file .jsonl if it holds one passage per line"
    except RecursionError:
        problem = "expected a passage, found JSON nested too deeply"
    if problem is not None:
        raise PassageError(source, problem)
    return Passage.from_json(fields, source, default_id)
