"""int8: linear layers of the encoder in 8-bit integers, for scoring on a CPU.

A weight becomes int8 once, with a scale for each output.  What goes in becomes uint8 at each call, with a scale for
each token, so what a token gets does not depend on what else is in the batch.  Products are sums of integers, exact;
everything else of the encoder stays in the type of what goes in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Instructions that multiply 8-bit integers: without one of them sums overflow, or are slow.
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")

#: The largest level of a weight or, around :data:`_ZERO`, of what goes in.
_LEVELS = 127

#: The level that stands for 0 in what goes in: oneDNN is fast for uint8 alone.
_ZERO = 128

#: Scale of what is all 0.
_SMALLEST = 1e-30


class Int8Weight:
    """The weight of a linear layer, ``(outputs, inputs)``, ready for :func:`products`; all of it must be finite."""

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=_SMALLEST) / _LEVELS
        levels = (weight / self.scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def to(self, dtype: torch.dtype) -> "Int8Weight":
        """Itself: asked as the float weights are, which are cast to the type of what goes in."""
        return self

    def times(self, levels: Tensor) -> Tensor:
        """The product with *levels*, ``uint8 (tokens, inputs)``, in units of them, ``float32 (tokens, outputs)``."""
        scales = (self.scales, self._zeros)
        how = (None, 1.0, 0, torch.float32, "none", [], "")
        out: Tensor = torch.ops.onednn.qlinear_pointwise(levels, 1.0, _ZERO, self._packed, *scales, *how)
        return out


def products(x: Tensor, weights: Sequence[Int8Weight], biases: Sequence[Any]) -> Tensor:
    """What linear layers make of *x*, ``(tokens, inputs)``, side by side, ``float32 (tokens, all outputs)``.

    Args:
        biases: float32, one for each weight; ``None`` where there is none
    """
    x = x.float()
    largest = torch.maximum(x.amax(dim=1, keepdim=True), -x.amin(dim=1, keepdim=True))
    scales = largest.clamp_(min=_SMALLEST) / _LEVELS
    levels = (x * scales.reciprocal()).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
    out = []
    for weight, bias in zip(weights, biases):
        product = weight.times(levels).mul_(scales)
        out.append(product if bias is None else product.add_(bias))
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def quantise(encoder: nn.Module) -> None:
    """Give every linear layer of the layers of an encoder an :class:`Int8Weight` for its weight, in place."""
    for layer in encoder.layers:
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                weight = Int8Weight(part.weight)
                del part.weight
                part.weight = weight
        layer.before_attention = _in_chunks(layer.before_attention, ATT())
        layer.after_attention = _in_chunks(layer.after_attention, torch.float32)

import os
def ATT(): return torch.bfloat16 if has_bfloat16() else torch.float32
CH=int(os.environ.get("CHUNK","256"))

def _in_chunks(function: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    """A function of tensors with a row per token, and of a rotation, computed for some tokens at a time.

    What lies between its steps stays in the cache then, and in memory that is used again.
    """

    def call(x: Tensor, *arguments: Any) -> Tensor:
        size = CH * torch.get_num_threads()

        def part(argument: Any, start: int) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            return argument.narrow(0 if len(argument) == len(x) else 1, start, min(size, len(x) - start))

        starts = range(0, len(x), size)
        parts = (function(*(part(each, start) for each in (x, *arguments))) for start in starts)
        return torch.cat([each.to(dtype) for each in parts])

    return call


def missing() -> str | None:
    """Why int8 is of no use on this machine, in words; ``None`` where it is."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    if any(known.get(name) for name in INSTRUCTIONS):
        return None
    return "this CPU has neither VNNI nor AMX" if known else "this torch does not tell what the CPU can do"


def has_bfloat16() -> bool:
    """Does the CPU multiply bfloat16 fast?"""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
