"""Losses: how wrong the scores of a blank's candidates are."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("softmax", "margin", "listnet", "binary")


def ranking_losses(scores: Tensor, sample: dict[str, Any], loss: str = "softmax", margin: float = 1.0) -> Tensor:
    """Loss of each blank; only those of labelled blanks mean anything.

    - ``softmax``: :math:`-\\log \\mathrm{softmax}(s)_{gold}`
    - ``margin``: mean over the other candidates :math:`c` of :math:`\\max(0, m - s_{gold} + s_c)`
    - ``listnet``: :math:`-\\sum_c \\mathrm{softmax}(r)_c \\log \\mathrm{softmax}(s)_c` for relevances :math:`r`, the
      top-one probabilities of Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach" (ICML 2007)
    - ``binary``: mean over the candidates :math:`c` of :math:`-\\log \\sigma(s_c)` for gold and
      :math:`-\\log(1 - \\sigma(s_c))` for the others, each filled text being right or wrong by itself: the pointwise
      loss of Nogueira & Cho, "Passage Re-ranking with BERT" (2019).  A score that is a log-probability, so below 0,
      leaves :math:`\\log 2` for gold at least

    Args:
        scores: ``float32 (blanks, candidates)``, ``-inf`` where there is no distinct candidate
        sample: the batch, for ``gold``, ``distinct`` and ``relevance``
    """
    distinct = sample["distinct"]
    gold = sample["gold"].clamp(min=0)
    if loss == "margin":
        right = scores.gather(1, gold[:, None])
        others = distinct.scatter(1, gold[:, None], False)
        hinge = (margin - right + scores.masked_fill(~others, 0.0)).clamp(min=0).masked_fill(~others, 0.0)
        return hinge.sum(dim=1) / others.sum(dim=1).clamp(min=1)
    if loss == "binary":
        target = torch.zeros_like(scores).scatter(1, gold[:, None], 1.0)
        logits = scores.masked_fill(~distinct, 0.0)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").masked_fill(~distinct, 0.0)
        return each.sum(dim=1) / distinct.sum(dim=1).clamp(min=1)
    log_probabilities = F.log_softmax(scores, dim=1)
    if loss == "listnet":
        target = sample["relevance"].float().masked_fill(~distinct, float("-inf")).softmax(dim=1)
        return -(target * log_probabilities.masked_fill(~distinct, 0.0)).sum(dim=1)
    return F.nll_loss(log_probabilities, gold, reduction="none")
