"""Reading: passages from files: one JSON file per passage, a folder tree of them, or JSONL; each may be gzipped."""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ClozeError, NoBlankError, OneTooHighError, PassageError, UnreadablePassageError, printable
from ..files import PathLike, special_kind
from ..jsontext import NotJson, parse_json
from .markers import Marker
from .passage import UNLABELLED, Passage

_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_SUFFIXES = (".json", ".json.gz", *_LINES)

#: Bytes of a passage, unpacked, at most.
LONGEST = 64 << 20

#: What reading a file, packed or not, may raise.
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError)

_OPENERS: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Record(NamedTuple):
    """The bytes of one passage, not yet parsed; ``None`` for a file not read yet."""

    source: str
    id: str
    data: bytes | None
    error: PassageError | None = None  #: why there are no bytes
    is_line: bool = False  #: of JSONL

    @property
    def path(self) -> str:
        """The file."""
        return self.source.rpartition(", line ")[0] if self.is_line else self.source

    @property
    def group(self) -> str:
        """The JSONL file, or the folder, whose passages are likely of one maker."""
        return self.path if self.is_line else os.path.dirname(self.path)


class Numbering:
    """Whether answers that are numbers are counted from 1, by their file or folder: told of every passage."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}

    def note(self, record: Record, found: Passage | PassageError) -> None:
        """Take a passage, or what is wrong with one, into account."""
        if isinstance(found, (Passage, OneTooHighError)) and found.lowest is not None:
            high = {"high": found.source} if isinstance(found, OneTooHighError) else {"fits": True}
            self.add({record.group: {"lowest": found.lowest, **high}})

    def add(self, groups: dict[str, dict[str, Any]]) -> None:
        """Take what another one was told into account."""
        for name, found in groups.items():
            known = self.groups.setdefault(name, found)
            self.groups[name] = {**found, **known, "lowest": min(known["lowest"], found["lowest"])}

    def problem(self) -> str | None:
        """What is wrong with the first file or folder whose answers look counted from 1."""
        for name, found in self.groups.items():
            if found["lowest"] > 0 and "high" in found and "fits" in found:
                return (
                    f"{printable(name)}: expected answers counted from 0, found none that is 0, and one that is as "
                    f"high as the number of options ({found['high']}); subtract 1 from each, or write letters"
                )
        return None


@dataclass
class Tally:
    """What a reader met: nothing is dropped without a count here."""

    passages: int = 0
    blanks: int = 0
    labelled: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored_files: list[str] = field(default_factory=list)
    numbering: Numbering = field(default_factory=Numbering)

    def summary(self) -> str:
        """One line with every count."""
        text = f"{self.passages:,} passages, {self.blanks:,} blanks"
        if self.labelled != self.blanks:
            text += f" ({self.blanks - self.labelled:,} unlabelled)"
        text += f", {len(self.skipped):,} skipped"
        if self.ignored_files:
            text += f", {len(self.ignored_files):,} files that are not JSON or JSONL ignored"
        return text

    def count(self, passage: Passage, times: int = 1) -> None:
        """Count a passage."""
        self.passages += times
        self.blanks += times * len(passage.gold)
        self.labelled += times * sum(gold != UNLABELLED for gold in passage.gold)

    def leave_out(self, passage: Passage, problem: str) -> None:
        """Count a passage as skipped that was counted before."""
        self.count(passage, -1)
        self.skipped.append((printable(passage.source), problem))

    def require_passages(self, paths: Iterable[PathLike]) -> None:
        """Make sure that *paths* held something to work on.

        Raises:
            ClozeError: no passage with a blank
        """
        if not self.passages:
            skipped = "".join(f"; skipped {source}: {reason}" for source, reason in self.skipped[:1])
            raise ClozeError(
                f"{', '.join(map(str, paths))}: expected passages with blanks, found none ({self.summary()}{skipped})"
            )


def find_files(path: PathLike, tally: Tally | None = None) -> list[tuple[Path, str]]:
    """List the passage files under *path* with their default passage ids, sorted by path.

    Raises:
        ClozeError: the path does not exist, holds no passage file, or is a file of another kind
    """
    root = Path(path)
    if not os.path.exists(root):
        raise ClozeError(f"{root}: no such file or folder; give a JSON or JSONL file, or a folder of them")
    if not root.is_dir():
        if not root.name.lower().endswith(_SUFFIXES):
            raise ClozeError(
                f"{root}: expected a name that ends in .json or .jsonl (or .gz after it), found '{root.name}'; "
                "rename the file after its format"
            )
        if (kind := special_kind(root)) not in (None, "pipe"):  # who names a pipe wants it read
            raise ClozeError(f"{root}: expected a file, found a {kind}; give a JSON or JSONL file, or a folder of them")
        return [(root, _stem(root.name))]
    found, ignored = files_under(root, _SUFFIXES)
    if tally is not None:
        tally.ignored_files += map(str, ignored)
    if not found:
        raise ClozeError(f"{root}: expected a folder with .json or .jsonl files, found none; check the path")
    for file in found:
        if kind := special_kind(file):
            raise ClozeError(f"{file}: expected a file, found a {kind}; take it out of the folder")
    return [(file, _stem(file.relative_to(root).as_posix())) for file in found]


def _stem(name: str) -> str:
    return printable(name[: name.rfind(".", 0, -3 if name.lower().endswith(".gz") else None)])


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
                for number, line in enumerate(iter(lambda: lines.readline(LONGEST + 1), b""), 1):
                    source, problem = f"{file}, line {number}", None
                    if len(line) > LONGEST:
                        problem = PassageError(source, _TOO_LONG)
                        while line and not line.endswith(b"\n"):
                            line = lines.readline(LONGEST)
                    if problem or line.strip():
                        yield Record(source, f"{default_id}:{number}", line, problem, True)
        except UNREADABLE as error:
            yield Record(str(file), default_id, b"", _unreadable(str(file), error))


_TOO_LONG = f"expected a passage of at most {LONGEST >> 20} MB, found more"


def _unreadable(source: str, error: Exception) -> PassageError:
    return UnreadablePassageError(source, f"cannot be read ({error}); check the file")


def read_passages(
    paths: Iterable[PathLike], on_error: str = "stop", tally: Tally | None = None, marker: Marker | None = None
) -> Iterator[Passage]:
    """Yield the checked passages under *paths*, in order.

    Args:
        paths: files or folders
        on_error: ``stop`` raises at the first passage that does not fit, ``skip`` counts it in *tally*
        tally: filled with counts as passages are read
        marker: what stands for a blank; runs of underscores where it is not given

    Raises:
        PassageError: a passage does not fit and *on_error* is ``stop``
        ClozeError: a path holds nothing to read, or two passages share an id
    """
    tally = Tally() if tally is None else tally
    seen: dict[str, str] = {}
    for record in find_records([entry for path in paths for entry in find_files(path, tally)]):
        try:
            passage = parse_record(record, marker)
        except PassageError as error:
            tally.numbering.note(record, error)
            if on_error == "stop" and not isinstance(error, NoBlankError):
                raise
            tally.skipped.append((error.source, error.problem))
            continue
        check_unique_id(passage.id, passage.source, seen)
        tally.numbering.note(record, passage)
        tally.count(passage)
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


def parse_record(record: Record, marker: Marker | None = None) -> Passage:
    """Parse and check one record, whose blanks are what *marker* finds, or else runs of underscores.

    Raises:
        NoBlankError: the article has no blank
        PassageError: anything else that does not fit
    """
    source, data = record.source, record.data
    if record.error is not None:
        raise record.error
    try:
        if data is None:
            with open_file(Path(source)) as document:
                data = document.read(LONGEST + 1)
            if len(data) > LONGEST:
                raise PassageError(source, _TOO_LONG)
        fields = parse_json(data.rstrip() if record.is_line else data)
    except UNREADABLE as error:
        raise _unreadable(source, error) from error
    except NotJson as error:
        raise PassageError(source, f"{error}{_hint(error.rest, record.is_line)}") from error
    return Passage.from_json(fields, source, record.id, marker)


def _hint(rest: str | None, is_line: bool) -> str:
    """What to do about JSON that goes wrong with a text *rest*."""
    if rest is None:
        return ""
    if not is_line:
        return "; name the file .jsonl if it holds one passage per line" if rest.startswith("{") else ""
    if not rest.strip():
        return "; the line ends within a passage: name the file .json if it holds one passage over several lines"
    if rest.startswith(","):
        return "; take away the comma behind the passage, lines of JSONL have none between them"
    if rest.startswith("{"):
        return "; another passage begins in the line: end each with a line feed, a carriage return alone is none"
    return ""
