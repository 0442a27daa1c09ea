"""Ranking: from scores, ``float32 (blanks, candidates)``, to predictions, probabilities and metrics.

Of equal options the first stands for all: the others score ``-inf``, and gold is the index of the first.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: Fractions are summed as integers, in millionths.
MICRO = 10**6

#: What scores decide of :data:`COUNTS`; the others are known before there are any.
SCORED = ("n_correct", "n_one_token_correct", "n_multi_token_correct", "reciprocal_rank")

#: What metrics are made of: sums over labelled blanks, but for the second; reciprocal ranks and chances in millionths.
COUNTS = (
    *("n_blanks", "n_unlabelled", "n_correct"),
    *("n_one_token", "n_one_token_correct", "n_multi_token", "n_multi_token_correct"),
    *("reciprocal_rank", "chance"),
)

#: Metric → count, count that divides it, factor.  Accuracies and chance are percentages.
RATIOS = {
    "accuracy": ("n_correct", "n_blanks", 100.0),
    "chance": ("chance", "n_blanks", 100.0 / MICRO),
    "mrr": ("reciprocal_rank", "n_blanks", 1.0 / MICRO),
    "accuracy_one_token": ("n_one_token_correct", "n_one_token", 100.0),
    "accuracy_multi_token": ("n_multi_token_correct", "n_multi_token", 100.0),
}


def best_candidates(scores: Tensor) -> Tensor:
    """Index of the best candidate, the first of equals, ``int64 (blanks,)``."""
    best = scores.max(dim=1, keepdim=True).values
    return (scores == best).int().argmax(dim=1)


def reciprocal_ranks_and_hits(scores: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    """Reciprocal rank of gold in millionths, and whether it comes first.

    Of equal scores the first ranks first; gold whose score is no finite number comes last.

    Args:
        scores: of the candidates
        gold: index of the right candidate, -1 where unlabelled, ``int64 (blanks,)``

    Returns:
        ``int64 (blanks,)``, 0 where unlabelled, and ``bool (blanks,)``
    """
    labelled = gold >= 0
    index = gold.clamp(min=0)[:, None]
    right = scores.gather(1, index)
    order = torch.arange(scores.size(1), device=scores.device)
    before = (scores > right) | ((scores == right) & (order < index)) | (~right.isfinite() & (order != index))
    rank = 1 + before.sum(dim=1)
    reciprocal = torch.div(MICRO + rank // 2, rank, rounding_mode="floor")
    return torch.where(labelled, reciprocal, 0), labelled & (rank == 1)


def probabilities(scores: Tensor, first: Tensor, exists: Tensor) -> Tensor:
    """Probabilities of all candidates; equal options share theirs evenly.

    Args:
        scores: of the candidates
        first: index of the first candidate of the same text, ``int64 (blanks, candidates)``
        exists: ``bool (blanks, candidates)``

    Returns:
        ``float32 (blanks, candidates)``; rows sum to 1, 0 where a candidate does not exist
    """
    equals = torch.zeros_like(scores).scatter_add(1, first, exists.to(scores.dtype))
    share = scores.softmax(dim=1) / equals.clamp(min=1)
    return share.gather(1, first).masked_fill(~exists, 0.0)


def count_metrics(scores: Tensor, sample: Mapping[str, Any]) -> dict[str, int]:
    """What the metrics of a batch (see :mod:`fairseq_cloze.views.view`) are made of: :data:`COUNTS`."""
    counts = {**known_counts(sample), **dict(zip(SCORED, scored_counts(scores, sample).tolist()))}
    return {name: counts[name] for name in COUNTS}


def known_counts(sample: Mapping[str, Any]) -> dict[str, int]:
    """Those of :data:`COUNTS` that need no scores, of a batch that is no longer, or not yet, on another device."""
    labelled, multi = sample["gold"] >= 0, sample["multi_token"]
    chance = (sample["chance"] * MICRO).round().long().masked_fill(~labelled, 0)
    counts = {
        **{"n_blanks": labelled, "n_unlabelled": ~labelled},
        **{"n_one_token": labelled & ~multi, "n_multi_token": labelled & multi, "chance": chance},
    }
    return {name: int(count.sum()) for name, count in counts.items()}


def scored_counts(scores: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """:data:`SCORED` of a batch, ``int64 (4,)``, on its device, which nobody waits for."""
    multi = sample["multi_token"]
    reciprocal, hit = reciprocal_ranks_and_hits(scores, sample["gold"])
    return torch.stack([count.sum() for count in (hit, hit & ~multi, hit & multi, reciprocal)])


def metrics_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Metrics of sums of what :func:`count_metrics` returned; no number (NaN) where nothing was counted."""
    return {
        name: scale * counts[part] / counts[whole] if counts[whole] else float("nan")
        for name, (part, whole, scale) in RATIOS.items()
    }
