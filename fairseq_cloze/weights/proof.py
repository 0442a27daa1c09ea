"""Proof: that a model holds the weights of a checkpoint, bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

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


def first_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str) -> str:
    """Where a model departs from a checkpoint, in words for the end of a message."""
    for name in sorted({*expected, *found}):
        if name.startswith(prefix) and not name.endswith(".version"):
            if name not in found or name not in expected:
                return f" (first difference: {name} is only in the {'model' if name in found else 'checkpoint'})"
            if not torch.equal(expected[name].cpu(), found[name].cpu()):
                return f" (first difference: {name})"
    return ""
