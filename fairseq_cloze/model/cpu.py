"""CPU: what it can do."""

from collections.abc import Mapping
from typing import Any

import torch

#: Instructions that multiply 8-bit integers: without one of them oneDNN is slow, and its sums of uint8 may overflow.
INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")

#: Instructions that multiply bfloat16.
BFLOAT16 = ("avx512_bf16", "amx_bf16")


def capabilities() -> Mapping[str, Any]:
    """What the CPU can do, by names of instructions; nothing where torch cannot tell."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def has_any(names: tuple[str, ...]) -> bool:
    """Whether it has one of some instructions."""
    return any(capabilities().get(name) for name in names)


def is_amd() -> bool:
    """Whether AMD made it."""
    return "AMD" in str(capabilities().get("cpu_name"))
