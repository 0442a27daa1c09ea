"""Reading: files of weights, without running code that they hold, under the names that fairseq gives them today."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.names import ENCODER, LM_HEAD

State = dict[str, Any]

#: Second copies of an encoder layer's parameters, which fairseq 0.12.2 saves and never trains.
DEAD_PARAMETER = re.compile(r".*\blayers\.\d+\.(in_proj|out_proj|fc1|fc2)_(weight|bias)")


def allow_checkpoint_types() -> None:
    """Let ``torch.load`` admit the ``argparse.Namespace`` of older RoBERTa checkpoints, which is plain data, too."""
    torch.serialization.add_safe_globals([Namespace])


def load_checkpoint(path: Path, name: str | None = None) -> Any:
    """Read a checkpoint, called *name* in messages, into CPU memory, mapped where its format allows.

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


def upgraded_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under today's names, without dead copies.

    Releases of 2019 call the encoder ``decoder`` and its norm otherwise, and keep the projections of queries, keys and
    values in one tensor.

    Raises:
        CheckpointError: no RoBERTa encoder or no LM head
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


def model_option(state: State, name: str) -> Any:
    """An option of the model that a checkpoint was saved with; ``None`` where its configuration has none."""
    if state.get("args") is not None:
        return getattr(state["args"], name, None)
    model = (state.get("cfg") or {}).get("model")
    return model.get(name) if isinstance(model, Mapping) else getattr(model, name, None)


def read_architecture(state: State, weights: Mapping[str, Tensor], name: str) -> Architecture:
    """The architecture, from a checkpoint's weights under today's names, and from its options what these do not show.

    Raises:
        CheckpointError: not a RoBERTa that this project supports
    """
    layer = re.compile(rf"{re.escape(ENCODER)}layers\.(\d+)\.")
    layers = {match[1] for match in map(layer.match, weights) if match}
    try:
        embed_dim = weights[f"{ENCODER}embed_tokens.weight"].size(1)
        ffn_dim = weights[f"{ENCODER}layers.0.fc1.weight"].size(0)
        positions = weights[f"{ENCODER}embed_positions.weight"].size(0) - 2  # two rows stand before the first position
        heads = int(model_option(state, "encoder_attention_heads"))
    except (KeyError, TypeError) as error:
        problem = f"expected a RoBERTa checkpoint of fairseq, {error} is missing from it"
        raise CheckpointError(f"{name}: {problem}") from error
    if model_option(state, "encoder_normalize_before"):
        raise CheckpointError(f"{name}: RoBERTa with layer norm before the blocks (roberta_prenorm) is not supported")
    eps = model_option(state, "layer_norm_eps")
    return Architecture(
        encoder_layers=len(layers),
        encoder_embed_dim=embed_dim,
        encoder_ffn_embed_dim=ffn_dim,
        encoder_attention_heads=heads,
        max_positions=positions,
        activation_fn=str(model_option(state, "activation_fn") or Architecture.activation_fn),
        layer_norm_eps=Architecture.layer_norm_eps if eps is None else float(eps),
        untie_weights_roberta=bool(model_option(state, "untie_weights_roberta")),
        pooler_activation_fn=str(model_option(state, "pooler_activation_fn") or Architecture.pooler_activation_fn),
    )
