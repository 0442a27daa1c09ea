"""Ensemble: several checkpoints whose probabilities are averaged, and their weights in the average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ClozeError
from .scores import Scores

_ROUNDS = 1000  # at most, to fit weights
_PRECISION = 1e-6


def shares_of(weights: Sequence[float] | None, checkpoints: int) -> list[float]:
    """Weights that sum to 1, equal where none are given; ``ClozeError`` where they do not fit."""
    if weights is None:
        return [1.0 / checkpoints] * checkpoints
    if len(weights) != checkpoints:
        raise ClozeError(f"weights: expected one for each of {checkpoints} checkpoints, found {len(weights)}")
    total = math.fsum(weights)
    if min(weights) < 0 or not 0 < total < math.inf:
        raise ClozeError(
            f"weights: expected numbers from 0 on, one of them above, found {', '.join(map(str, weights))}"
        )
    return [weight / total for weight in weights]


def mix(parts: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Scores of one store by several checkpoints as one: the weighted average of their probabilities."""
    total = sum(weight * np.exp(part.log_probabilities.astype(np.float64)) for weight, part in zip(weights, parts))
    with np.errstate(divide="ignore"):
        raw = np.asarray(np.log(total), dtype=np.float32)
    counted = ("forwards", "tokens", "computed_tokens", "seconds")
    return Scores(raw, **{name: sum(getattr(part, name) for part in parts) for name in counted})


def fit_weights(log_probabilities: np.ndarray) -> list[float]:
    """A weight for each checkpoint that together make the right answers most probable; they sum to 1.

    Expectation maximisation for a mixture of fixed components: each weight becomes the mean share of its component in
    the answers' probability (Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
    1977).  The likelihood has one maximum.

    Args:
        log_probabilities: of the right answers by each checkpoint, ``float32 (checkpoints, blanks)``
    """
    likelihood = np.exp(log_probabilities.astype(np.float64) - log_probabilities.max(axis=0))
    weights = np.full(len(likelihood), 1.0 / len(likelihood))
    for _ in range(_ROUNDS):
        shares = weights[:, None] * likelihood
        updated = (shares / shares.sum(axis=0)).mean(axis=1)
        moved, weights = np.abs(updated - weights).max(), updated
        if moved < _PRECISION:
            break
    return weights.tolist()
