"""Names of Hugging Face: a RoBERTa's weights under Hugging Face's names and under fairseq's.

On the way to fairseq the one token-type row, which it lacks, is added to the positions, and the embedding rows are
sorted into its order: the four special symbols, the BPE tokens, ``<mask>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.architecture import Architecture
from ..model.names import ENCODER, LM_HEAD, RANKING_HEAD

#: Hugging Face's name → fairseq's; ``{}`` is the number of a layer.
_LAYER_NAMES = {
    "roberta.encoder.layer.{}.attention.self.query": f"{ENCODER}layers.{{}}.self_attn.q_proj",
    "roberta.encoder.layer.{}.attention.self.key": f"{ENCODER}layers.{{}}.self_attn.k_proj",
    "roberta.encoder.layer.{}.attention.self.value": f"{ENCODER}layers.{{}}.self_attn.v_proj",
    "roberta.encoder.layer.{}.attention.output.dense": f"{ENCODER}layers.{{}}.self_attn.out_proj",
    "roberta.encoder.layer.{}.attention.output.LayerNorm": f"{ENCODER}layers.{{}}.self_attn_layer_norm",
    "roberta.encoder.layer.{}.intermediate.dense": f"{ENCODER}layers.{{}}.fc1",
    "roberta.encoder.layer.{}.output.dense": f"{ENCODER}layers.{{}}.fc2",
    "roberta.encoder.layer.{}.output.LayerNorm": f"{ENCODER}layers.{{}}.final_layer_norm",
}
_OTHER_NAMES = {
    "roberta.embeddings.LayerNorm": f"{ENCODER}layernorm_embedding",
    "lm_head.dense": f"{LM_HEAD}dense",
    "lm_head.layer_norm": f"{LM_HEAD}layer_norm",
}
TOKENS, POSITIONS, TOKEN_TYPES = (
    f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
DECODER = "lm_head.decoder.weight"
_RANKING_HEAD_NAMES = {"dense": "roberta.pooler.dense", "out_proj": "classifier"}


def to_fairseq(
    weights: dict[str, Tensor], architecture: Architecture, order: list[int] | None, folder: Path
) -> dict[str, Tensor]:
    """Weights under fairseq's names; ``CheckpointError`` where one is missing.

    Args:
        weights: under Hugging Face's
        architecture: their shape
        order: of each row of fairseq's dictionary, the row of the embedding; ``None``: the same
        folder: where they came from, for messages
    """

    def rows(value: Tensor) -> Tensor:
        return value if order is None else value[order]

    embedding = rows(weights[TOKENS])
    bias = weights.get("lm_head.bias", weights.get("lm_head.decoder.bias"))
    if bias is None:
        raise CheckpointError(f"{folder}: expected lm_head.bias, found none; the LM head is incomplete")
    out = {
        f"{ENCODER}version": torch.tensor([3.0]),
        f"{ENCODER}embed_tokens.weight": embedding,
        f"{ENCODER}embed_positions.weight": weights[POSITIONS] + weights[TOKEN_TYPES],
        f"{LM_HEAD}weight": rows(weights[DECODER]) if architecture.untie_weights_roberta else embedding,
        f"{LM_HEAD}bias": rows(bias),
    }
    try:
        for theirs, ours in _names(architecture.encoder_layers).items():
            out[ours] = weights[theirs]
    except KeyError as error:
        raise CheckpointError(
            f"{folder}: the weights are incomplete, {error} is missing; copy or download them again"
        ) from error
    return out


def _names(layers: int) -> dict[str, str]:
    """Parameter names that need no arithmetic, Hugging Face's → fairseq's."""
    modules = dict(_OTHER_NAMES)
    for layer in range(layers):
        modules.update({theirs.format(layer): ours.format(layer) for theirs, ours in _LAYER_NAMES.items()})
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}


def to_hugging_face(weights: Mapping[str, Tensor], architecture: Architecture, ranking: bool) -> dict[str, Tensor]:
    """Weights of fairseq's names under Hugging Face's, with the *ranking* head or with the LM head."""
    positions = weights[f"{ENCODER}embed_positions.weight"]
    out = {
        TOKENS: weights[f"{ENCODER}embed_tokens.weight"],
        POSITIONS: positions,
        TOKEN_TYPES: torch.zeros(1, positions.size(1), dtype=positions.dtype),
    }
    for theirs, ours in _names(architecture.encoder_layers).items():
        if not (ranking and theirs.startswith("lm_head.")):
            out[theirs] = weights[ours]
    if ranking:
        for ours, theirs in _RANKING_HEAD_NAMES.items():
            for kind in ("weight", "bias"):
                out[f"{theirs}.{kind}"] = weights[f"{RANKING_HEAD}{ours}.{kind}"]
        return out
    out["lm_head.bias"] = weights[f"{LM_HEAD}bias"]
    if architecture.untie_weights_roberta:
        out[DECODER] = weights[f"{LM_HEAD}weight"]
        out["lm_head.decoder.bias"] = weights[f"{LM_HEAD}bias"]
    return out
