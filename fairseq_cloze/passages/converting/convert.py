"""Convert: files of any format that people have exams in become one JSONL file of passages.

What a file is, is told from its content.  What is not certain is refused, and what is left out is named.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ClozeError, PassageError, printable
from ...files import PathLike, cannot_write, check_stdin_once, is_stdin, replacing
from ..markers import Marker, compile_marker, mark_blanks
from ..passage import Passage
from ..reading import LONGEST, UNREADABLE, Tally, check_unique_id, files_under, open_file
from ..text import MARKED, UNDERSCORE
from . import moodle, tables
from .lines import Document, decode, text_document
from .others import refuse_others
from .records import Made, parse_columns
from .sheets import read_sheet
from .word import read_word

_SUFFIXES = (".txt", ".text", ".md", ".docx", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".gift", ".xml", ".parquet")
_PACKED = (".gz", ".xz")


@dataclass
class Conversion:
    """What was converted."""

    tally: Tally = field(default_factory=Tally)
    guesses: list[str] = field(default_factory=list)  #: what each file was taken for, with counts
    ignored: list[str] = field(default_factory=list)  #: files in folders that are of no such format

    def lines(self) -> list[str]:
        """For people."""
        other = f", {len(self.ignored):,} files of other kinds ignored" if self.ignored else ""
        skipped = [f"skipped {source}: {problem}" for source, problem in self.tally.skipped]
        return [*skipped, self.tally.summary() + other]


@dataclass(frozen=True)
class _Input:
    """A file, or a split of a data set, and the id of its first passage."""

    path: Path
    stem: str
    key: Path | None = None


@dataclass(frozen=True)
class Choices:
    """What the user says of the files."""

    source_format: str | None = None
    encoding: str | None = None
    blank: str | None = None
    columns: Sequence[str] = ()
    uneven: bool = False


NO_CHOICES = Choices()


def convert(
    inputs: Sequence[PathLike],
    out: PathLike,
    keys: Sequence[PathLike] = (),
    choices: Choices = NO_CHOICES,
    on_error: str = "stop",
    say: Callable[[str], None] = lambda line: None,
) -> Conversion:
    """Write the passages of files as JSONL, whole or not at all.

    Args:
        inputs: files, folders of them, data sets of Hugging Face, or ``-``
        out: file to write
        keys: a file of answers for each input, in order
        choices: what the user says of the files
        on_error: ``stop``, or ``skip`` files that do not fit
        say: told what each file was taken for

    Raises:
        ClozeError: a file that does not fit, or nothing to convert
    """
    result = Conversion()
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(out))
        try:
            with temporary.open("w", encoding="utf-8") as file:
                for fields, _ in load(inputs, keys, choices, on_error, result, say):
                    file.write(json.dumps(fields, ensure_ascii=False) + "\n")
        except OSError as error:
            raise cannot_write(out, error.strerror or str(error)) from error
        result.tally.require_passages(inputs)
    return result


def load(
    inputs: Sequence[PathLike],
    keys: Sequence[PathLike] = (),
    choices: Choices = NO_CHOICES,
    on_error: str = "stop",
    result: Conversion | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[dict[str, Any], Passage]]:
    """The passages of files, as JSON and checked; arguments are those of :func:`convert`."""
    result = Conversion() if result is None else result
    marker, chosen = compile_marker(choices.blank), parse_columns(choices.columns)
    check_stdin_once([*inputs, *keys])
    if keys and len(keys) != len(inputs):
        raise ClozeError(f"--key: expected one for each of {len(inputs)} inputs, in order, found {len(keys)}")
    seen: dict[str, str] = {}
    for place, given in enumerate(inputs):
        for each in _find(Path(given), result.ignored, Path(keys[place]) if keys else None):
            try:
                made = _read(each, choices, chosen)
                passages = [_check(entry, marker) for entry in made.passages]
            except PassageError as error:
                if on_error == "stop":
                    raise
                result.tally.skipped.append((error.source, error.problem))
                continue
            for fields, passage in passages:
                check_unique_id(passage.id, passage.source, seen)
                result.tally.count(passage)
                yield fields, passage
            for line in _guess(each, made, [passage for _, passage in passages]):
                result.guesses.append(line)
                say(line)


def _guess(given: _Input, made: Made, passages: Sequence[Passage]) -> list[str]:
    """What a file was taken for, with counts."""
    tally = Tally()
    for passage in passages:
        tally.count(passage)
    options = sum(len(candidates) for passage in passages for candidates in passage.candidates)
    counts = f"{tally.passages:,} passages, {tally.blanks:,} blanks, {options:,} options, {tally.labelled:,} answers"
    return [
        f"{printable(str(given.path))}: {counts}; read as {printable(made.guess)}",
        *(f"  {printable(note)}" for note in made.notes),
    ]


def _find(given: Path, others: list[str], key: Path | None) -> list[_Input]:
    if is_stdin(given):
        return [_Input(given, "stdin", key)]
    if not given.exists():
        raise ClozeError(
            f"{printable(str(given))}: no such file or folder; give a sheet, a table, a quiz or a data set, "
            "or a folder of them"
        )
    if not given.is_dir():
        return [_Input(given, _stem(given.name), key)]
    if tables.is_dataset(given):
        return [_Input(folder, name or given.name, key) for name, folder in tables.splits_of(given)]
    if key is not None:
        raise ClozeError(f"{printable(str(given))}: expected a file, as --key has answers for one, found a folder")
    found, ignored = files_under(given, tuple(suffix + packed for suffix in _SUFFIXES for packed in ("", *_PACKED)))
    others += map(str, ignored)
    if not found:
        raise ClozeError(f"{printable(str(given))}: expected a folder with {', '.join(_SUFFIXES)}, found none of them")
    return [_Input(file, _stem(file.relative_to(given).as_posix())) for file in found]


def _unpacked(name: str) -> str:
    """The name of a file without the suffix of what packs it."""
    for packed in _PACKED:
        name = name.removesuffix(packed)
    return name


def _stem(name: str) -> str:
    name = _unpacked(name)
    return printable(name[: name.rfind(".")] if "." in name.rsplit("/", 1)[-1][1:] else name)


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked; of ``-``, standard input.

    Raises:
        PassageError: it cannot be read, or is too long
    """
    try:
        if is_stdin(path):
            content: bytes = sys.stdin.buffer.read(LONGEST + 1)
        else:
            with open_file(path) as file:
                content = file.read(LONGEST + 1)
    except UNREADABLE as error:
        raise PassageError(str(path), f"cannot be read ({error}); check the file") from error
    if len(content) > LONGEST:
        raise PassageError(str(path), f"expected a file of at most {LONGEST >> 20} MB, found more; part it")
    return content


def _read(given: _Input, choices: Choices, chosen: Mapping[str, str]) -> Made:
    source, form = str(given.path), choices.source_format
    if given.path.is_dir():
        if form not in (None, "datasets"):
            raise PassageError(source, f"expected a file, as --from {form} says, found a folder")
        return tables.read_dataset(given.path, given.stem, chosen)
    content = read_bytes(given.path)
    refuse_others(content, source)
    suffix = os.path.splitext(_unpacked(given.path.name))[1].lower()
    if form == "datasets":
        raise PassageError(source, "expected a folder, as --from datasets says, found a file")
    if form == "parquet" or (form is None and content.startswith(b"PAR1")):
        return tables.read_parquet(content, source, given.stem, chosen)
    if form in (None, "sheet") and content.startswith(b"PK\x03\x04"):
        return _sheet(read_word(content, source), given, choices)
    text, note = decode(content, source, choices.encoding)
    form = form or guess_format(text, suffix)
    if given.key is not None and form != "sheet":
        raise PassageError(
            source, f"expected a sheet, as --key has its answers, found {form}; say --from sheet if it is one"
        )
    if form == "sheet":
        return _sheet(text_document(text, source, note), given, choices)
    made = _readers(form, suffix)(text, source, given.stem, chosen)
    if note:
        made.notes.append(note)
    return made


def _readers(form: str, suffix: str) -> Callable[[str, str, str, Mapping[str, str]], Made]:
    """What reads the text of a format."""
    lines = suffix in (".jsonl", ".ndjson")
    return {
        "table": tables.read_table,
        "json": lambda text, source, stem, chosen: tables.read_json(text.encode(), source, stem, chosen, lines or None),
        "cloze": lambda text, source, stem, chosen: moodle.read_cloze(text, source, stem),
        "gift": lambda text, source, stem, chosen: moodle.read_gift(text, source, stem),
        "xml": lambda text, source, stem, chosen: moodle.read_xml(text, source, stem),
    }[form]


def guess_format(text: str, suffix: str) -> str:
    """The format of a text, of :data:`..choices.FORMATS`, told from what is in it and from the suffix of its name."""
    start = text.lstrip()
    if suffix in (".json", ".jsonl", ".ndjson") or re.match(r'\{\s*"|\[\s*\{\s*"', start):
        return "json"
    if start.startswith(("<?xml", "<quiz")):
        return "xml"
    if moodle.CLOZE.search(text):
        return "cloze"
    if suffix == ".gift" or next(moodle.gaps(text), None):
        return "gift"
    if suffix in (".csv", ".tsv") or tables.fitting_delimiters(text):
        return "table"
    return "sheet"


def _sheet(document: Document, given: _Input, choices: Choices) -> Made:
    key = None
    if given.key is not None:
        content = read_bytes(given.key)
        refuse_others(content, str(given.key))
        if content.startswith(b"PK\x03\x04"):
            key = read_word(content, str(given.key))
        else:
            text, note = decode(content, str(given.key), choices.encoding)
            key = text_document(text, str(given.key), note)
    passages = read_sheet(document, key, choices.uneven)
    made = Made()
    for number, passage in enumerate(passages, 1):
        name = given.stem if len(passages) == 1 else f"{given.stem}:{number}"
        made.passages.append((f"{document.source}, {passage.line.place}", name, passage.to_json()))
    marks = " and ".join(f"{name} ('{shape}')" for name, shape in dict(passage.marks for passage in passages).items())
    shapes = " and ".join(dict.fromkeys(repr(passage.shape) for passage in passages))
    keyed = next((passage.keyed_by for passage in passages if passage.keyed_by), None)
    has_answers = any(index is not None for passage in passages for index in passage.right)
    answers = f"answers {keyed or 'beside the options'}" if has_answers else "no answers"
    made.guess = f"a sheet ({document.kind}): blanks {marks}, options lettered {shapes}, {answers}"
    parted = sum(passage.parted for passage in passages)
    if parted:
        made.notes.append(f"put a space between {parted} blanks and the letters that touched them")
    made.notes += document.notes + ([f"{key.source}: {note}" for note in key.notes] if key else [])
    return made


def _check(entry: tuple[str, str, dict[str, Any]], marker: Marker | None) -> tuple[dict[str, Any], Passage]:
    """A passage as it is written, which is as ``prepare`` reads it without options."""
    source, name, fields = entry
    if marker is not None and isinstance(fields.get("article"), str):
        marked = mark_blanks(fields["article"], marker)
        if UNDERSCORE in marked:
            raise PassageError(
                source, "expected a text without underscores beside its blanks, found one; take it out", "article"
            )
        fields = {**fields, "article": marked.replace(MARKED, "_")}
    passage = Passage.from_json(fields, source, name)
    return {"id": passage.id, **{key: value for key, value in fields.items() if key != "id"}}, passage
