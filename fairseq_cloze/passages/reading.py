"""Passages: reading them from files and checking them.

A passage is an English text with blanks, some candidates for each blank, and (where labelled) the gold candidate.
Input is one JSON file per passage, a folder tree of them, or JSONL; each may be gzipped.  The fields are ``article``,
``options``, ``answers``, and optionally ``ranks`` and ``id``; ``docs/formats.md`` has the whole description.
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
from .text import BLANK

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNLABELLED = -1

_JSON_SUFFIXES = (".json", ".json.gz")
_JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


@dataclass(frozen=True)
class Passage:
    """One checked passage.

    Attributes:
        id: name under which predictions are written
        source: file (and line) it came from, for messages
        article: the text as given, with one run of underscores per blank
        candidates: per blank the options, stripped, case kept
        gold: per blank the index of the right candidate, :data:`UNLABELLED` where it is not known
        ranks: per blank the graded relevance of each candidate (higher is better), or ``None``
    """

    id: str
    source: str
    article: str
    candidates: tuple[tuple[str, ...], ...]
    gold: tuple[int, ...]
    ranks: tuple[tuple[float, ...], ...] | None = None


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


# -- checking one passage --------------------------------------------------------------------------------------------


def parse_record(record: Record) -> Passage:
    """Parse and check one record.

    Raises:
        NoBlankError: the article has no blank
        PassageError: anything else that does not fit
    """
    source = record.source
    if record.problem is not None:
        raise PassageError(source, record.problem)
    fields = _load_json(record)
    article = fields.get("article")
    if not isinstance(article, str):
        raise PassageError(source, f"expected a string, found {_show(article)}", "article")
    _check_characters(source, article, "article")
    blanks = len(BLANK.findall(article))
    if blanks == 0:
        raise NoBlankError(source, "no blank: the article holds no underscore")
    candidates = _check_options(source, fields.get("options"), blanks)
    ranks = _check_ranks(source, fields.get("ranks"), candidates)
    gold = _check_answers(source, fields.get("answers"), candidates, ranks)
    passage_id = fields.get("id", record.id)
    if not isinstance(passage_id, (str, int)) or isinstance(passage_id, bool):
        raise PassageError(source, f"expected a string, found {_show(passage_id)}", "id")
    return Passage(str(passage_id), source, article, candidates, gold, ranks)


def _load_json(record: Record) -> dict[str, Any]:
    try:
        fields = json.loads(record.data.decode("utf-8-sig"))
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
    if not isinstance(fields, dict):
        raise PassageError(
            record.source, f"expected a JSON object with 'article', 'options', 'answers', found {_show(fields)}"
        )
    return fields


def _check_options(source: str, options: Any, blanks: int) -> tuple[tuple[str, ...], ...]:
    _check_per_blank(source, "options", options, blanks)
    checked = []
    for number, choices in enumerate(options, 1):
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            found = f"{len(choices)}" if isinstance(choices, list) else _show(choices)
            raise PassageError(
                source, f"expected a list of 2 to {len(LETTERS)} strings, found {found}", "options", number
            )
        for choice in choices:
            if not isinstance(choice, str):
                raise PassageError(source, f"expected strings only, found {_show(choice)}", "options", number)
            _check_characters(source, choice, "options", number)
        checked.append(tuple(choice.strip() for choice in choices))
    return tuple(checked)


def _check_answers(
    source: str,
    answers: Any,
    candidates: Sequence[Sequence[str]],
    ranks: Sequence[Sequence[float]] | None,
) -> tuple[int, ...]:
    if answers is None or answers == []:
        if ranks is None:
            return (UNLABELLED,) * len(candidates)
        return tuple(rank.index(max(rank)) for rank in ranks)
    _check_per_blank(source, "answers", answers, len(candidates))
    gold = []
    for number, (answer, choices) in enumerate(zip(answers, candidates), 1):
        index = -1
        if isinstance(answer, str) and len(answer.strip()) == 1:
            index = LETTERS.find(answer.strip().upper())
        elif isinstance(answer, int) and not isinstance(answer, bool):
            index = answer
        if not 0 <= index < len(choices):
            raise PassageError(
                source,
                f"expected a letter A-{LETTERS[len(choices) - 1]} or a number 0-{len(choices) - 1} "
                f"for {len(choices)} options, found {_show(answer)}",
                "answers",
                number,
            )
        if ranks is not None and ranks[number - 1][index] != max(ranks[number - 1]):
            best = LETTERS[ranks[number - 1].index(max(ranks[number - 1]))]
            raise PassageError(
                source,
                f"expected the candidate of the highest rank ({best}), found {LETTERS[index]}",
                "answers",
                number,
            )
        gold.append(index)
    return tuple(gold)


def _check_ranks(source: str, ranks: Any, candidates: Sequence[Sequence[str]]) -> tuple[tuple[float, ...], ...] | None:
    if ranks is None:
        return None
    _check_per_blank(source, "ranks", ranks, len(candidates))
    for number, (rank, choices) in enumerate(zip(ranks, candidates), 1):
        numbers = isinstance(rank, list) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6 for value in rank
        )
        if not numbers or len(rank) != len(choices):
            raise PassageError(
                source, f"expected {len(choices)} finite numbers, one per option, found {_show(rank)}", "ranks", number
            )
    return tuple(tuple(float(value) for value in rank) for rank in ranks)


def _check_characters(source: str, text: str, name: str, number: int | None = None) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"\\u{ord(text[error.start]):04x}"
        raise PassageError(
            source, f"expected Unicode text, found half of a surrogate pair ({code})", name, number
        ) from error


def _check_per_blank(source: str, name: str, value: Any, blanks: int) -> None:
    if not isinstance(value, list) or len(value) != blanks:
        found = f"{len(value)}" if isinstance(value, list) else _show(value)
        each = "the blank" if blanks == 1 else f"each of the {blanks} blanks"
        raise PassageError(
            source, f"expected a list of {blanks}, one entry for {each} in 'article', found {found}", name
        )


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
