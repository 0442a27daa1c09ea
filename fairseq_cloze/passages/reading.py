"""Reading: passages from files.

Input is one JSON file per passage, a folder tree of them, or JSONL; each may be gzipped.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ClozeError, NoBlankError, PassageError
from ..files import PathLike
from .passage import UNLABELLED, Passage

_JSON_SUFFIXES = (".json", ".json.gz")
_JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


@dataclass(frozen=True)
class Record:
    """The bytes of one passage, not yet parsed, or why they could not be read."""

    source: str
    id: str
    data: bytes
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


# -- finding and reading files ---------------------------------------------------------------------------------------


def find_files(path: PathLike, tally: Tally | None = None) -> list[tuple[Path, str]]:
    """List the passage files under *path* with their default passage ids, sorted by path.

    Raises:
        ClozeError: the path does not exist, holds no passage file, or is a file of another kind
    """
    root = Path(path)
    if not root.exists():
        raise ClozeError(f"{root}: no such file or folder; give a JSON or JSONL file, or a folder of them")
    if not root.is_dir():
        if not _has_suffix(root, _JSON_SUFFIXES + _JSONL_SUFFIXES):
            raise ClozeError(
                f"{root}: expected a name that ends in .json or .jsonl (or .gz after it), found '{root.name}'; "
                "rename the file after its format"
            )
        return [(root, _stem(root.name))]
    found = []
    for file in _walk(root):
        relative = file.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and _has_suffix(file, _JSON_SUFFIXES + _JSONL_SUFFIXES):
            found.append((file, _stem(relative.as_posix())))
        elif tally is not None:
            tally.ignored_files.append(str(file))
    if not found:
        raise ClozeError(f"{root}: expected a folder with .json or .jsonl files, found none; check the path")
    return sorted(found, key=lambda entry: entry[0].relative_to(root).as_posix())


def read_records(paths: Iterable[PathLike], tally: Tally | None = None) -> Iterator[Record]:
    """Yield the raw records under *paths* one by one, in order, holding one file's line or document at a time.

    A file that cannot be read becomes a record that says so.

    Raises:
        ClozeError: a path that holds nothing to read
    """
    files = [entry for path in paths for entry in find_files(path, tally)]
    for file, default_id in files:
        try:
            if is_lines(file):
                with open_file(file) as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield line_record(str(file), default_id, number, line)
            else:
                with open_file(file) as document:
                    yield Record(str(file), default_id, document.read())
        except (OSError, EOFError, zlib.error) as error:
            yield Record(str(file), default_id, b"", f"cannot be read ({error}); check the file")


def line_record(file: str, default_id: str, number: int, line: bytes) -> Record:
    """The record of a line of JSONL, counted from 1."""
    return Record(f"{file}, line {number}", f"{default_id}:{number}", line)


def is_lines(file: Path) -> bool:
    """Whether a file is JSONL, by its name."""
    return _has_suffix(file, _JSONL_SUFFIXES)


def open_file(file: Path) -> Any:
    """Open a file to read its bytes, unpacked."""
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb")


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
    for record in read_records(paths, tally):
        try:
            passage = parse_record(record)
        except NoBlankError as error:
            tally.skipped.append((error.source, error.problem))
            continue
        except PassageError as error:
            if on_error == "stop":
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
    if record.problem is not None:
        raise PassageError(record.source, record.problem)
    return Passage.from_json(_load_json(record), record.source, record.id)


def _load_json(record: Record) -> Any:
    try:
        return json.loads(record.data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PassageError(
            record.source, f"expected UTF-8 text, found byte 0x{record.data[error.start]:02x} at offset {error.start}"
        ) from error
    except json.JSONDecodeError as error:
        hint = "; name the file .jsonl if it holds one passage per line" if error.msg == "Extra data" else ""
        raise PassageError(
            record.source,
            f"expected JSON, found a mistake in line {error.lineno}, column {error.colno} ({error.msg}){hint}",
        ) from error
    except RecursionError as error:
        raise PassageError(record.source, "expected a passage, found JSON nested too deeply") from error


def _walk(root: Path) -> Iterator[Path]:
    """All files below *root*, through links to folders as well, each folder once."""

    def unreadable(error: OSError) -> None:
        raise ClozeError(f"{error.filename}: cannot be read ({error.strerror}); check the folder") from error

    seen = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        yield from (Path(folder, name) for name in names)
        below = sorted((Path(folder, name) for name in folders), key=lambda path: (path.is_symlink(), path.name))
        folders[:] = []
        for path in below:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                folders.append(path.name)


def _has_suffix(file: Path, suffixes: Sequence[str]) -> bool:
    return file.name.lower().endswith(tuple(suffixes))


def _stem(name: str) -> str:
    stem = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    return stem[: stem.rfind(".")]
