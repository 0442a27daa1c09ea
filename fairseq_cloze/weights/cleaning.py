"""Cleaning: a checkpoint with objects that are not read as they could run code, as a file of plain data.

Nothing of the file is imported or called: containers of omegaconf, numbers and arrays of numpy, enums and dates of the
standard library are turned into what they hold, by their stored form.  What else there is gets dropped, by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from ..files import PathLike, check_writable
from .carried import save_state
from .plain import DROPPED, Foreign, show
from .reading import load_checkpoint

Walk = Callable[[Any, str], Any]

#: Types of numpy that are read: those that torch has, and short texts.
_NUMPY = {"b1", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", *(f"U{size}" for size in range(1, 256))}
_ORDERS = ("<", ">", "=", "|")

#: Parts of a checkpoint of which nothing may be lost.
_NEEDED = ("model.",)


def clean_checkpoint(old: PathLike, new: PathLike) -> list[str]:
    """Write *old* as a file of plain data, which trains, validates and is scored, to *new*.

    Returns:
        lines that say what was turned into what, and what was dropped

    Raises:
        CheckpointError: *old* is missing, damaged, or has an object among its weights
        ClozeError: *new* cannot be written
    """
    source, target = Path(old), Path(new)
    check_writable(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"{target}: would replace what is read; choose another file")
    cleaning = _Cleaning(str(source))
    state = load_checkpoint(source, optimizer=True, convert=cleaning.convert)
    save_state(state, target)
    return cleaning.lines()


class _Cleaning:
    """What becomes of objects, and a record of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[tuple[str, str], list[str]] = {}  # name of an object, what became of it → places

    def lines(self) -> list[str]:
        """One for each kind of object and what became of it."""
        out = []
        for (path, became), places in self._seen.items():
            more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
            out.append(f"{became}: {path} in {places[0] or 'the file'}{more}")
        return out or ["there was nothing to change"]

    def convert(self, value: Any, place: str, walk: Walk) -> Any:
        """Plain data for an object at a place, or that it is dropped."""
        if isinstance(value, Foreign):
            for form in (_omegaconf, _numpy, _enum):
                found = form(value, place, walk)
                if found is not None:
                    out, became = found
                    self._note(value.path, became, place)
                    return out
        path = value.path if hasattr(value, "path") else type(value).__name__
        if f"{place}.".startswith(_NEEDED):
            raise CheckpointError(
                f"{self._name}: {show(place, 120)} is an object of {show(path)}, which cannot be turned into plain "
                "numbers; save the checkpoint again where it came from"
            )
        self._note(path, "dropped", place)
        return DROPPED

    def _note(self, path: str, became: str, place: str) -> None:
        self._seen.setdefault((show(path, 120), became), []).append(show(place, 120))


def _omegaconf(value: Foreign, place: str, walk: Walk) -> tuple[Any, str] | None:
    """A container or a node: what it holds is in its state, beside what types it may take."""
    if not value.path.startswith("omegaconf.") or not isinstance(value.state, dict):
        return None
    for key in ("_content", "_val"):
        if key in value.state:
            content = walk(value.state[key], place)
            kind = "dictionary" if isinstance(content, dict) else "list" if isinstance(content, list) else "value"
            return content, f"turned into a plain {kind}"
    return None


def _numpy(value: Foreign, place: str, walk: Walk) -> tuple[Any, str] | None:
    """A number or text, or an array of numbers, which becomes a tensor."""
    module, _, name = value.path.rpartition(".")
    if module not in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return None
    if name == "scalar":
        kind, content = (*value.args, None, None)[:2]
        dtype = _dtype(kind)
        if dtype is not None and isinstance(content, bytes) and len(content) == dtype.itemsize:
            found = np.frombuffer(content, dtype)[0].item()
            return found, f"turned into a plain {'text' if isinstance(found, str) else 'number'}"
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, by_column, content = value.state
        dtype = _dtype(kind)
        sizes = shape if isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape) else (-1,)
        if dtype is None or dtype.kind == "U" or not isinstance(content, bytes):
            return None
        if len(content) == dtype.itemsize * math.prod(sizes):
            array = np.frombuffer(content, dtype).reshape(sizes, order="F" if by_column else "C")
            return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C")), "turned into a tensor"
    return None


def _dtype(value: Any) -> np.dtype[Any] | None:
    """A type from how numpy stores it: its letter and size, then its order of bytes in the state."""
    if not isinstance(value, Foreign) or value.path != "numpy.dtype" or not value.args:
        return None
    state = value.state if isinstance(value.state, tuple) and len(value.state) > 1 else (3, "=")
    text, order = f"{state[1]}{value.args[0]}".replace("|", ""), state[1]
    return np.dtype(text) if order in _ORDERS and text.lstrip("<>=") in _NUMPY else None


def _enum(value: Foreign, place: str, walk: Walk) -> tuple[Any, str] | None:
    """A member of one of fairseq's enums is stored as a call with its value, or as the name of one."""
    if len(value.args) == 1 and value.state is None and value.path.startswith("fairseq."):
        if isinstance(value.args[0], str | int):
            return value.args[0], "turned into its value"
    if value.path == "builtins.getattr" and len(value.args) == 2 and isinstance(value.args[1], str):
        if str(getattr(value.args[0], "path", "")).startswith("fairseq."):
            return value.args[1], "turned into its name"
    return None
