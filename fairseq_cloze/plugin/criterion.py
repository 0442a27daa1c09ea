"""Criterion: the ranking loss and the metrics.

Counts are summed as integers over batches and workers and divided once, at the end, so that every worker layout gives
the same accuracy and a checkpoint is selected on its exact value.

A training never waits for its metrics: what a batch tells before it is computed was counted when it was made, see
:meth:`fairseq_cloze.plugin.dataset.ClozeDataset.collater`; the rest stays on the device until :mod:`.sums` reads it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from ..model.losses import LOSSES, ranking_losses
from ..model.memory import COUNTED, OOM
from ..model.scores import candidate_scores
from ..ranking.metrics import COUNTS, RATIOS, scored_counts
from . import stopping
from .names import CRITERION_NAME, option
from .sums import SCORED, plain

_SUMMED = (*COUNTS, "ntokens", "computed_tokens")


@dataclass
class ClozeRankingCriterionConfig(FairseqDataclass):
    """Options of ``--criterion cloze_ranking``."""

    ranking_loss: ChoiceEnum(LOSSES) = option(  # type: ignore[valid-type]
        "softmax",
        "softmax: cross-entropy over the candidates; margin: hinge between gold and each other candidate; "
        "listnet: cross-entropy with the softmax of graded ranks; binary: each candidate right or wrong by itself",
    )
    ranking_margin: float = option(1.0, "margin of --ranking-loss margin")


@register_criterion(CRITERION_NAME, dataclass=ClozeRankingCriterionConfig)
class ClozeRankingCriterion(FairseqCriterion):
    """Loss over the candidates of each blank, in float32 and in nats; metrics per blank."""

    def __init__(self, task: Any, ranking_loss: str, ranking_margin: float) -> None:
        super().__init__(task)
        self.ranking_loss = str(getattr(ranking_loss, "value", ranking_loss))
        self.ranking_margin = ranking_margin
        self.settings = task.settings

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The sum of the losses of a batch's labelled blanks, their number, and counts for :meth:`reduce_metrics`.

        In training, what the scores decide is one tensor of the counts, see :mod:`.sums`.
        """
        scores = candidate_scores(model, sample, self.settings)
        losses = ranking_losses(scores, sample, self.ranking_loss, self.ranking_margin)
        loss = losses[sample["labelled"]].sum()
        known: dict[str, Any] = sample["known"]
        scored = torch.cat([loss.detach().double()[None], scored_counts(scores.detach(), sample).double()])
        log = {**known, stopping.TOLD: int(stopping.told()), SCORED: scored}
        return loss, known["sample_size"], log if self.training else plain([log])

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the sums over all workers."""
        total: dict[str, Any] = {"loss": 0.0, **dict.fromkeys((*_SUMMED, *COUNTED), 0), **plain(logging_outputs)}
        blanks = int(total["n_blanks"])
        metrics.log_scalar("loss", float(total["loss"]) / max(blanks, 1), blanks, priority=0)
        for key in _SUMMED:
            metrics.log_scalar_sum(_meter(key), int(total[key]), priority=60)
        for name, (part, whole, scale) in RATIOS.items():
            metrics.log_derived(name, _ratio(_meter(part), _meter(whole), scale), priority=10)
        for key in COUNTED:
            count = int(total[key])
            if count or key == OOM:
                metrics.log_scalar_sum(key, count, priority=600)
        metrics.log_derived("padding", _padding, priority=70)
        metrics.log_speed("bps", blanks, priority=80, round=1)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every value is a sum, so workers may add theirs before :meth:`reduce_metrics`."""
        return True


def _meter(count: str) -> str:
    """Name of the meter that sums a count; fairseq keeps names with an underscore out of the log."""
    return count if count == "n_blanks" else f"_{count}"


def _ratio(part: str, whole: str, scale: float) -> Any:
    def ratio(meters: Any) -> float:
        total = meters[whole].sum
        return float(scale * meters[part].sum / total) if total else float("nan")

    return ratio


def _padding(meters: Any) -> float:
    computed = meters["_computed_tokens"].sum
    return round(100.0 * float(computed - meters["_ntokens"].sum) / float(computed), 2) if computed else 0.0
