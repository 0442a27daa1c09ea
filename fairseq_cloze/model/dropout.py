"""Dropout that draws a quarter of a random number for each element on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Probabilities are whole numbers of these parts: 16 bits decide about an element.
_PARTS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """*x* with elements set to 0 by that probability, the others scaled so that its mean stays.

    torch draws 32 bits for each element on a CPU, one after the other, which is a tenth of a training step; here 64
    bits are for four elements.  Elsewhere it is torch's.
    """
    dropped = round(probability * _PARTS)
    if x.device.type != "cpu" or not 0 < dropped < _PARTS or torch.compiler.is_compiling():
        return F.dropout(x, probability) if probability else x
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _PARTS // 2
    return (x * kept).mul_(_PARTS / (_PARTS - dropped))
