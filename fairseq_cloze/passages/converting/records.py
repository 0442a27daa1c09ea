"""Records: rows with named columns become passages: tables, JSON of other projects, and benchmarks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ...errors import PassageError, printable
from ...jsontext import NotJson, parse_json
from ..passage import LETTERS
from ..text import BLANK

_TEXTS = ("article", "text", "passage", "sentence", "question", "stem", "context", "ctx", "prompt", "cloze", "content")
_ANSWERS = (
    "answers",
    "answer",
    "label",
    "key",
    "gold",
    "correct",
    "correct_answer",
    "answerkey",
    "solution",
    "target",
    "right",
)
_IDS = ("id", "qid", "passage_id", "question_id", "name", "example_id", "uid", "guid")
_LISTS = ("options", "choices", "candidates", "endings", "alternatives")
_OPTION = re.compile(
    r"(?:(?:option|choice|opt|ending|answer|candidate|alternative|sol)[ _-]?)?([a-z]|\d{1,2})", re.IGNORECASE
)
_SEPARATORS = ("|", ";", "\n", "\t", " / ")


@dataclass(frozen=True)
class Columns:
    """Which column holds what."""

    text: tuple[str, ...]  #: parts of the text
    options: tuple[str, ...]  #: one per option, or one that holds the list of all
    answer: str | None = None
    id: str | None = None
    first: int | None = None  #: with which number answers begin, where the format says so
    is_ending: bool = False  #: whether the options end the text, which has no blank of its own
    name: str = "columns"  #: of the format

    def shown(self) -> str:
        """For people."""
        parts = {
            "text": " + ".join(self.text),
            "options": ", ".join(self.options),
            "answer": self.answer,
            "id": self.id,
        }
        return ", ".join(f"{name} = {value}" for name, value in parts.items() if value)


@dataclass(frozen=True)
class Row:
    """A record, and where it stands."""

    source: str
    fields: Mapping[str, Any]
    id: str  #: for one without an id


@dataclass
class Made:
    """What became of records."""

    passages: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  #: source, default id, fields
    guess: str = ""
    notes: list[str] = field(default_factory=list)


#: Formats that are known by their columns: what must be there, and what it means.
_KNOWN = (
    (
        "WinoGrande",
        ("sentence", "option1", "option2"),
        Columns(("sentence",), ("option1", "option2"), "answer", "qID", 1),
    ),
    (
        "SWAG",
        ("sent1", "sent2", "ending0", "ending1"),
        Columns(("sent1", "sent2"), ("ending0", "ending1", "ending2", "ending3"), "label", None, 0, True),
    ),
    ("HellaSwag", ("ctx", "endings"), Columns(("ctx",), ("endings",), "label", None, 0, True)),
)


def parse_columns(chosen: Sequence[str]) -> dict[str, str]:
    """What ``--column ROLE=NAME`` says, by role.

    Raises:
        PassageError: it says nothing
    """
    out: dict[str, str] = {}
    for text in chosen:
        role, equals, name = text.partition("=")
        if not equals or role not in ("text", "options", "answer", "id") or not name:
            raise PassageError(
                "--column", f"expected text=NAME, options=NAME,NAME,..., answer=NAME or id=NAME, found '{text[:60]}'"
            )
        out[role] = name
    return out


def find_columns(names: Sequence[str], chosen: Mapping[str, str], source: str) -> Columns:
    """Which column holds what, by its name; *chosen* ones are what the user says.

    Raises:
        PassageError: there is no text, or there are no options
    """
    for role, value in chosen.items():
        for name in value.split(",") if role == "options" else [value]:
            if name not in names:
                raise PassageError(
                    source, f"expected a column '{name}', as --column {role} says, found {_named(names)}"
                )
    for title, needed, columns in _KNOWN:
        if not chosen and set(needed) <= set(names) and not (title == "WinoGrande" and "option3" in names):
            kept = tuple(name for name in columns.options if name in names)
            answer, key = (name if name in names else None for name in (columns.answer, columns.id))
            return Columns(columns.text, kept, answer, key, columns.first, columns.is_ending, title)
    lower = {name.strip().lower(): name for name in reversed(names)}
    text = chosen.get("text") or _first(lower, _TEXTS)
    key = chosen.get("id") or _first(lower, _IDS)
    options: tuple[str, ...] = tuple(chosen["options"].split(",")) if "options" in chosen else ()
    if not options:
        one = _first(lower, _LISTS)
        options = (one,) if one else _numbered(names)
    answer = chosen.get("answer") or _first(lower, [name for name in _ANSWERS if lower.get(name) not in options])
    if text is None or not options:
        missing = "a text" if text is None else "options"
        raise PassageError(
            source,
            f"expected a column with {missing}, found {_named(names)}; say --column "
            f"{'text=NAME' if text is None else 'options=NAME,NAME,...'}",
        )
    firsts = [int(found[1]) for found in map(_OPTION.fullmatch, options) if found and found[1].isdigit()]
    return Columns((text,), options, answer, key, min(firsts) if len(firsts) > 1 and min(firsts) < 2 else None)


def _first(names: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Columns such as A, B, C or option1, option2."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if found := _OPTION.fullmatch(name.strip()):
            groups.setdefault(name.strip()[: found.start(1)].lower() + ("#" if found[1].isdigit() else "@"), []).append(
                name
            )
    best = max(groups.values(), key=len, default=[])
    return tuple(best) if len(best) > 1 else ()


def _named(names: Sequence[str]) -> str:
    return "the columns " + printable(", ".join(names))[:200]


def make_passages(rows: Sequence[Row], columns: Columns) -> Made:
    """Passages from records; rows of the same text, one after the other, are the blanks of one passage.

    Raises:
        PassageError: a row does not fit, or what its answers are is not certain
    """
    made, items = Made(), list[_Item]()
    separator = _separator(rows, columns)
    for text, group in groupby(rows, key=lambda row: _text(row, columns)):
        members = list(group)
        blanks = 1 if columns.is_ending else len(BLANK.findall(text))
        size = blanks if blanks > 1 and not _is_nested(members[0], columns) else 1
        if len(members) % max(size, 1):
            raise PassageError(
                members[0].source,
                f"expected {size} rows, one for each blank of the text, found {len(members)} with this text",
            )
        for start in range(0, len(members), max(size, 1)):
            items.append(
                _Item(text + " _" * columns.is_ending, members[start : start + max(size, 1)], columns, separator)
            )
    kind = _answer_kind(items, columns)
    for item in items:
        fields: dict[str, Any] = {"article": item.text, "options": item.options}
        most = max(map(len, item.options))
        if most > len(LETTERS):
            raise PassageError(item.rows[0].source, f"expected at most {len(LETTERS)} options, found {most}")
        answers = (
            [_as_index(value, options, kind) for value, options in zip(item.answers, item.options)] if kind else []
        )
        if answers:
            known = [answer for answer in answers if answer is not None]
            if 0 < len(known) < len(answers):
                raise PassageError(
                    item.rows[0].source, f"expected answers for all {len(answers)} blanks or none, found {len(known)}"
                )
            if known:
                fields["answers"] = [LETTERS[answer] for answer in known]
        ids = {str(row.fields.get(columns.id)) for row in item.rows} if columns.id else set()
        if len(ids) == 1 and ids != {"None"} and ids != {""}:
            fields["id"] = ids.pop()
        made.passages.append((item.rows[0].source, item.rows[0].id, fields))
    made.guess = f"{columns.name}: {columns.shown()}"
    if separator:
        made.guess += f"; options parted by {separator!r}"
    if kind:
        made.guess += f"; answers are {kind}"
    if columns.answer is None:
        made.notes.append("no column of answers: passages are unlabelled")
    return made


class _Item:
    """A passage to be: its rows, options and answers as given."""

    def __init__(self, text: str, rows: list[Row], columns: Columns, separator: str | None) -> None:
        self.text, self.rows = text, rows
        self.options: list[list[str]] = []
        self.answers: list[Any] = []
        for row in rows:
            options = _options(row, columns, separator)
            nested = bool(options) and isinstance(options[0], list)
            answer = row.fields.get(columns.answer) if columns.answer else None
            if isinstance(answer, str) and nested and answer.startswith("["):
                answer = _parsed(answer)
            self.options += options if nested else [options]
            if nested and isinstance(answer, list) and answer:
                answers = answer
            elif nested and len(options) == 1:
                answers = [answer]
            elif nested and answer not in (None, "", []):
                answers = list(re.findall(r"[A-Za-z]|\d+", str(answer)))
            else:
                answers = (
                    [None] * len(options)
                    if nested
                    else [answer[0] if isinstance(answer, list) and len(answer) == 1 else answer]
                )
            if nested and len(answers) != len(options):
                raise PassageError(
                    row.source, f"expected {len(options)} answers, one per blank, found {len(answers)}", columns.answer
                )
            self.answers += answers


def _text(row: Row, columns: Columns) -> str:
    parts = [row.fields.get(name) for name in columns.text]
    for name, part in zip(columns.text, parts):
        if not isinstance(part, str):
            raise PassageError(row.source, f"expected a text, found {printable(repr(part))[:60]}", name)
    return " ".join(part.strip() for part in parts if part) if len(parts) > 1 else parts[0] or ""


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except NotJson:
        return text


def _raw_options(row: Row, columns: Columns) -> Any:
    value = row.fields.get(columns.options[0])
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]
    return value


def _is_nested(row: Row, columns: Columns) -> bool:
    value = _raw_options(row, columns) if len(columns.options) == 1 else None
    return isinstance(value, list) and bool(value) and isinstance(value[0], (list, tuple))


def _options(row: Row, columns: Columns, separator: str | None) -> list[Any]:
    if len(columns.options) > 1:
        values = [row.fields.get(name) for name in columns.options]
        while len(values) > 2 and values[-1] in (None, ""):  # fewer options than other rows
            values.pop()
        for name, value in zip(columns.options, values):
            if value is None or value == "":
                raise PassageError(row.source, "expected an option, found nothing; write / where nothing goes", name)
        return [str(value) for value in values]
    value = _raw_options(row, columns)
    if isinstance(value, str) and separator:
        value = [part.strip() for part in value.split(separator)]
    if not isinstance(value, list) or len(value) < 1:
        raise PassageError(
            row.source, f"expected a list of options, found {printable(repr(value))[:60]}", columns.options[0]
        )
    return value


def _separator(rows: Sequence[Row], columns: Columns) -> str | None:
    """What parts options that stand in one column as text."""
    values = [_raw_options(row, columns) for row in rows] if len(columns.options) == 1 else []
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        return None
    fits = [separator for separator in _SEPARATORS if all(separator in text for text in texts)]
    if len(fits) != 1:
        found = "none" if not fits else " and ".join(map(repr, fits))
        place = next(row.source for row, value in zip(rows, values) if isinstance(value, str))
        raise PassageError(
            place,
            f"expected options parted by one of {' '.join(map(repr, _SEPARATORS))}, found {found} in all; "
            "give each option a column",
            columns.options[0],
        )
    return fits[0]


_KINDS: dict[str, Callable[[Any, Sequence[str]], int]] = {
    "letters": lambda value, options: LETTERS.index(str(value).strip().strip("().").upper()),
    "numbers from 0": lambda value, options: _whole(value),
    "numbers from 1": lambda value, options: _whole(value) - 1,
    "texts": lambda value, options: _place(str(value), options),
}


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    return int(value)


def _place(text: str, options: Sequence[str]) -> int:
    wanted = text.strip()
    if sum(str(option).strip() == wanted for option in options) != 1:
        raise ValueError
    return [str(option).strip() for option in options].index(wanted)


def _is_open(value: Any) -> bool:
    return value is None or value in ("", [], -1, "-1")


def _as_index(value: Any, options: Sequence[str], kind: str) -> int | None:
    """The index that an answer names, ``None`` where it names none."""
    if _is_open(value):
        return None
    index = _KINDS[kind](value, options)
    if not 0 <= index < len(options):
        raise ValueError
    return index


def _answer_kind(items: Sequence[_Item], columns: Columns) -> str | None:
    """What all answers are: the one kind that fits each of them, or several that say the same."""
    pairs = [
        (item, value, options)
        for item in items
        for value, options in zip(item.answers, item.options)
        if not _is_open(value)
    ]
    if not pairs:
        return None
    kinds = list[str](_KINDS)
    if columns.first is not None and all(re.fullmatch(r"\s*\d+\s*", str(value)) for _, value, _ in pairs):
        kinds = [f"numbers from {columns.first}"]
    fitting: dict[str, list[int | None]] = {}
    worst: tuple[int, _Item, Any, Sequence[str]] = (-1, *pairs[0])
    for kind in kinds:
        found = []
        for place, (item, value, options) in enumerate(pairs):
            try:
                found.append(_as_index(value, options, kind))
            except (ValueError, TypeError, IndexError):
                worst = max(worst, (place, item, value, options), key=lambda each: each[0])
                break
        else:
            fitting[kind] = found
    if not fitting:
        _, item, value, found_options = worst
        expected = kinds[0] if len(kinds) == 1 else "a letter, a number or the text"
        raise PassageError(
            item.rows[0].source,
            f"expected an answer that is {expected} of one of {len(found_options)} options, found "
            f"{printable(repr(value))[:60]}",
            columns.answer,
        )
    if len({tuple(found) for found in fitting.values()}) > 1:
        raise PassageError(
            pairs[0][0].rows[0].source,
            f"expected answers of one kind, found such as may be {' or '.join(fitting)}; write letters",
            columns.answer,
        )
    return next(iter(fitting))
