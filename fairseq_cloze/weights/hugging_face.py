"""Pretrained weights: from Hugging Face to fairseq and back.

Hugging Face and fairseq name the same parameters differently and number the dictionary differently.  The import maps
names, folds the one token-type row into the positions (fairseq has none), and sorts the embedding rows into fairseq's
order: the four special symbols, the BPE tokens, ``<mask>``.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.encoding import EncodingOptions
from ..data.vocabulary import MASK_SYMBOL, PAD, SPECIAL_SYMBOLS, Vocabulary
from ..errors import CheckpointError
from ..files import PathLike, replacing, write_text
from ..plugin.compat import load_checkpoint
from ..views.settings import DEFAULT_SETTINGS
from .checkpoint import (
    HEAD_NAME,
    HEADS,
    Architecture,
    State,
    load_state,
    read_architecture,
    require_vocabulary,
    roberta_weights,
    task_state,
)

MODEL_FILE = "model.pt"

#: Files of a hub model that the import reads.
HUB_FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "vocab.json", "merges.txt", "tokenizer.json"]

_SENTENCE_ENCODER = "encoder.sentence_encoder"

#: Hugging Face's name → fairseq's; ``{}`` is the number of a layer.
_LAYER_NAMES = {
    "roberta.encoder.layer.{}.attention.self.query": f"{_SENTENCE_ENCODER}.layers.{{}}.self_attn.q_proj",
    "roberta.encoder.layer.{}.attention.self.key": f"{_SENTENCE_ENCODER}.layers.{{}}.self_attn.k_proj",
    "roberta.encoder.layer.{}.attention.self.value": f"{_SENTENCE_ENCODER}.layers.{{}}.self_attn.v_proj",
    "roberta.encoder.layer.{}.attention.output.dense": f"{_SENTENCE_ENCODER}.layers.{{}}.self_attn.out_proj",
    "roberta.encoder.layer.{}.attention.output.LayerNorm": f"{_SENTENCE_ENCODER}.layers.{{}}.self_attn_layer_norm",
    "roberta.encoder.layer.{}.intermediate.dense": f"{_SENTENCE_ENCODER}.layers.{{}}.fc1",
    "roberta.encoder.layer.{}.output.dense": f"{_SENTENCE_ENCODER}.layers.{{}}.fc2",
    "roberta.encoder.layer.{}.output.LayerNorm": f"{_SENTENCE_ENCODER}.layers.{{}}.final_layer_norm",
}
_OTHER_NAMES = {
    "roberta.embeddings.LayerNorm": f"{_SENTENCE_ENCODER}.layernorm_embedding",
    "lm_head.dense": "encoder.lm_head.dense",
    "lm_head.layer_norm": "encoder.lm_head.layer_norm",
}
_TOKENS, _POSITIONS, _TOKEN_TYPES = (
    f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
_RANKING_HEAD_NAMES = {"dense": "roberta.pooler.dense", "out_proj": "classifier"}


# -- import ----------------------------------------------------------------------------------------------------------


def import_hf(source: str, out: PathLike, gpt2_bpe: PathLike | None = None) -> Path:
    """Convert a Hugging Face RoBERTa into a folder that fairseq and this project start from.

    Args:
        source: a local folder, or the name of a model on the hub where ``huggingface_hub`` is installed
        out: folder to write ``model.pt``, ``dict.txt``, ``encoder.json`` and ``vocab.bpe`` into
        gpt2_bpe: folder with fairseq's three vocabulary files, for sources without tokenizer files

    Returns:
        path of ``model.pt``; weights are float32

    Raises:
        CheckpointError: not a byte-level-BPE RoBERTa with an LM head; says what it is
    """
    folder = _find_source(source)
    config = _read_config(folder)
    weights = _read_weights(folder)
    vocabulary, order = _read_tokenizer(folder, gpt2_bpe, weights[_TOKENS].size(0))
    architecture = Architecture(
        encoder_layers=config["num_hidden_layers"],
        encoder_embed_dim=config["hidden_size"],
        encoder_ffn_embed_dim=config["intermediate_size"],
        encoder_attention_heads=config["num_attention_heads"],
        max_positions=weights[_POSITIONS].size(0) - 2,
        layer_norm_eps=config.get("layer_norm_eps", 1e-5),
        untie_weights_roberta=not _tied(weights),
    )
    state = make_state(_to_fairseq(weights, architecture, order, folder), architecture, vocabulary, config)
    out = Path(out)
    vocabulary.save(out)
    with replacing(out / MODEL_FILE) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)
    return out / MODEL_FILE


def _find_source(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{source}: no such folder; to load it from the Hugging Face hub, pip install huggingface_hub"
        ) from error
    try:
        return Path(snapshot_download(source, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's own kinds and those of the network below it
        raise CheckpointError(
            f"{source}: no such folder, and not to be had from the Hugging Face hub "
            f"({str(error).strip().splitlines()[0]}); check the name and the network"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder}: expected a Hugging Face model, config.json cannot be read ({error})"
        ) from error
    kind = config.get("model_type")
    if kind != "roberta":
        raise CheckpointError(
            f"{folder}: expected model_type roberta (roberta-base, roberta-large, distilroberta-base and the like), "
            f"found {kind}; only byte-level-BPE RoBERTa can be imported"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{folder}: expected hidden_act gelu, as RoBERTa has, found {config['hidden_act']}")
    if config.get("pad_token_id", PAD) != PAD:  # positions are counted from the row behind it
        raise CheckpointError(f"{folder}: expected pad_token_id {PAD}, as RoBERTa has, found {config['pad_token_id']}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(f"{folder}: position_embedding_type {config['position_embedding_type']} is not supported")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").is_file():
        from safetensors.torch import load_file

        try:
            raw = load_file(folder / "model.safetensors")
        except Exception as error:  # safetensors' own kind, or an OSError
            raise CheckpointError(
                f"{folder / 'model.safetensors'}: cannot be read ({error}); copy or download the file again"
            ) from error
    elif (folder / "pytorch_model.bin").is_file():
        raw = load_checkpoint(folder / "pytorch_model.bin")
    else:
        raise CheckpointError(f"{folder}: expected model.safetensors or pytorch_model.bin, found neither")
    weights = {}
    for name, value in raw.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.")):  # saved without the head's class around it
            name = f"roberta.{name}"
        weights[name] = value.float()
    for name, what in ((_TOKENS, "RoBERTa encoder"), ("lm_head.dense.weight", "LM head")):
        if name not in weights:
            raise CheckpointError(
                f"{folder}: expected the weights of RobertaForMaskedLM, found no {what} ({name}); "
                "take the masked-LM release of the model"
            )
    if weights[_TOKEN_TYPES].size(0) != 1:
        raise CheckpointError(
            f"{folder}: expected one token type, as RoBERTa has, found {weights[_TOKEN_TYPES].size(0)}"
        )
    return weights


def _tied(weights: Mapping[str, Tensor]) -> bool:
    decoder = weights.get("lm_head.decoder.weight")
    return decoder is None or torch.equal(decoder, weights[_TOKENS])


def _read_tokenizer(folder: Path, gpt2_bpe: PathLike | None, rows: int) -> tuple[Vocabulary, list[int] | None]:
    """The vocabulary, and for each of its rows the row of the source (``None``: the same)."""
    if gpt2_bpe is not None:
        vocabulary = Vocabulary.load(gpt2_bpe)
        own = [name for name in ("vocab.json", "tokenizer.json") if (folder / name).is_file()]
        if own:
            raise CheckpointError(
                f"{folder}: has tokenizer files of its own ({', '.join(own)}), which belong to the weights; "
                "leave --gpt2-bpe out"
            )
        if len(vocabulary) != rows:
            raise CheckpointError(
                f"{gpt2_bpe}: expected a dictionary of {rows:,} rows, as the embedding of {folder} has, "
                f"found {len(vocabulary):,}; give the files that belong to the model"
            )
        return vocabulary, None
    numbers, merges = _read_tokenizer_files(folder)
    token_at = {number: token for token, number in numbers.items()}
    tokens = [token_at.get(row, f"madeupword{row:04d}") for row in range(max(rows, *token_at) if token_at else rows)]
    for symbol in (*SPECIAL_SYMBOLS, MASK_SYMBOL):
        if symbol not in numbers:
            raise CheckpointError(
                f"{folder}: expected the token {symbol} in the tokenizer, found none; it is not RoBERTa's"
            )
    if max(numbers.values()) >= rows:
        raise CheckpointError(
            f"{folder}: expected {rows:,} tokens at most, as the embedding has rows, "
            f"found number {max(numbers.values()):,}"
        )
    special = [numbers[symbol] for symbol in SPECIAL_SYMBOLS]
    mask = numbers[MASK_SYMBOL]
    others = [row for row in range(rows) if row not in {*special, mask}]
    vocabulary = Vocabulary.build([tokens[row] for row in others], merges, str(folder))
    return vocabulary, [*special, *others, mask]


def _read_tokenizer_files(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer: dict[str, Any] = {}
    if (folder / "tokenizer.json").is_file():
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        if tokenizer.get("normalizer"):
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: expected no normalizer, as RoBERTa has none, "
                f"found {tokenizer['normalizer'].get('type')}; such a model cannot be imported"
            )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        numbers = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        return numbers, [(left, right) for left, right in pairs]
    if tokenizer:
        model = tokenizer["model"]
        steps = json.dumps(tokenizer.get("pre_tokenizer"))
        if model.get("type", "BPE") != "BPE" or "ByteLevel" not in steps:
            raise CheckpointError(f"{folder}: expected a byte-level BPE in tokenizer.json, found {model.get('type')}")
        numbers = {**model["vocab"], **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return numbers, [(left, right) for left, right in pairs]
    found = sorted(path.name for path in folder.iterdir() if path.suffix in {".json", ".txt", ".model", ".codes"})
    raise CheckpointError(
        f"{folder}: expected the files of a byte-level BPE (vocab.json and merges.txt, or tokenizer.json), "
        f"found {', '.join(found)}; pass --gpt2-bpe and a folder with encoder.json, vocab.bpe and dict.txt"
    )


def _to_fairseq(
    weights: dict[str, Tensor], architecture: Architecture, order: list[int] | None, folder: Path
) -> dict[str, Tensor]:
    def rows(value: Tensor) -> Tensor:
        return value if order is None else value[order]

    embedding = rows(weights[_TOKENS])
    decoder = weights.get("lm_head.decoder.weight", weights[_TOKENS])
    bias = weights.get("lm_head.bias", weights.get("lm_head.decoder.bias"))
    if bias is None:
        raise CheckpointError(f"{folder}: expected lm_head.bias, found none; the LM head is incomplete")
    out = {
        f"{_SENTENCE_ENCODER}.version": torch.tensor([3.0]),
        f"{_SENTENCE_ENCODER}.embed_tokens.weight": embedding,
        f"{_SENTENCE_ENCODER}.embed_positions.weight": weights[_POSITIONS] + weights[_TOKEN_TYPES],
        "encoder.lm_head.weight": embedding if not architecture.untie_weights_roberta else rows(decoder),
        "encoder.lm_head.bias": rows(bias),
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


def make_state(
    weights: dict[str, Tensor], architecture: Architecture, vocabulary: Vocabulary, config: Mapping[str, Any] = {}
) -> State:
    """A checkpoint as fairseq's own RoBERTa releases are: options in a namespace, masked LM as task and criterion."""
    args = Namespace(
        arch="roberta_large" if architecture.encoder_layers == 24 else "roberta_base",
        task="masked_lm",
        criterion="masked_lm",
        data="",
        tokens_per_sample=architecture.max_positions,
        sample_break_mode="complete",
        encoder_learned_pos=True,
        encoder_normalize_before=False,
        dropout=config.get("hidden_dropout_prob", 0.1),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
        activation_dropout=0.0,
        pooler_dropout=0.0,
        **vars(architecture),
    )
    return {
        "args": args,
        "model": weights,
        "optimizer_history": [
            {
                "criterion_name": "MaskedLmLoss",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
        "last_optimizer_state": None,
        "task_state": {"fairseq_cloze": task_state(vocabulary, EncodingOptions(), DEFAULT_SETTINGS.completed({}))},
    }


# -- export ----------------------------------------------------------------------------------------------------------


def export_hf(checkpoint: PathLike, out: PathLike) -> str:
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

    path, out = Path(checkpoint), Path(out)
    state = load_state(path)
    vocabulary = require_vocabulary(state, path)
    architecture = read_architecture(state, path)
    if architecture.activation_fn != "gelu":
        raise CheckpointError(
            f"{path}: activation_fn {architecture.activation_fn} cannot be exported, "
            "the LM head of Hugging Face's RoBERTa is always gelu"
        )
    weights = roberta_weights(state, path)
    converted, name = _to_hf(weights, architecture)
    with replacing(out / "model.safetensors") as temporary:
        save_file({key: value.contiguous().clone() for key, value in converted.items()}, temporary, {"format": "pt"})
    write_text(out / "config.json", json.dumps(_hf_config(architecture, len(vocabulary), name), indent=1) + "\n")
    write_text(out / "vocab.json", json.dumps(vocabulary.token_rows(), ensure_ascii=False))
    merges = "".join(["#version: 0.2\n", *(f"{left} {right}\n" for left, right in vocabulary.merges)])
    write_text(out / "merges.txt", merges)
    tokenizer = {"tokenizer_class": "RobertaTokenizer", "model_max_length": architecture.max_positions}
    write_text(out / "tokenizer_config.json", json.dumps(tokenizer, indent=1) + "\n")
    return name


def _to_hf(weights: Mapping[str, Tensor], architecture: Architecture) -> tuple[dict[str, Tensor], str]:
    positions = weights[f"{_SENTENCE_ENCODER}.embed_positions.weight"]
    out = {
        _TOKENS: weights[f"{_SENTENCE_ENCODER}.embed_tokens.weight"],
        _POSITIONS: positions,
        _TOKEN_TYPES: torch.zeros(1, positions.size(1), dtype=positions.dtype),
    }
    head = f"{HEADS}{HEAD_NAME}."
    ranking = any(name.startswith(head) for name in weights)
    if ranking and architecture.pooler_activation_fn != "tanh":
        raise CheckpointError(
            f"pooler_activation_fn {architecture.pooler_activation_fn} cannot be exported, the ranking head of Hugging "
            "Face's RoBERTa is always tanh"
        )
    for theirs, ours in _names(architecture.encoder_layers).items():
        if not (ranking and theirs.startswith("lm_head.")):
            out[theirs] = weights[ours]
    if ranking:
        for ours, theirs in _RANKING_HEAD_NAMES.items():
            for kind in ("weight", "bias"):
                out[f"{theirs}.{kind}"] = weights[f"{head}{ours}.{kind}"]
        return out, "RobertaForMultipleChoice"
    out["lm_head.bias"] = weights["encoder.lm_head.bias"]
    if architecture.untie_weights_roberta:
        out["lm_head.decoder.weight"] = weights["encoder.lm_head.weight"]
        out["lm_head.decoder.bias"] = weights["encoder.lm_head.bias"]
    return out, "RobertaForMaskedLM"


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
