"""A checkpoint's configuration, as JSON: what passes is on the list, and as large as the weights are."""

import json
from argparse import Namespace
from functools import cache
from typing import Any

import torch

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.plugin.built import BUILT, check_checkpoint
from fairseq_cloze.weights.checkpoint import Checkpoint

SHAPE = {"encoder_layers": 1, "encoder_embed_dim": 4, "encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2}
MODEL = {"arch": "roberta_base", "max_positions": 6, "activation_fn": "gelu", **SHAPE}


@cache
def _weights() -> dict[str, torch.Tensor]:
    encoder = {"embed_tokens": (9, 4), "embed_positions": (8, 4), "layers.0.fc1": (8, 4)}
    weights = {f"encoder.sentence_encoder.{name}.weight": torch.zeros(shape) for name, shape in encoder.items()}
    return {**weights, "encoder.lm_head.dense.weight": torch.zeros(4, 4)}


def seeds() -> list[bytes]:
    args = {**MODEL, "task": "masked_lm", "criterion": "masked_lm", "tokens_per_sample": 6, "bpe": "gpt2"}
    cfg = {"model": {**MODEL, "_name": "cloze_roberta"}, "task": {"_name": "cloze_ranking", "scorer": "mean"}}
    return [json.dumps(part).encode() for part in ({"args": args}, {"cfg": {**cfg, "criterion": {"_name": "ctc"}}})]


def attack(data: bytes) -> None:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(state, dict):
        return
    if isinstance(state.get("args"), dict):
        state["args"] = Namespace(**state["args"])
    try:
        check_checkpoint(Checkpoint({**state, "model": _weights()}, "model.pt"), {})
    except ClozeError as error:
        assert len(str(error).splitlines()) == 1
        return
    model: Any = state.get("args") or state["cfg"]["model"]
    options = vars(model) if isinstance(model, Namespace) else model
    named = [options.get(key) for key in ("_name", "arch") if options.get(key) is not None]
    assert named and all(name in BUILT["architecture"] or name.startswith("cloze_roberta") for name in named)
    assert all(options.get(name) in (size, None) for name, size in SHAPE.items() if name != "encoder_attention_heads")
