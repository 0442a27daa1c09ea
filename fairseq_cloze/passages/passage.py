"""Passage: a text with blanks, candidates for each and, where labelled, gold; and what must hold of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from ..errors import NoBlankError, OneTooHighError, PassageError, printable
from .markers import Marker, likely_marker, mark_blanks
from .text import BLANK

#: Names of candidates by index, as many as a blank may have: A to Z, then AA, AB, ..., as spreadsheets count columns.
LETTERS = tuple(
    ("" if index < 26 else ascii_uppercase[index // 26 - 1]) + ascii_uppercase[index % 26] for index in range(127)
)
_INDICES = {letter: index for index, letter in enumerate(LETTERS)}
UNLABELLED = -1


def letters_of(count: int) -> str:
    """The letters of so many candidates, for messages."""
    last = LETTERS[count - 1]
    return f"A-{last}" if count <= 26 else "A-Z or AA" + (f"-{last}" if count > 27 else "")


@dataclass(frozen=True)
class Passage:
    """One checked passage."""

    id: str  #: name under which predictions are written
    source: str  #: file (and line) it came from, for messages
    article: str  #: the text as given, with what :data:`fairseq_cloze.passages.text.BLANK` finds for each blank
    candidates: tuple[tuple[str, ...], ...]  #: per blank the options, stripped, case kept
    gold: tuple[int, ...]  #: per blank the index of the right candidate, :data:`UNLABELLED` where it is not known
    ranks: tuple[tuple[float, ...], ...] | None = None  #: per blank how relevant each candidate is, higher is better
    lowest: int | None = None  #: lowest of the answers that were given as numbers

    @classmethod
    def from_json(cls, fields: Any, source: str, default_id: str, marker: Marker | None = None) -> Passage:
        """Check what a passage's JSON holds, see ``docs/formats.md``; *default_id* is for one without an ``id``.

        Blanks are what *marker* finds, or else runs of underscores.

        Raises:
            NoBlankError: the article has no blank
            PassageError: anything else that does not fit
        """
        if not isinstance(fields, Mapping):
            raise PassageError(
                source, f"expected a JSON object with 'article', 'options', 'answers', found {_show(fields)}"
            )
        article = fields.get("article")
        if not isinstance(article, str):
            raise PassageError(source, f"expected a string, found {_show(article)}", "article")
        _check_characters(source, article, "article")
        given_article, article = article, mark_blanks(article, marker)
        blanks = len(BLANK.findall(article))
        options, answers = fields.get("options"), fields.get("answers")
        if blanks == 0:
            if not options and not answers:
                raise NoBlankError(source, f"no blank: the article holds no {_name(marker, 'underscore')}")
            name, given = ("options", options) if options else ("answers", answers)
            expected = f"expected a blank, {_name(marker, 'a run of underscores')}, for what stands in '{name}'"
            hint = likely_marker(given_article, marker, len(given) if isinstance(given, list) else 0)
            raise PassageError(source, f"{expected}, found none{hint}", "article")
        if isinstance(options, list) and len(options) != blanks:
            hint = likely_marker(given_article, marker, len(options))
            raise PassageError(source, f"expected {_entries(blanks)}, found {len(options)}{hint}", "options")
        candidates = _check_options(source, options, blanks)
        ranks = _check_ranks(source, fields.get("ranks"), candidates)
        gold = _check_answers(source, answers, candidates, ranks)
        passage_id = fields.get("id", default_id)
        if type(passage_id) not in (str, int):
            raise PassageError(source, f"expected a string, found {_show(passage_id)}", "id")
        passage_id = str(passage_id)
        _check_characters(source, passage_id, "id")
        return cls(passage_id, source, article, candidates, gold, ranks, _lowest(answers))


def _name(marker: Marker | None, default: str) -> str:
    return default if marker is None else f"'{printable(marker.pattern)[:60]}'"


def _check_options(source: str, options: Any, blanks: int) -> tuple[tuple[str, ...], ...]:
    for number, choices in _per_blank(source, "options", options, blanks):
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            expected = f"expected a list of 2 to {len(LETTERS)} strings, found {_show_list(choices)}"
            raise PassageError(source, expected, "options", number)
        for choice in choices:
            if not isinstance(choice, str):
                raise PassageError(source, f"expected strings only, found {_show(choice)}", "options", number)
            _check_characters(source, choice, "options", number)
    return tuple(tuple(choice.strip() for choice in choices) for choices in options)


def _check_answers(
    source: str, answers: Any, candidates: Sequence[Sequence[str]], ranks: Sequence[Sequence[float]] | None
) -> tuple[int, ...]:
    best = [UNLABELLED] * len(candidates) if ranks is None else [rank.index(max(rank)) for rank in ranks]
    if answers is None or answers == []:
        return tuple(best)
    gold = []
    for number, answer in _per_blank(source, "answers", answers, len(candidates)):
        last = len(candidates[number - 1]) - 1
        index = answer if type(answer) is int else -1
        if isinstance(answer, str):
            index = _INDICES.get(answer.strip().upper(), -1)
        problem = None
        if not 0 <= index <= last:
            problem = (
                f"a letter {letters_of(last + 1)} or a number 0-{last} for {last + 1} options, found {_show(answer)}"
            )
        elif ranks is not None and ranks[number - 1][index] != max(ranks[number - 1]):
            problem = f"the candidate of the highest rank ({LETTERS[best[number - 1]]}), found {LETTERS[index]}"
        if type(answer) is int and answer == last + 1:
            problem = f"{problem}; numbers are counted from 0: if yours begin with 1, subtract 1 from each"
            error = OneTooHighError(source, f"expected {problem}", "answers", number)
            error.lowest = _lowest(answers) or 0
            raise error
        if problem:
            raise PassageError(source, f"expected {problem}", "answers", number)
        gold.append(index)
    return tuple(gold)


def _lowest(answers: Any) -> int | None:
    return min((answer for answer in answers or () if type(answer) is int), default=None)


def _check_ranks(source: str, ranks: Any, candidates: Sequence[Sequence[str]]) -> tuple[tuple[float, ...], ...] | None:
    if ranks is None:
        return None
    for number, rank in _per_blank(source, "ranks", ranks, len(candidates)):
        choices = len(candidates[number - 1])
        numbers = isinstance(rank, list) and all(type(value) in (int, float) and abs(value) < 1e6 for value in rank)
        if not numbers or len(rank) != choices:
            expected = f"expected {choices} finite numbers, one per option, found {_show(rank)}"
            raise PassageError(source, expected, "ranks", number)
    return tuple(tuple(float(value) for value in rank) for rank in ranks)


def _check_characters(source: str, text: str, name: str, number: int | None = None) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"half of a surrogate pair (\\u{ord(text[error.start]):04x})"
        raise PassageError(source, f"expected Unicode text, found {found}", name, number) from error


def _per_blank(source: str, name: str, value: Any, blanks: int) -> Iterator[tuple[int, Any]]:
    """The number and entry of each blank."""
    if not isinstance(value, list) or len(value) != blanks:
        raise PassageError(source, f"expected {_entries(blanks)}, found {_show_list(value)}", name)
    return enumerate(value, 1)


def _entries(blanks: int) -> str:
    each = "the blank" if blanks == 1 else f"each of the {blanks} blanks"
    return f"a list of {blanks}, one entry for {each} in 'article'"


def _show_list(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else _show(value)


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
