"""Answers of a report: what prediction files show, ready for JSON."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from ..passages.passage import LETTERS
from ..ranking.answers import Predictions
from ..statistics import wilson_interval
from .sources import PredictionFile
from .texts import PassageSet

JsonObject = dict[str, Any]


def _labelled(predictions: Predictions) -> Iterator[tuple[str, str, list[float] | None]]:
    """Gold, answer and probabilities of the blanks whose gold is known."""
    for one in predictions.values():
        for gold, answer, row in zip(one.gold, one.answers, one.probabilities or repeat(None)):
            if gold is not None:
                yield gold, answer, row


def count_right(predictions: Predictions) -> tuple[int, int, float | None]:
    """Right and labelled blanks, and what guessing gives in percent where the number of options is known."""
    labelled = list(_labelled(predictions))
    chances = [100.0 / len(row) for _, _, row in labelled if row is not None]
    chance = sum(chances) / len(chances) if chances and len(chances) == len(labelled) else None
    return sum(gold == answer for gold, answer, _ in labelled), len(labelled), chance


def set_figures(passages: PassageSet) -> JsonObject:
    """A set of passages with the answers of every file, as the page's script reads them.

    Per passage its id, its gold as letters (``-`` where unknown) and, where known, the text's segments and the
    candidates; per file and passage the answers as letters and the probabilities in thousandths.  Letters are one
    string, or a list where one is longer than one character.
    """
    entries: list[list[Any]] = []
    for passage_id, prediction in passages.predictions.items():
        text = passages.passages[passage_id] if passages.passages else None
        gold = _packed([letter or "-" for letter in prediction.gold])
        entries.append([passage_id, gold, *((text.segments, text.candidates) if text else ())])
    return {
        "name": passages.passages.name if passages.passages else passages.files[0].path.name,
        "texts": passages.passages is not None,
        "why_not": passages.why_not,
        "passages": entries,
        "files": [_answer_figures(one, list(passages.predictions)) for one in passages.files],
    }


def _answer_figures(one: PredictionFile, names: Sequence[str]) -> JsonObject:
    predictions = one.predictions
    right, blanks, _ = count_right(predictions)
    rows = [predictions[name].probabilities for name in names]
    probabilities = [[[round(1000 * p) for p in row] for row in passage] for passage in rows if passage is not None]
    complete = len(probabilities) == len(rows)
    return {
        "run": one.run,
        "label": one.label,
        "file": str(one.path),
        "right": right,
        "blanks": blanks,
        "interval": [rounded(100.0 * bound) for bound in wilson_interval(right, blanks)] if blanks else None,
        "answers": [_packed(predictions[name].answers) for name in names],
        "probabilities": probabilities if complete else None,
        "confusion": confusion(predictions),
        "calibration": calibration(predictions) if complete else None,
        "breakdown": {
            grouping: {
                group: [rounded(row[name]) for name in ("accuracy", "interval_low", "interval_high", "n_blanks")]
                for group, row in groups.items()
            }
            for grouping, groups in one.breakdown.items()
        },
    }


def _packed(letters: list[str]) -> str | list[str]:
    packed = "".join(letters)
    return packed if len(packed) == len(letters) else letters


def confusion(predictions: Predictions) -> list[list[int]]:
    """Labelled blanks by the letter of gold (rows) and of the answer (columns)."""
    pairs = [(LETTERS.index(gold), LETTERS.index(answer)) for gold, answer, _ in _labelled(predictions)]
    size = max((max(pair) + 1 for pair in pairs), default=0)
    table = [[0] * size for _ in range(size)]
    for gold_index, answer_index in pairs:
        table[gold_index][answer_index] += 1
    return table


def calibration(predictions: Predictions) -> list[list[float]]:
    """Mean probability of the answer and share that is right, in percent, and blanks, for each tenth with blanks."""
    tenths: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for gold, answer, row in _labelled(predictions):
        probability = row[LETTERS.index(answer)] if row else 0.0
        tenths[min(int(10 * probability), 9)].append((probability, gold == answer))
    sums = [(sum(p for p, _ in tenth), sum(right for _, right in tenth), len(tenth)) for tenth in tenths]
    return [[rounded(100 * p / n), rounded(100 * right / n), n] for p, right, n in sums if n]


def rounded(value: float) -> float:
    """A number with as many digits as a reader can use, so that the page stays small."""
    return float(f"{value:.5g}") if not isinstance(value, int) else value
