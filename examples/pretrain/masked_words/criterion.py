"""Criterion: cross-entropy at each mask, the mean over the tokens of the word it stands for.

That is what candidates are scored by, see the scorer ``mean``.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics


@register_criterion("masked_words")
class MaskedWordsCriterion(FairseqCriterion):
    """Nats per mask to learn from, bits per mask to read."""

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Any, int, dict[str, Any]]:
        """Loss summed over masks, their number, and what is logged."""
        logits = model(**sample["net_input"])[0]
        losses = F.cross_entropy(logits.float()[sample["masks"]], sample["target"], reduction="none")
        loss = losses @ sample["weights"]
        numbers = {name: sample[name] for name in ("ntokens", "nsentences")}
        return loss, sample["n_masks"], {"loss": loss.data, "sample_size": sample["n_masks"], **numbers}

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Bits per mask."""
        masks = sum(log.get("sample_size", 0) for log in logging_outputs)
        bits = sum(log.get("loss", 0) for log in logging_outputs) / masks / math.log(2)
        metrics.log_scalar("loss", bits, masks, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """They are sums."""
        return True
