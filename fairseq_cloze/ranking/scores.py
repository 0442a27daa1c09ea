"""Scores: of all blanks of a store, by one checkpoint or several whose probabilities are averaged; what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import PAD
from ..errors import ClozeError
from ..views.view import Sample, blank_fields
from . import sharing
from .metrics import best_candidates, count_metrics, probabilities

_ROUNDS = 1000  # at most, to fit weights
_PRECISION = 1e-6


@dataclass
class Scores:
    """Scores of all blanks of one store."""

    #: As the model gives them, higher is better, of several checkpoints the logarithm of the averaged probability;
    #: ``-inf`` where there is no candidate or it repeats an earlier one; ``float32 (blanks, candidates)``.
    raw: np.ndarray
    forwards: int = 0  #: rows of input
    tokens: int = 0  #: computed tokens that are not padding
    computed_tokens: int = 0
    seconds: float = 0.0  #: wall time of scoring; of the slowest worker where several share it
    scored: list[np.ndarray] = field(default_factory=list)  #: blanks that this worker has scored, batch by batch

    @classmethod
    def empty(cls, store: Store) -> Scores:
        """Of a store that is still to be scored."""
        width = int(np.diff(store.candidate_offsets).max(initial=1))
        return cls(np.full((store.blanks, width), -np.inf, dtype=np.float32))

    @property
    def log_probabilities(self) -> np.ndarray:
        """Softmax of a blank's scores, as logarithms, ``float32 (blanks, candidates)``."""
        out: np.ndarray = torch.from_numpy(self.raw).log_softmax(dim=1).numpy()
        return out

    def add(self, sample: Sample) -> None:
        """Count the input of a batch."""
        source = sample["net_input"]["src_tokens"]
        self.forwards += len(source)
        self.tokens += int(source.ne(PAD).sum())
        self.computed_tokens += source.numel()


def merge(shares: list[Scores]) -> list[Scores]:
    """Put the shares of all workers together, each of some stores."""
    if sharing.size() == 1:
        return shares
    sent = []
    for share in shares:
        blanks = np.concatenate([np.empty(0, np.int64), *share.scored])
        sent.append((blanks, share.raw[blanks], share.forwards, share.tokens, share.computed_tokens, share.seconds))
    for out, *parts in zip(shares, *sharing.everybodys(sent)):
        places, raw, forwards, tokens, computed_tokens, seconds = zip(*parts)
        out.raw[np.concatenate(places)] = np.concatenate(raw)
        out.forwards, out.tokens, out.computed_tokens = sum(forwards), sum(tokens), sum(computed_tokens)
        out.seconds = max(seconds)
    return shares


class Outcome:
    """What the scores of a store say.

    Attributes:
        best: index of the best candidate, the first of equals, ``int64 (blanks,)``
        probabilities: of each candidate, 0 where there is none; equal ones share theirs,
            ``float32 (blanks, candidates)``
        counts: sums of :data:`fairseq_cloze.ranking.metrics.COUNTS`
    """

    def __init__(self, scores: Scores, store: Store) -> None:
        values = torch.from_numpy(scores.log_probabilities)
        fields = blank_fields(store, np.arange(store.blanks))
        self.best: np.ndarray = best_candidates(values).numpy()
        self.probabilities: np.ndarray = probabilities(values, fields["first"], fields["exists"]).numpy()
        self.counts: dict[str, int] = count_metrics(values, fields)


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
