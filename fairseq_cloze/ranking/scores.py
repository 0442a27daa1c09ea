"""Scores: of all blanks of a store, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.store import Store
from ..data.vocabulary import PAD
from ..views.view import Sample, blank_fields
from . import sharing
from .metrics import best_candidates, count_metrics, probabilities


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
