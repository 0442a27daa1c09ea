"""oneDNN: products for scoring on a CPU by its operators in torch, faster than those that torch takes by itself.

Weights are packed: laid out once as oneDNN reads them, instead of at each product.  Bias, GELU and the sum with what
went in come with the product, while its result is still in the cache.  Numbers are those of torch's own products up to
rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu import BFLOAT16, has_any, is_amd
from .memory import make_sure_of_room

#: oneDNN's operators in torch, which promises neither that they are there nor that they stay.
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise")

#: What oneDNN calls activation functions.
_FUSED: Mapping[Callable[[Tensor], Tensor] | None, tuple[str, str]] = {F.gelu: ("gelu", "none")}
_NONE = ("none", "")


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
        name, algorithm = _FUSED.get(activation, _NONE)
        make_sure_of_room(x, packed=True)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, name, [], algorithm)
        return out if activation is None or activation in _FUSED else activation(out)

    def added(self, x: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
        """The product with *x*, bias and *other*, ``(tokens, outputs)``, added."""
        make_sure_of_room(x, packed=True)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, bias, "add")
        return out


def pack(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Pack the linear layers of the layers of an encoder, in place; it can only score in that type from now on.

    Those whose weight is no tensor any more stay as they are.
    """
    layers: Any = encoder.layers
    for part in layers.modules():
        if isinstance(part, nn.Linear) and isinstance(part.weight, Tensor):
            weight = PackedWeight(part.weight, dtype)
            del part.weight
            part.weight = weight  # type: ignore[assignment]
