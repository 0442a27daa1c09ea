"""What a device would be waited for: places of this package that ask a tensor for its values, or how many there are.

They are found on a CPU, where such a question costs nothing, so nobody else would find them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fairseq_cloze

PACKAGE = Path(fairseq_cloze.__file__).parent

#: Functions that copy values to the CPU; ``tolist`` and ``numpy`` of a tensor on a CPU call no operation.
_METHODS = ("tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
_FUNCTIONS = {getattr(torch.Tensor, name) for name in _METHODS}

#: Operations whose result a device has to tell, or whose shape.
_OPERATIONS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),
    *("nonzero", "argwhere", "masked_select", "bincount", "unique", "_unique2", "unique_dim", "unique_consecutive"),
}


def _place() -> str:
    """Module and function of this package that are on the stack, innermost; empty inside the backward pass."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            return f"{path.relative_to(PACKAGE).with_suffix('')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return ""


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        waits = name in _OPERATIONS
        if name.startswith(("index", "_index_put")) and len(args) > 1 and isinstance(args[1], (list, tuple)):
            waits = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if name == "repeat_interleave":
            waits = (kwargs or {}).get("output_size") is None
        if waits:
            self.found.add(f"{_place()}: {name}")
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Inside, notes in ``found`` where a device would be waited for, as ``room/module.function: operation``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._operations = _Operations(self.found)

    def __enter__(self) -> Any:
        self._operations.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._operations.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FUNCTIONS:
            self.found.add(f"{_place()}: {func.__name__}")
        return func(*args, **(kwargs or {}))
