"""Finding: weights by name, whatever they are."""

from __future__ import annotations

from ..files import PathLike
from .checkpoint import Checkpoint


def open_checkpoint(source: PathLike) -> Checkpoint:
    """Read weights."""
    return Checkpoint.read(source)
