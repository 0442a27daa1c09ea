"""Reading: files of weights, without running code that they hold."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

#: Second copies of an encoder layer's parameters, which fairseq 0.12.2 saves and never trains.
DEAD_PARAMETERS = tuple(
    f"{name}_{kind}" for name in ("in_proj", "out_proj", "fc1", "fc2") for kind in ("weight", "bias")
)


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` read fairseq's checkpoints without trusting them with code.

    ``torch.load`` admits plain data only; older RoBERTa checkpoints, and new ones of ``--arch roberta_base``, hold an
    ``argparse.Namespace``.
    """
    torch.serialization.add_safe_globals([Namespace])


def load_checkpoint(path: Path, name: str | None = None) -> Any:
    """Read a checkpoint into CPU memory, mapped where its format allows; code in it does not run.

    Args:
        path: the file
        name: what messages call it; the path where it is not given

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint
    """
    allow_checkpoint_types()
    name = name or str(path)
    if not path.is_file():
        raise CheckpointError(f"{name}: no such checkpoint; check the path")
    try:
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"{name}: holds an object of {refused[1]}, which is not read as it could run code; if you trust the "
                f"file, make a copy of its weights: python -c \"import torch; s = torch.load('{path}', 'cpu', "
                "weights_only=False); torch.save({k: s[k] for k in ('args', 'cfg', 'model') if k in s}, 'plain.pt')\""
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{name}: cannot be read as a checkpoint, {path.stat().st_size:,} bytes ({reason[:200]}); "
            "the file is truncated or no PyTorch file, copy it again"
        ) from error


def is_dead_parameter(name: str) -> bool:
    """Whether a name in a checkpoint is one of :data:`DEAD_PARAMETERS`."""
    parts = name.split(".")
    return "layers" in parts and parts[-1] in DEAD_PARAMETERS and parts[-2].isdigit()
