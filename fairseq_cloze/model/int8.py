"""int8: the encoder's layers with weights in 8-bit integers, for scoring on a CPU.

A weight becomes int8 once, with a scale for each output.  What goes into a product becomes 8-bit levels at each call,
between the smallest and the largest number of each token, so what a token gets does not depend on what else is in the
batch.  Sums of products of levels are exact.  Everything else is float32; attention is bfloat16 where the CPU has it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import BFLOAT16, INT8, capabilities, has_any
from .memory import make_sure_of_room

#: oneDNN's operators in torch, which promises neither that they are there nor that they stay.
_OPERATORS = ("qlinear_prepack", "qlinear_pointwise")

#: Largest level of a weight, and of what goes in, to both sides of 0.
_LEVELS = 127

#: What stands for level 0 of what goes in: oneDNN is fast for uint8 there, and slow for int8.
_ZERO = 128

#: Least largest number, for what is all alike.
_SMALLEST = 1e-30

#: Tokens that are computed at a time, for each thread.
_CHUNK = 512


class Int8Weight:
    """The weight of a linear layer, ``(outputs, inputs)``, all of it finite, ready for :func:`products`."""

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float()
        self._scales = weight.abs().amax(dim=1).clamp(min=_SMALLEST) / _LEVELS
        levels = (weight / self._scales[:, None]).round()
        self.sums = (levels.sum(dim=1) * self._scales)[None]  #: over all inputs, ``float32 (1, outputs)``
        self._packed = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)

    def times(self, x: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The product with *x*, ``(tokens, inputs)``, bias added, as *activation* makes it, ``(tokens, outputs)``."""
        [out] = products(x, [self], [bias])
        if activation is F.gelu:
            torch.ops.aten.gelu_(out)
            return out
        return out if activation is None else activation(out)

    def added(self, x: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """The product with *x*, which may be overwritten, bias and *other*, ``(tokens, outputs)``, added."""
        [out] = products(x, [self], [bias], overwritten=True)
        return out.add_(other)

    def of_levels(self, levels: Tensor) -> Tensor:
        """The product with *levels*, ``uint8 (tokens, inputs)`` around 128, ``float32 (tokens, outputs)``."""
        make_sure_of_room(levels)
        weight = (self._packed, self._scales, self._zeros)
        plain: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # no bias, float32, nothing afterwards
        out: Tensor = torch.ops.onednn.qlinear_pointwise(levels, 1.0, _ZERO, *weight, *plain)
        return out


def products(
    x: Tensor, weights: Sequence[Int8Weight], biases: Sequence[Tensor | None], overwritten: bool = False
) -> list[Tensor]:
    """What linear layers make of *x*, ``(tokens, inputs)``, each ``float32 (tokens, outputs)``.

    Args:
        biases: float32, one for each weight; ``None`` where there is none
        overwritten: whether *x* may be
    """
    y = x.float()
    top, low = y.amax(dim=1, keepdim=True), y.amin(dim=1, keepdim=True)
    middle = (top + low) / 2
    scales = (top - low).clamp_(min=_SMALLEST) / (2 * _LEVELS)
    y = y.sub_(middle) if overwritten or y is not x else y - middle
    levels = y.mul_(scales.reciprocal()).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO)
    out = []
    for weight, bias in zip(weights, biases):
        part = weight.of_levels(levels).mul_(scales).addcmul_(middle, weight.sums)
        out.append(part if bias is None else part.add_(bias))
    return out


def quantise(encoder: nn.Module) -> None:
    """Give the linear layers of the layers of an encoder int8 weights, in place; it can only score from now on."""
    layers: Any = encoder.layers
    attention_type = torch.bfloat16 if has_any(BFLOAT16) else torch.float32
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                weight = Int8Weight(part.weight)
                del part.weight
                part.weight = weight  # type: ignore[assignment]
        layer.before_attention = _in_chunks(layer.before_attention, attention_type)
        layer.after_attention = _in_chunks(layer.after_attention, torch.float32)


def _in_chunks(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """A function of tensors, with a result or some in *dtype*, computed for some tokens at a time.

    What lies between its steps stays in the cache then.  Tensors have a row per token; that of a rotation has a column.
    """

    def call(x: Tensor, *arguments: Any) -> Any:
        size = _CHUNK * torch.get_num_threads()

        def part(argument: Any, start: int) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            return argument.narrow(0 if len(argument) == len(x) else 1, start, min(size, len(x) - start))

        results: list[Tensor] = []
        made: Any = None
        for start in range(0, len(x) or 1, size):  # of no tokens, one chunk of none
            made = function(*(part(each, start) for each in (x, *arguments)))
            parts = [made] if isinstance(made, Tensor) else made
            results = results or [each.new_empty((len(x), *each.shape[1:]), dtype=dtype) for each in parts]
            for result, each in zip(results, parts):
                result[start : start + len(each)] = each
        return results[0] if isinstance(made, Tensor) else tuple(results)

    return call


def missing() -> str | None:
    """Why int8 is of no use here, in words; ``None`` where it is of use."""
    absent = [name for name in _OPERATORS if not hasattr(torch.ops.onednn, name)]
    if absent:
        return f"torch {torch.__version__} has no operator onednn::{absent[0]}"
    if has_any(INT8):
        return None
    return "this CPU has neither VNNI nor AMX" if capabilities() else "this torch does not say whether the CPU has VNNI"
