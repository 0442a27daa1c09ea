"""Resources: what scoring may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What scoring may use.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA where there is one if ``None``
        batch_size: most items in a batch: windows of passages in view ``joint``, blanks in the others
        max_tokens: most tokens in a batch, padding and every candidate counted; 4096, or what the most expensive item
            costs, where neither limit is given
        fp16: compute in half precision
        bf16: compute in bfloat16 where that is safe
    """

    device: str | None = None
    batch_size: int | None = None
    max_tokens: int | None = None
    fp16: bool = False
    bf16: bool = False


DEFAULT_RESOURCES = Resources()
