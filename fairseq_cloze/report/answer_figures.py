"""Answers of a report: what prediction files show, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..passages.passage import LETTERS
from ..ranking.answers import Predictions
from ..statistics import wilson_interval
from .texts import FileOfSet, PassageSet

JsonObject = dict[str, Any]


def count_right(predictions: Predictions) -> tuple[int, int, float | None]:
    """Right and labelled blanks, and what guessing gives in percent where the number of options is known."""
    right = blanks = 0
    chance: float | None = 0.0
    for prediction in predictions.values():
        for number, (answer, gold) in enumerate(zip(prediction.answers, prediction.gold)):
            if gold is None:
                continue
            blanks += 1
            right += answer == gold
            if prediction.probabilities is None:
                chance = None
            elif chance is not None:
                chance += 100.0 / len(prediction.probabilities[number])
    return right, blanks, chance / blanks if chance is not None and blanks else None


def set_figures(passages: PassageSet) -> JsonObject:
    """A set of passages with the answers of every file, as the page's script reads them.

    Per passage its id, its gold as letters (``-`` where unknown) and, where known, the text's segments and the
    candidates; per file and passage the answers as letters and the probabilities in thousandths.
    """
    entries: list[list[Any]] = []
    for passage_id, prediction in passages.predictions.items():
        text = passages.passages[passage_id] if passages.passages else None
        gold = "".join(letter or "-" for letter in prediction.gold)
        entries.append([passage_id, gold, *((text.segments, text.candidates) if text else ())])
    return {
        "name": passages.passages.name if passages.passages else passages.files[0].file.path.name,
        "texts": passages.passages is not None,
        "why_not": passages.why_not,
        "passages": entries,
        "files": [_answer_figures(one, list(passages.predictions)) for one in passages.files],
    }


def _answer_figures(one: FileOfSet, names: Sequence[str]) -> JsonObject:
    predictions = one.file.predictions
    right, blanks, _ = count_right(predictions)
    probabilities = None
    if all(each.probabilities is not None for each in predictions.values()):
        probabilities = [
            [[round(1000 * p) for p in row] for row in predictions[name].probabilities or ()] for name in names
        ]
    return {
        "run": one.run,
        "label": one.label,
        "file": str(one.file.path),
        "right": right,
        "blanks": blanks,
        "interval": [rounded(100.0 * bound) for bound in wilson_interval(right, blanks)] if blanks else None,
        "answers": ["".join(predictions[name].answers) for name in names],
        "probabilities": probabilities,
        "confusion": confusion(predictions),
        "calibration": None if probabilities is None else calibration(predictions),
        "breakdown": {
            grouping: {
                group: [rounded(row[name]) for name in ("accuracy", "interval_low", "interval_high", "n_blanks")]
                for group, row in groups.items()
            }
            for grouping, groups in one.breakdown.items()
        },
    }


def confusion(predictions: Predictions) -> list[list[int]]:
    """Labelled blanks by the letter of gold (rows) and of the answer (columns)."""
    pairs = [
        (LETTERS.index(gold), LETTERS.index(answer))
        for prediction in predictions.values()
        for gold, answer in zip(prediction.gold, prediction.answers)
        if gold is not None
    ]
    size = max((max(pair) + 1 for pair in pairs), default=0)
    table = [[0] * size for _ in range(size)]
    for gold_index, answer_index in pairs:
        table[gold_index][answer_index] += 1
    return table


def calibration(predictions: Predictions) -> list[list[float]]:
    """Mean probability of the answer and share that is right, in percent, and blanks, for each tenth with blanks."""
    sums = [[0.0, 0, 0] for _ in range(10)]
    for prediction in predictions.values():
        for answer, gold, row in zip(prediction.answers, prediction.gold, prediction.probabilities or ()):
            if gold is not None:
                probability = row[LETTERS.index(answer)]
                cell = sums[min(int(10 * probability), 9)]
                cell[0] += probability
                cell[1] += answer == gold
                cell[2] += 1
    return [[rounded(100 * p / n), rounded(100 * right / n), n] for p, right, n in sums if n]


def rounded(value: float) -> float:
    """A number with as many digits as a reader can use, so that the page stays small."""
    return float(f"{value:.5g}") if not isinstance(value, int) else value
