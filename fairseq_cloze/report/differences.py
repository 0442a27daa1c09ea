"""Differences of a report: which answers are better than which, and may it be luck?"""

from collections.abc import Sequence
from itertools import combinations

from ..ranking.answers import Predictions
from ..ranking.compare import Comparison, compare_predictions
from .answer_figures import JsonObject, rounded
from .sources import PredictionFile

MOST = 12  #: files that are compared, each with each


def differences(files: Sequence[PredictionFile]) -> list[JsonObject]:
    """Each pair of the first :data:`MOST` files, an earlier one and a later one, on the blanks that both answered."""
    return [
        {
            "a": {"run": a.run, "label": a.label},
            "b": {"run": b.run, "label": b.label},
            "blanks": found.n_blanks,
            "passages": found.n_passages,
            **{name: rounded(getattr(found, name)) for name in ("difference", "interval_low", "interval_high")},
            "p": rounded(found.p_passages),
            "verdict": _verdict(found),
        }
        for a, b in combinations(files[:MOST], 2)
        if (found := compared(a.predictions, b.predictions)) is not None
    ]


def compared(first: Predictions, second: Predictions) -> Comparison | None:
    """Second against first on the passages of both; ``None`` where none is labelled, or one is not the same."""
    common = [key for key in first if key in second]
    if any(first[key].gold != second[key].gold for key in common):
        return None
    if not any(letter for key in common for letter in first[key].gold):
        return None
    mine, theirs = (Predictions({key: each[key] for key in common}) for each in (first, second))
    return compare_predictions("", mine, "", theirs)


def _verdict(found: Comparison) -> str:
    if found.only_a == found.only_b:
        return "same"
    if found.may_be_luck:
        return "luck"
    return "better" if found.only_b > found.only_a else "worse"
