"""Passage: a text with blanks, candidates for each and, where labelled, gold; and what must hold of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import NoBlankError, PassageError
from .text import BLANK

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNLABELLED = -1


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

    @classmethod
    def from_json(cls, fields: Any, source: str, default_id: str) -> Passage:
        """Check what a passage's JSON holds, see ``docs/formats.md``.

        Args:
            fields: ``article``, ``options``, ``answers``, and optionally ``ranks`` and ``id``
            source: where it came from, for messages
            default_id: the id of a passage without an ``id``

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
        blanks = len(BLANK.findall(article))
        if blanks == 0:
            raise NoBlankError(source, "no blank: the article holds no underscore")
        candidates = _check_options(source, fields.get("options"), blanks)
        ranks = _check_ranks(source, fields.get("ranks"), candidates)
        gold = _check_answers(source, fields.get("answers"), candidates, ranks)
        passage_id = fields.get("id", default_id)
        if not isinstance(passage_id, (str, int)) or isinstance(passage_id, bool):
            raise PassageError(source, f"expected a string, found {_show(passage_id)}", "id")
        return cls(str(passage_id), source, article, candidates, gold, ranks)


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
