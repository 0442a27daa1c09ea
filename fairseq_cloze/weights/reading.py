"""Reading: files of weights, without running code that they hold, under the names that fairseq gives them today."""

import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from ..model.names import ENCODER, LM_HEAD

State = dict[str, Any]

#: Second copies of an encoder layer's parameters, which fairseq 0.12.2 saves and never trains.
DEAD_PARAMETER = re.compile(r".*\blayers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` admit the ``argparse.Namespace`` of older RoBERTa checkpoints, which is plain data, too."""
    torch.serialization.add_safe_globals([Namespace])


def load_checkpoint(path: Path, name: str | None = None) -> Any:
    """Read a checkpoint, called *name* in messages, into CPU memory.

    ``CheckpointError`` where it is missing, truncated, or something else.
    """
    allow_checkpoint_types()
    name = name or str(path)
    if not path.is_file():
        raise CheckpointError(f"{name}: no such checkpoint; check the path")
    try:
        with open(path, "rb") as file:  # not mapped: one that is cut short meanwhile would end the process
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        refused = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"{name}: holds an object of {refused[1]}, which is not read as it could run code; if you trust the "
                f"file, make a copy of its weights: python -c \"import torch; s = torch.load('{path}', 'cpu', "
                "weights_only=False); torch.save({k: s[k] for k in ('args', 'cfg', 'model') if k in s}, 'plain.pt')\""
            ) from error
        raise CheckpointError(
            f"{name}: cannot be read as a checkpoint, {path.stat().st_size:,} bytes ({first_line(error)[:200]}); "
            "the file is truncated or no PyTorch file, copy it again"
        ) from error


def upgraded_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under today's names, without dead copies; ``CheckpointError`` unless of a RoBERTa encoder and LM head.

    Releases of 2019 call the encoder ``decoder`` and its norm otherwise, and join the projections for attention.
    """
    out = {}
    for key, value in weights.items():
        if DEAD_PARAMETER.fullmatch(key):
            continue
        key = re.sub(r"^decoder\.", "encoder.", key).replace(".emb_layer_norm.", ".layernorm_embedding.")
        joined = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", key)
        if joined:
            for projection, part in zip("qkv", value.chunk(3)):
                out[f"{joined[1]}{projection}_proj.{joined[2]}"] = part
        else:
            out[key] = value
    for needed, what in ((f"{ENCODER}embed_tokens.weight", "RoBERTa encoder"), (f"{LM_HEAD}dense.weight", "LM head")):
        if needed not in out:
            raise CheckpointError(f"{name}: expected a RoBERTa checkpoint of fairseq, found no {what} ({needed})")
    return out
