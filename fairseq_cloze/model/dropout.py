"""Dropout on a CPU that draws a quarter of a random number for each element, and drops by its bits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Probabilities are whole numbers of these parts: 15 bits decide about an element.
_PARTS = 1 << 15
#: Integers as large as an element, by its bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def dropout(x: Tensor, probability: float) -> Tensor:
    """*x* with elements set to 0 by that probability, the others scaled so that its mean stays.

    torch draws 32 bits for each element on a CPU, one after the other, which is a tenth of a training step; here 64
    bits are for four elements.  Elsewhere it is torch's.
    """
    dropped = round(probability * _PARTS)
    if x.device.type != "cpu" or not 0 < dropped < _PARTS or torch.compiler.is_compiling():
        return F.dropout(x, probability) if probability else x
    out: Tensor = _Dropout.apply(x, dropped)  # type: ignore[no-untyped-call]
    return out


class _Dropout(torch.autograd.Function):
    """An element and a mask of ones or zeros have an "and": torch's product with a bool makes it a number first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        drawn = drawn.view(torch.int16)[: x.numel()].view(x.shape)
        # 15 bits less as many numbers as are kept: negative for those, and the last shift fills all bits with the sign.
        # Inverted first, so that it is the lowest of the numbers drawn that are dropped.
        kept = drawn.bitwise_not_().bitwise_right_shift_(1).add_(dropped - _PARTS // 2).bitwise_right_shift_(15)
        ctx.save_for_backward(kept)
        ctx.scale = _PARTS / (_PARTS - dropped)
        return _and(x, kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [kept] = ctx.saved_tensors
        return _and(gradient, kept).mul_(ctx.scale), None


def _and(x: Tensor, kept: Tensor) -> Tensor:
    integers = _INTEGERS[x.element_size()]
    return (x.view(integers) & kept.to(integers)).view(x.dtype)
