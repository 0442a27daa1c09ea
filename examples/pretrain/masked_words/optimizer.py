"""Optimizer: Muon for the matrices inside layers, AdamW for the rest.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with updates as large as AdamW's, so
that one learning rate serves both (J. Liu et al., "Muon is scalable for LLM training", 2025).
"""

from dataclasses import dataclass
from typing import Any, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from fairseq_cloze.plugin.names import option
from fairseq_cloze.plugin.options import two_betas

#: Attribute of parameters that are matrices inside layers.
INNER = "is_inner"


@dataclass
class MuonConfig(FairseqDataclass):
    """Options of ``--optimizer muon``; those of AdamW are named as those of fairseq's ``adam``."""

    momentum: float = option(0.95, "of Muon")
    adam_betas: Any = option((0.9, 0.98), "decay of AdamW's two running means")
    adam_eps: float = option(1e-6, "added to AdamW's denominator")
    weight_decay: float = option(0.01, "decoupled weight decay, times the learning rate")
    lr: List[float] = II("optimization.lr")


@register_optimizer("muon", dataclass=MuonConfig)
class Muon(FairseqOptimizer):
    """Both, as one optimizer of fairseq."""

    def __init__(self, cfg: MuonConfig, params: Any) -> None:
        super().__init__(cfg)
        params = list(params)
        inner = [parameter for parameter in params if getattr(parameter, INNER, False)]
        rest = [parameter for parameter in params if not getattr(parameter, INNER, False)]
        if not inner:
            raise ValueError("--optimizer muon: expected matrices inside layers, found none; --fp16 hides them")
        both = self.optimizer_config
        self._optimizer = _Both(
            torch.optim.Muon(inner, momentum=cfg.momentum, adjust_lr_fn="match_rms_adamw", **both),
            torch.optim.AdamW(rest, betas=two_betas(cfg.adam_betas), eps=cfg.adam_eps, fused=True, **both),
        )

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Of both; overrides what a checkpoint has."""
        return {"lr": float(self.cfg.lr[0]), "weight_decay": self.cfg.weight_decay}


class _Both(torch.optim.Optimizer):
    """Two optimizers as one, which has their groups of parameters."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # they have new ones now
