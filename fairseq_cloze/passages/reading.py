"""Reading: passages from files: one JSON file per passage, a folder tree of them, or JSONL; each may be gzipped.

Standard input (``-``) and pipes without a suffix are JSONL.
"""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ClozeError, NoBlankError, OneTooHighError, PassageError, UnreadablePassageError, printable
from ..files import POINTER_IS, PathLike, check_stdin_once, is_pointer, is_stdin, special_kind
from ..jsontext import NotJson, parse_json
from .incoming import Incoming
from .markers import Marker
from .passage import UNLABELLED, Passage

_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
_SUFFIXES = (".json", ".json.gz", *_LINES)

_STDIN = "standard input"

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
    tell: Callable[[str, str], None] | None = None  #: told of what is skipped at once, instead of :attr:`skipped`
    told: int = 0
    ignored_files: list[str] = field(default_factory=list)
    numbering: Numbering = field(default_factory=Numbering)

    def summary(self) -> str:
        """One line with every count."""
        text = f"{self.passages:,} passages, {self.blanks:,} blanks"
        if self.labelled != self.blanks:
            text += f" ({self.blanks - self.labelled:,} unlabelled)"
        text += f", {len(self.skipped) + self.told:,} skipped"
        if self.ignored_files:
            text += f", {len(self.ignored_files):,} files that are not JSON or JSONL ignored"
        return text

    def count(self, passage: Passage, times: int = 1) -> None:
        """Count a passage."""
        self.passages += times
        self.blanks += times * len(passage.gold)
        self.labelled += times * sum(gold != UNLABELLED for gold in passage.gold)

    def skip(self, source: str, problem: str) -> None:
        """Count a passage that does not fit."""
        if self.tell is None:
            self.skipped.append((source, problem))
        else:
            self.told += 1
            self.tell(source, problem)

    def leave_out(self, passage: Passage, problem: str) -> None:
        """Count a passage as skipped that was counted before."""
        self.count(passage, -1)
        self.skip(printable(passage.source), problem)

    def require_passages(self, paths: Iterable[PathLike]) -> None:
        """Make sure that *paths* held something to work on.

        Raises:
            ClozeError: no passage with a blank
        """
        if not self.passages:
            skipped = "".join(f"; skipped {source}: {reason}" for source, reason in self.skipped[:1])
            raise ClozeError(
                f"{', '.join(map(_name, paths))}: expected passages with blanks, found none ({self.summary()}{skipped})"
            )


def _name(path: PathLike) -> str:
    return _STDIN if is_stdin(path) else os.fspath(path)


def find_files(path: PathLike, tally: Tally | None = None) -> list[tuple[Path, str]]:
    """List the passage files under *path* with their default passage ids, sorted by path.

    Raises:
        ClozeError: the path does not exist, holds no passage file, or is a file of another kind
    """
    root = Path(path)
    if is_stdin(root):
        return [(root, "stdin")]
    if _is_plain_pipe(root):
        return [(root, printable(root.name))]
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


def _is_plain_pipe(file: Path) -> bool:
    """Whether it is what a shell's ``<(command)`` stands for, or another pipe whose name says no format."""
    return not file.suffix and special_kind(file) == "pipe"


@contextmanager
def _lines_of(file: Path) -> Iterator[Any]:
    """The lines of JSONL: :class:`Incoming` where more may come later."""
    if is_stdin(file):
        yield Incoming(0, LONGEST + 1)
        return
    with open_file(file) as opened:
        packed = file.suffix.lower() in _OPENERS
        yield opened if packed or special_kind(file) is None else Incoming(opened.fileno(), LONGEST + 1)


def open_file(file: Path) -> Any:
    """Open a file to read its bytes, unpacked; one of :data:`UNREADABLE` where that is not possible."""
    if is_pointer(file):
        raise OSError(f"is {POINTER_IS}")
    return _OPENERS.get(file.suffix.lower(), open)(file, "rb")


def find_records(files: Iterable[tuple[Path, str]]) -> Iterator[Record]:
    """Yield the records of files with their default ids, in order; a document is left to :func:`parse_record` to read.

    A file that cannot be read becomes a record that says so.
    """
    return (record for record in _records(files, None) if record is not None)


def _records(files: Iterable[tuple[Path, str]], patience: float | None) -> Iterator[Record | None]:
    """As :func:`find_records`; with *patience* ``None`` where the next line has not come after so many seconds."""
    for file, default_id in files:
        is_stream = is_stdin(file) or _is_plain_pipe(file)
        if not is_stream and not file.name.lower().endswith(_LINES):
            yield Record(str(file), default_id, None)
            continue
        name = _name(file)
        try:
            with _lines_of(file) as lines:
                number = 0
                while True:
                    if patience is not None and isinstance(lines, Incoming) and not lines.is_there(patience):
                        yield None
                    line = lines.readline(LONGEST + 1)
                    if not line:
                        break
                    number += 1
                    source, problem = f"{name}, line {number}", None
                    if len(line) > LONGEST:
                        problem = PassageError(source, _TOO_LONG)
                        while line and not line.endswith(b"\n"):
                            line = lines.readline(LONGEST)
                    if problem or line.strip():
                        yield Record(source, f"{default_id}:{number}", line, problem, True)
        except UNREADABLE as error:
            yield Record(name, default_id, b"", _unreadable(name, error))


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
    return (passage for passage in _passages(list(paths), on_error, tally, marker, None, {}) if passage is not None)


def incoming_passages(
    paths: Iterable[PathLike],
    patience: float,
    on_error: str = "stop",
    tally: Tally | None = None,
    marker: Marker | None = None,
) -> Iterator[Passage | None]:
    """As :func:`read_passages`, for those who answer at once: ``None`` where the next line has not come in time.

    There is no end to a stream, so passages may share an id, and nothing is kept of them.

    Args:
        patience: seconds to wait for a line
        paths, on_error, tally, marker: as for :func:`read_passages`
    """
    return _passages(list(paths), on_error, Tally() if tally is None else tally, marker, patience, None)


def _passages(
    paths: Sequence[PathLike],
    on_error: str,
    tally: Tally,
    marker: Marker | None,
    patience: float | None,
    seen: dict[str, str] | None,
) -> Iterator[Passage | None]:
    check_stdin_once(paths)
    for record in _records([entry for path in paths for entry in find_files(path, tally)], patience):
        if record is None:
            yield None
            continue
        try:
            passage = parse_record(record, marker)
        except PassageError as error:
            tally.numbering.note(record, error)
            if on_error == "stop" and not isinstance(error, NoBlankError):
                raise
            tally.skip(error.source, error.problem)
            continue
        if seen is not None:
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
        raise PassageError(source, f"{error}{_hint(error.rest, record)}") from error
    return Passage.from_json(fields, source, record.id, marker)


def _hint(rest: str | None, record: Record) -> str:
    """What to do about JSON that goes wrong with a text *rest*."""
    if rest is None:
        return ""
    if not record.is_line:
        return "; name the file .jsonl if it holds one passage per line" if rest.startswith("{") else ""
    if not rest.strip() and not Path(record.path).suffix:
        return "; the line ends within a passage: write each passage in a line of its own"
    if not rest.strip():
        return "; the line ends within a passage: name the file .json if it holds one passage over several lines"
    if rest.startswith(","):
        return "; take away the comma behind the passage, lines of JSONL have none between them"
    if rest.startswith("{"):
        return "; another passage begins in the line: end each with a line feed, a carriage return alone is none"
    return ""
