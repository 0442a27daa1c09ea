"""Hugging Face: pretrained weights from there, checkpoints to there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import PathLike, replacing, write_text
from ..model.architecture import Architecture
from .checkpoint import Checkpoint
from .hf_files import find_folder, read_config, read_tokenizer, read_weights
from .hf_names import DECODER, POSITIONS, TOKENS, to_fairseq, to_hugging_face
from .saving import MODEL_FILE, pretrained_state, save_state


def read_hf(source: PathLike, gpt2_bpe: PathLike | None = None) -> Checkpoint:
    """Read a RoBERTa of Hugging Face as a checkpoint of fairseq, in memory.

    Args:
        source: a local folder, or the name of a model on the hub where ``huggingface_hub`` is installed
        gpt2_bpe: folder with fairseq's three vocabulary files, for sources without tokenizer files

    Returns:
        with weights in float32, called *source* in messages

    Raises:
        CheckpointError: not a byte-level-BPE RoBERTa with an LM head; says what it is
    """
    folder = find_folder(str(source))
    config = read_config(folder)
    weights = read_weights(folder)
    vocabulary, order = read_tokenizer(folder, gpt2_bpe, weights[TOKENS].size(0))
    decoder = weights.get(DECODER)
    try:
        architecture = Architecture(
            encoder_layers=config["num_hidden_layers"],
            encoder_embed_dim=config["hidden_size"],
            encoder_ffn_embed_dim=config["intermediate_size"],
            encoder_attention_heads=config["num_attention_heads"],
            max_positions=weights[POSITIONS].size(0) - 2,
            layer_norm_eps=config.get("layer_norm_eps", Architecture.layer_norm_eps),
            untie_weights_roberta=decoder is not None and not torch.equal(decoder, weights[TOKENS]),
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}: {error} is missing from config.json; copy or download it again") from error
    options = {
        "dropout": config.get("hidden_dropout_prob", 0.1),
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
    }
    converted = to_fairseq(weights, architecture, order, folder)
    return Checkpoint(pretrained_state(converted, architecture, vocabulary, options), folder, str(source))


def import_hf(source: PathLike, out: PathLike, gpt2_bpe: PathLike | None = None) -> Path:
    """Convert a Hugging Face RoBERTa into a folder that fairseq and this project start from.

    Args:
        source, gpt2_bpe: see :func:`read_hf`
        out: folder to write ``model.pt``, ``dict.txt``, ``encoder.json`` and ``vocab.bpe`` into

    Returns:
        path of ``model.pt``; weights are float32

    Raises:
        CheckpointError: see :func:`read_hf`
        ClozeError: *out* cannot be written
    """
    checkpoint = read_hf(source, gpt2_bpe)
    out = Path(out)
    checkpoint.require_vocabulary().save(out)
    save_state(checkpoint.state, out / MODEL_FILE)
    return out / MODEL_FILE


def export_hf(checkpoint: Checkpoint, out: PathLike) -> str:
    """Write a fairseq checkpoint as a Hugging Face folder with tokenizer.

    A checkpoint with a ranking head becomes ``RobertaForMultipleChoice``, any other ``RobertaForMaskedLM``.

    Args:
        checkpoint: fine-tuned or pretrained, of fairseq
        out: folder to write

    Returns:
        name of the Hugging Face class that loads it

    Raises:
        CheckpointError: not a RoBERTa checkpoint, or its vocabulary is not to be found
    """
    from safetensors.torch import save_file

    out = Path(out)
    vocabulary = checkpoint.require_vocabulary()
    architecture = checkpoint.architecture
    if architecture.activation_fn != "gelu":
        raise CheckpointError(
            f"{checkpoint.name}: activation_fn {architecture.activation_fn} cannot be exported, "
            "the LM head of Hugging Face's RoBERTa is always gelu"
        )
    if checkpoint.has_ranking_head and architecture.pooler_activation_fn != "tanh":
        raise CheckpointError(
            f"{checkpoint.name}: pooler_activation_fn {architecture.pooler_activation_fn} cannot be exported, the "
            "ranking head of Hugging Face's RoBERTa is always tanh"
        )
    name = "RobertaForMultipleChoice" if checkpoint.has_ranking_head else "RobertaForMaskedLM"
    converted = to_hugging_face(checkpoint.weights, architecture, checkpoint.has_ranking_head)
    with replacing(out / "model.safetensors") as temporary:
        save_file({key: value.contiguous().clone() for key, value in converted.items()}, temporary, {"format": "pt"})
    write_text(out / "config.json", json.dumps(_hf_config(architecture, len(vocabulary), name), indent=1) + "\n")
    write_text(out / "vocab.json", json.dumps(vocabulary.token_rows(), ensure_ascii=False))
    merges = "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in vocabulary.merges)])
    write_text(out / "merges.txt", merges)
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": architecture.max_positions}
    write_text(out / "tokenizer_config.json", json.dumps(tokenizer, indent=1) + "\n")
    return name


def _hf_config(architecture: Architecture, rows: int, name: str) -> dict[str, Any]:
    return {
        "architectures": [name],
        "model_type": "roberta",
        "vocab_size": rows,
        "hidden_size": architecture.encoder_embed_dim,
        "num_hidden_layers": architecture.encoder_layers,
        "num_attention_heads": architecture.encoder_attention_heads,
        "intermediate_size": architecture.encoder_ffn_embed_dim,
        "hidden_act": "gelu",
        "max_position_embeddings": architecture.max_positions + 2,
        "type_vocab_size": 1,
        "layer_norm_eps": architecture.layer_norm_eps,
        "tie_word_embeddings": not architecture.untie_weights_roberta,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
