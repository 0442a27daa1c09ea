"""Optimizer: AdamW in one kernel over all parameters.

``--optimizer fused_adamw`` takes the options of fairseq's ``adam`` and computes the same updates: fairseq's is a loop
in Python over the parameters, unless NVIDIA apex is there.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor, nn

from .names import option
from .options import two_betas

OPTIMIZER_NAME = "fused_adamw"


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    """Options of ``--optimizer fused_adamw``, named as those of fairseq's ``adam``."""

    adam_betas: Any = option((0.9, 0.999), "decay of the two running means")
    adam_eps: float = option(1e-8, "added to the denominator")
    weight_decay: float = option(0.0, "decoupled weight decay, times the learning rate")
    lr: List[float] = II("optimization.lr")


@register_optimizer(OPTIMIZER_NAME, dataclass=FusedAdamWConfig)
class FusedAdamW(FairseqOptimizer):
    """AdamW of Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), fused.

    NVIDIA apex's ``FusedAdam`` on CUDA where apex is installed, else ``torch.optim.AdamW(fused=True)``.  Running means
    have the type of the parameters, so half precision needs float32 copies: ``--fp16``, ``--amp`` and ``--autocast``
    have them; fairseq refuses ``--memory-efficient-fp16``, for which its ``adam`` is made.
    """

    def __init__(self, cfg: FusedAdamWConfig, params: Any) -> None:
        super().__init__(cfg)
        params = list(params)
        on_cuda = any(parameter.is_cuda for parameter in params)
        if on_cuda and importlib.util.find_spec("apex") is not None:
            from apex.optimizers import FusedAdam

            self._optimizer = FusedAdam(params, adam_w_mode=True, **self.optimizer_config)
        else:
            self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """Keyword arguments of the optimizer, which override those of a checkpoint."""
        rate = self.cfg.lr
        return {
            "lr": float(rate[0] if hasattr(rate, "__getitem__") else rate),
            "betas": two_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """As fairseq's, in a few kernels rather than several per parameter, unless parameters are sharded.

        The norm is on the CPU: fairseq looks at it here, and again when the optimizer's step was queued, for which it
        would wait.
        """
        if aggregate_norm_fn is not None:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        gradients = [parameter.grad for parameter in self.params if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if max_norm:
            nn.utils.clip_grads_with_norm_(self.params, max_norm, norm)
        return norm.cpu()

    def multiply_grads(self, c: Any) -> None:
        """Multiply all gradients by a number or a tensor of one number."""
        gradients = [parameter.grad for parameter in self.params if parameter.grad is not None]
        factor = c.to(gradients[0].device) if isinstance(c, Tensor) and gradients else c
        torch._foreach_mul_(gradients, factor)

    supports_flat_params = True  # fairseq may lay all parameters into one tensor
