"""Scoring: a score per candidate, the same for training, validation and prediction.

Scores are ``float32 (blanks, candidates)``, higher is better, ``-inf`` where a candidate does not exist or repeats an
earlier one.  Softmax over a row gives the probabilities.
"""

from __future__ import annotations

from typing import Any, Dict

import torch
from torch import Tensor, nn

from .checkpoints import HEAD_NAME
from .vocabulary import PAD

Sample = Dict[str, Any]


def candidate_scores(model: nn.Module, sample: Sample, scorer: str = "lm") -> Tensor:
    """Score every candidate of a batch.

    ``joint``: mean over the candidate's tokens of their logits at the blank's one ``<mask>``.  With a softmax over the
    candidates that is the same as the mean log-probability, as the normaliser is common to all.

    ``full``, ``neighbors`` with ``lm``: mean log-probability of the filled-in tokens and of their neighbour on each
    side, as the LM head sees them in the filled text; the neighbours give the empty candidate a score too.

    ``full``, ``neighbors`` with ``head``: a ranking head on ``<s>``.

    Args:
        model: RoBERTa of fairseq, or :class:`fairseq_cloze.model.ClozeRobertaModel`
        sample: a batch of :meth:`fairseq_cloze.views.View.collate`
        scorer: ``lm`` or ``head``

    Returns:
        ``float32 (blanks, candidates)``
    """
    if "candidate_tokens" in sample["net_input"]:
        scores = _scores_at_mask(model, sample)
    else:
        by_row = _head_scores(model, sample) if scorer == "head" else _filled_scores(model, sample)
        scores = by_row[sample["row"].clamp(min=0)]
    return scores.masked_fill(~sample["distinct"], float("-inf"))


def _scores_at_mask(model: nn.Module, sample: Sample) -> Tensor:
    tokens = sample["net_input"]["candidate_tokens"]
    logits, _ = model(**sample["net_input"])
    if logits.dim() == 2:  # a plain RoBERTa projects to the whole vocabulary: (blanks, vocabulary)
        logits = logits.gather(1, tokens.flatten(1)).view_as(tokens)
    present = tokens.ne(PAD)
    total = logits.float().masked_fill(~present, 0.0).sum(dim=-1)
    return total / present.sum(dim=-1).clamp(min=1)


def _filled_scores(model: nn.Module, sample: Sample) -> Tensor:
    source = sample["net_input"]["src_tokens"]
    spans = sample["spans"]
    position = torch.arange(source.size(1), device=source.device)
    # One neighbour on each side; <s> and </s> where the text ends.
    scored = (position >= spans[:, :1] - 1) & (position <= spans[:, 1:])
    logits, _ = model(src_tokens=source, masked_tokens=scored)
    own = logits.float().log_softmax(dim=-1).gather(1, source[scored][:, None])[:, 0]
    total = torch.zeros(len(source), dtype=own.dtype, device=own.device)
    total = total.index_add(0, scored.nonzero()[:, 0], own)
    return total / scored.sum(dim=1)


def _head_scores(model: nn.Module, sample: Sample) -> Tensor:
    scores, _ = model(
        src_tokens=sample["net_input"]["src_tokens"], features_only=True, classification_head_name=HEAD_NAME
    )
    return scores[:, 0].float()
