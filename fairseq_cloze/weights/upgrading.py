"""Upgrading: weights and options of a checkpoint under the names that fairseq gives them today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.names import ENCODER, LM_HEAD
from .reading import is_dead_parameter

State = dict[str, Any]


def upgraded_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under today's names, without dead copies.

    Releases of 2019 call the encoder ``decoder`` and its norm otherwise, and keep the projections of queries, keys and
    values in one tensor.

    Args:
        weights: as the file has them
        name: of the checkpoint, for messages

    Raises:
        CheckpointError: no RoBERTa encoder or no LM head
    """
    out = {}
    for key, value in weights.items():
        if is_dead_parameter(key):
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
    """Derive the architecture from the weights, and from the configuration what weights do not show.

    Args:
        state: the checkpoint
        weights: its weights under today's names
        name: of the checkpoint, for messages

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
        raise CheckpointError(
            f"{name}: expected a RoBERTa checkpoint of fairseq, {error} is missing from it"
        ) from error
    if bool(model_option(state, "encoder_normalize_before")):
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
