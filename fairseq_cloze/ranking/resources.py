"""Resources: what scoring may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What scoring may use."""

    device: str | None = None  #: ``cpu``, ``cuda``, ``cuda:1``, ...; CUDA where there is one if ``None``
    batch_size: int | None = None  #: most items in a batch: windows of passages in view ``joint``, else blanks
    max_tokens: int | None = None  #: most tokens in a batch, padding and every candidate counted
    fp16: bool = False  #: compute in half precision
    bf16: bool = False  #: compute in bfloat16 where that is safe
    int8: bool = False  #: multiply the encoder's weights as 8-bit integers, on a CPU that is fast at it


DEFAULT_RESOURCES = Resources()
