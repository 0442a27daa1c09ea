"""Ensemble: the average of several checkpoints' probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.store import Store
from ..data.vocabulary import Vocabulary
from ..errors import ClozeError
from ..files import PathLike
from ..passages.reading import UNLABELLED
from ..views.settings import PartialSettings
from . import sharing
from .answers import gold_of
from .ranker import Scorer, Scores, merge

_ROUNDS = 1000  # at most, to fit weights
_PRECISION = 1e-6


class Ensemble:
    """One or several checkpoints, each with a view and scorer of its own, that share a vocabulary.

    Args:
        checkpoints: at least one
        vocabulary: what the passages are encoded with; that of the first checkpoint where it is not given
        where: origin of *vocabulary*, for messages
        settings, device, fp16, bf16: see :class:`fairseq_cloze.ranking.ranker.Scorer`
        weights: one per checkpoint, not negative; equal where they are not given

    Raises:
        ClozeError: a checkpoint cannot be used, or the weights do not fit
    """

    def __init__(
        self,
        checkpoints: Sequence[PathLike],
        vocabulary: Vocabulary | None,
        where: str,
        settings: PartialSettings,
        device: str | None = None,
        fp16: bool = False,
        bf16: bool = False,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.weights = _check_weights(weights, len(checkpoints))
        self.scorers: list[Scorer] = []
        for checkpoint in checkpoints:
            scorer = Scorer(checkpoint, vocabulary, where, settings, device, fp16, bf16)
            if vocabulary is None:
                vocabulary, where = scorer.vocabulary, str(checkpoint)
            self.scorers.append(scorer)

    def score(
        self,
        store: Store,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        progress: Any | None = None,
    ) -> Scores:
        """Score every blank of a store with each checkpoint and average, see :meth:`Scorer.score`."""
        return self.score_stores([store], batch_size, max_tokens, progress)[0]

    def score_stores(
        self,
        stores: Sequence[Store],
        batch_size: int | None = None,
        max_tokens: int | None = None,
        progress: Any | None = None,
    ) -> list[Scores]:
        """As :meth:`score` for several stores; workers wait for each other once."""
        limits = (batch_size, max_tokens, progress)
        scored = merge([scorer.score_share(store, *limits) for store in stores for scorer in self.scorers])
        if len(self.scorers) == 1:
            return scored
        number = len(self.scorers)
        return [self._average(scored[first : first + number]) for first in range(0, len(scored), number)]

    def _average(self, scored: Sequence[Scores]) -> Scores:
        return Scores(
            average([scores.log_probabilities for scores in scored], self.weights),
            **{name: sum(getattr(scores, name) for scores in scored) for name in _COSTS},
        )

    def fit(
        self,
        store: Store,
        split: str,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        progress: Any | None = None,
    ) -> None:
        """Choose the weights that make the right answers of a split most probable, see :func:`fit`.

        Raises:
            ClozeError: the split has no labelled blank
        """
        gold = gold_of(store)
        labelled = np.flatnonzero(gold != UNLABELLED)
        if not len(labelled):
            raise ClozeError(f"split '{split}': expected labelled blanks to fit weights on, found none; name another")
        scored = merge([scorer.score_share(store, batch_size, max_tokens, progress) for scorer in self.scorers])
        right = [scores.log_probabilities[labelled, gold[labelled]] for scores in scored]
        self.weights = sharing.from_first(lambda: fit(np.stack(right)))


_COSTS = ("forwards", "tokens", "computed_tokens", "seconds")


def average(log_probabilities: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Logarithm of the weighted average of probabilities.

    Args:
        log_probabilities: of each checkpoint, ``float32 (blanks, candidates)``
        weights: their weights; they sum to 1

    Returns:
        ``float32 (blanks, candidates)``, ``-inf`` where all are
    """
    total = sum(weight * np.exp(scores.astype(np.float64)) for weight, scores in zip(weights, log_probabilities))
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total), dtype=np.float32)


def fit(log_probabilities: np.ndarray) -> list[float]:
    """Weights of a mixture that make the observed answers most probable.

    Expectation maximisation for the weights of a mixture whose components are fixed: each weight becomes the mean share
    of its component in the answers' probability, until none moves by a millionth (Dempster, Laird and Rubin, "Maximum
    Likelihood from Incomplete Data via the EM Algorithm", 1977).  The likelihood has one maximum.

    Args:
        log_probabilities: of the right answers by each checkpoint, ``float32 (checkpoints, blanks)``

    Returns:
        a weight for each checkpoint; they sum to 1
    """
    likelihood = np.exp(log_probabilities.astype(np.float64) - log_probabilities.max(axis=0))
    weights = np.full(len(likelihood), 1.0 / len(likelihood))
    for _ in range(_ROUNDS):
        shares = weights[:, None] * likelihood
        updated = (shares / shares.sum(axis=0)).mean(axis=1)
        moved = np.abs(updated - weights).max()
        weights = updated
        if moved < _PRECISION:
            break
    return [float(weight) for weight in weights]


def _check_weights(weights: Sequence[float] | None, checkpoints: int) -> list[float]:
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
