"""Proof: that a model holds the weights of a checkpoint, bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.names import ENCODER, LM_HEAD

#: What a run must have loaded: names for people, prefixes of the weights.
PARTS = {"encoder": ENCODER, "LM head": LM_HEAD}


def digest(weights: Mapping[str, Tensor], prefix: str) -> str:
    """SHA-256 over names, shapes, types and values of the weights whose names start with *prefix*."""
    total = hashlib.sha256()
    for name in sorted(weights):
        if not name.startswith(prefix) or name.endswith(".version"):  # a marker of fairseq's, no weight
            continue
        value = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """:func:`digest` of each of :data:`PARTS`."""
    return {part: digest(weights, prefix) for part, prefix in PARTS.items()}


def prove_load(weights: Mapping[str, Tensor], name: str, current: Mapping[str, Tensor], got: Mapping[str, str]) -> str:
    """Compare a model with the checkpoint it was loaded from.

    Args:
        weights: the checkpoint's, under today's names
        name: of the checkpoint, for messages
        current: the model's weights
        got: their :func:`digests`

    Returns:
        a line that says what was proved

    Raises:
        CheckpointError: encoder or LM head differ; names the part
    """
    # As fairseq should have loaded them: cast to the model's types.
    expected = {key: value.to(current[key].dtype) if key in current else value for key, value in weights.items()}
    wanted = digests(expected)
    for part, prefix in PARTS.items():
        if wanted[part] != got[part]:
            raise CheckpointError(
                f"the {part} is not that of {name}: expected digest {wanted[part][:12]}, found {got[part][:12]}; "
                "training would start from other weights than those asked for"
                f"{_first_difference(expected, current, prefix)}"
            )
    return f"weights are those of {name} ({', '.join(f'{part} {value[:12]}' for part, value in got.items())})"


def _first_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str) -> str:
    for name in sorted({*expected, *found}):
        if name.startswith(prefix) and not name.endswith(".version"):
            if name not in found or name not in expected:
                return f" (first difference: {name} is only in the {'model' if name in found else 'checkpoint'})"
            if not torch.equal(expected[name].cpu(), found[name].cpu()):
                return f" (first difference: {name})"
    return ""
