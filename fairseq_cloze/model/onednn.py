"""oneDNN: products on a CPU by its operators in torch, where they are faster than what torch takes by itself.

For scoring, weights are packed: laid out once as oneDNN reads them, instead of at each product.  Bias, GELU and the sum
with what went in come with the product, while its result is still in the cache.  In training, weights change all the
time; there torch multiplies float32 by MKL, which is slower on AMD's CPUs in two of three products.

Numbers are those of torch's own products up to rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import BFLOAT16, has_any, is_amd

#: oneDNN's operators in torch, which promises neither that they are there nor that they stay.
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")

#: What oneDNN calls activation functions.
_FUSED: Mapping[Callable[[Tensor], Tensor], tuple[str, str]] = {F.gelu: ("gelu", "none")}

_PLAIN = ("none", "")


def is_faster(dtype: torch.dtype) -> bool:
    """Whether it is, here, for products in that type: torch has the operators, and the CPU is of the right kind.

    In float32 those of AMD are, as torch multiplies by Intel's MKL.
    """
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    return has_any(BFLOAT16) if dtype == torch.bfloat16 else dtype == torch.float32 and is_amd() and has_any(("avx2",))


class PackedWeight:
    """The weight of a linear layer, ``(outputs, inputs)``, for inputs of a type."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype))

    def times(self, x: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The product with *x*, ``(tokens, inputs)``, bias added, as *activation* makes it, ``(tokens, outputs)``."""
        out = _linear(x, self._packed, bias, *(_FUSED.get(activation, _PLAIN) if activation else _PLAIN))
        return out if activation is None or activation in _FUSED else activation(out)

    def added(self, x: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """The product with *x*, bias and *other*, ``(tokens, outputs)``, added."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, bias, "add")
        return out


def pack(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Pack the linear layers of the layers of an encoder, in place; it can only score in that type from now on."""
    layers: Any = encoder.layers
    for part in layers.modules():
        if isinstance(part, nn.Linear):
            weight = PackedWeight(part.weight, dtype)
            del part.weight
            part.weight = weight  # type: ignore[assignment]


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``F.linear`` computes, with its gradient, for *x*, ``(tokens, inputs)``, by whoever is faster."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling() or not is_faster(x.dtype):
        return F.linear(x, weight, bias)
    out: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    """The gradient of the weight is MKL's, which is faster there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _linear(gradient.contiguous(), weight.t(), None) if of_x else None,
            gradient.t() @ x if of_weight else None,
            gradient.sum(dim=0) if of_bias else None,
        )


def _linear(x: Tensor, weight: Any, bias: Tensor | None, activation: str = "none", algorithm: str = "") -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    return out
