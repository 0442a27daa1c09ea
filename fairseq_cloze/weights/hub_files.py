"""Hub files: configuration and weights of a Hugging Face folder, checked against each other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from .plain import show
from .reading import load_checkpoint

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"

#: The folder says here in which file each weight is, where they are in several.
_INDEX = ".index.json"

#: What programs that wrap a model put before all its names.
_WRAPPERS = re.compile(r"((_orig_mod|module)\.)+")

TOKENS, POSITIONS, TOKEN_TYPES = (
    f"roberta.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
BIAS, DECODER, DECODER_BIAS = "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"
_LAYER = re.compile(r"roberta\.encoder\.layer\.([0-9]{1,6})\.")

#: Fields of ``config.json`` that are sizes.
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

#: What a model must say of itself where it says something; positions are counted from the row behind the padding's.
_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``CheckpointError`` where it is none, names the file."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}; download it again")
    return content


def refuse_pointer(path: Path) -> None:
    """``CheckpointError`` if a file is what git leaves where git lfs is not installed."""
    try:
        with open(path, "rb") as file:
            pointer = file.read(40).startswith(b"version https://git-lfs.github.com/")
    except OSError:
        return
    if pointer:
        raise CheckpointError(
            f"{path}: is a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download it"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a RoBERTa that fairseq can be given; ``CheckpointError`` says what it is, or what is wrong."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a Hugging Face model, found no {CONFIG}; copy or download it again")
    config = read_json(path)
    if config.get("model_type") != "roberta":
        raise CheckpointError(
            f"{folder}: expected model_type roberta (roberta-base, roberta-large, distilroberta-base and the like), "
            f"found {show(config.get('model_type'))}; only byte-level-BPE RoBERTa can be imported"
        )
    for field, value in _FIXED.items():
        if config.get(field, value) != value:
            raise CheckpointError(
                f"{folder}: expected {field} {value}, as RoBERTa has, found {show(config[field])}; such a model "
                "cannot be imported"
            )
    for field in _SIZES:
        if field not in config:
            raise CheckpointError(f"{folder}: {field} is missing from {CONFIG}; copy or download it again")
        if type(config[field]) is not int or config[field] < 1:
            raise _wrong(folder, field, "a number from 1 on", config[field])
    if config["hidden_size"] % config["num_attention_heads"]:
        expected = f"a number that divides hidden_size {config['hidden_size']}"
        raise _wrong(folder, "num_attention_heads", expected, config["num_attention_heads"])
    eps = config.setdefault("layer_norm_eps", 1e-12)  # as transformers has it
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise _wrong(folder, "layer_norm_eps", "a small number above 0", eps)
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        share = config.setdefault(field, 0.1)
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise _wrong(folder, field, "a number from 0 to 1", share)
    if type(config.setdefault("tie_word_embeddings", True)) is not bool:
        raise _wrong(folder, "tie_word_embeddings", "true or false", config["tie_word_embeddings"])
    return config


def _wrong(folder: Path, field: str, expected: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {CONFIG}: {field}: expected {expected}, found {show(found)}; copy or download it again"
    )


def read_weights(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of encoder and LM head in float32, under Hugging Face's names, and notes of what was made of them.

    Raises:
        CheckpointError: they cannot be read, or are not those that *config* tells of
    """
    raw, aliases = _read_files(folder)
    weights: dict[str, Tensor] = {}
    notes = []
    wrapped = set()
    for full, value in raw.items():
        if not isinstance(full, str):
            raise CheckpointError(f"{folder}: expected names of weights, found a {type(full).__name__}")
        name = _WRAPPERS.sub("", full, count=1) if _WRAPPERS.match(full) else full
        if name != full:
            wrapped.add(full[: -len(name)])
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.", "pooler.")):  # saved without the head's class around it
            name = f"roberta.{name}"
        if name in weights:
            raise CheckpointError(f"{folder}: {show(name)} is there twice, under two names; save the model again")
        if name.startswith(("roberta.", "lm_head.")) and not name.endswith("position_ids"):
            weights[name] = _as_float(value, name, folder)
    if wrapped:
        notes.append(f"left out '{', '.join(sorted(wrapped))}', which stood before the names of weights")
    for missing, kept in aliases.items():
        if kept in weights:
            weights.setdefault(missing, weights[kept])
    _find_tied(weights, config, folder, notes)
    encoder = ((name, "RoBERTa encoder") for name in (TOKENS, POSITIONS, TOKEN_TYPES))
    for name, what in (*encoder, ("lm_head.dense.weight", "LM head")):
        if name not in weights:
            raise CheckpointError(
                f"{folder}: expected the weights of RobertaForMaskedLM, found no {what} ({name}); "
                "take the masked-LM release of the model"
            )
    layers = {match[1] for match in map(_LAYER.match, weights) if match}
    rows, positions, types = (len(weights[name]) for name in (TOKENS, POSITIONS, TOKEN_TYPES))
    if types != 1:
        raise CheckpointError(f"{folder}: expected one token type, as RoBERTa has, found {types}")
    for field, found in (
        ("num_hidden_layers", len(layers)),
        ("hidden_size", weights[TOKENS].size(1)),
        ("vocab_size", rows),
        ("max_position_embeddings", positions),
    ):
        if config.get(field, found) != found:
            raise CheckpointError(
                f"{folder}: {CONFIG} says {field} {show(config[field])}, the weights have {found:,}; they are of two "
                "models, or cut down: copy or download both again"
            )
    return weights, notes


def _as_float(value: Any, name: str, folder: Path) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() not in (1, 2):
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"{folder}: {show(name)}: expected one or two dimensions of floating-point numbers, found {found}; "
            "quantised models cannot be imported"
        )
    return value.float()


def _find_tied(weights: dict[str, Tensor], config: Mapping[str, Any], folder: Path, notes: list[str]) -> None:
    """Put embedding, projection and bias under the names of both, as transformers ties them."""
    if config["tie_word_embeddings"]:
        decoder = weights.pop(DECODER, None)
        if TOKENS not in weights and decoder is not None:
            weights[TOKENS] = decoder
        elif decoder is not None and not torch.equal(decoder, weights.get(TOKENS, decoder)):
            notes.append(f"left out {DECODER}, as {CONFIG} says that the embedding is used in its place")
    elif DECODER not in weights:
        raise CheckpointError(
            f"{folder}: expected {DECODER}, as {CONFIG} has tie_word_embeddings false, found none; the LM head is "
            "incomplete"
        )
    bias = weights.pop(DECODER_BIAS, weights.get(BIAS))
    if bias is None and "lm_head.dense.weight" not in weights:
        return  # there is no head at all
    if bias is None:
        raise CheckpointError(f"{folder}: expected {BIAS}, found none; the LM head is incomplete")
    if not torch.equal(weights.setdefault(BIAS, bias), bias):
        raise CheckpointError(f"{folder}: {BIAS} and {DECODER_BIAS} differ, which are one; save the model again")


def _read_files(folder: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """Whatever the files of weights hold, and which names stand for others: tied weights are stored once."""
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return _read_file(folder / name)
        if (folder / f"{name}{_INDEX}").is_file():
            return _read_shards(folder, f"{name}{_INDEX}")
    raise CheckpointError(
        f"{folder}: expected {SAFETENSORS} or {PICKLED}, found neither; copy or download the whole folder"
    )


def _read_shards(folder: Path, index: str) -> tuple[dict[Any, Any], dict[str, str]]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{folder / index}: expected weight_map, the file of each weight; download it again")
    out: dict[Any, Any] = {}
    aliases: dict[str, str] = {}
    for file in sorted(set(places.values())):
        if not re.fullmatch(r"[\w.-]{1,200}", file, re.ASCII) or not (folder / file).is_file():
            raise CheckpointError(
                f"{folder}: expected {show(file)}, which {index} names, in this folder, found none; copy or download "
                "it, too"
            )
        content, others = _read_file(folder / file)
        aliases.update(others)
        missing = [name for name, place in places.items() if place == file and name not in content]
        if missing:
            raise CheckpointError(f"{folder / file}: expected {show(missing[0])}, as {index} says, found none")
        out.update({name: content[name] for name, place in places.items() if place == file})
    return out, aliases


def _read_file(path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    refuse_pointer(path)
    if path.suffix != ".safetensors":
        content = load_checkpoint(path)
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: expected weights by name, found a {type(content).__name__}")
        return content, {}
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata
    except Exception as error:  # safetensors' own kind, an OSError, or torch's for types it lacks
        raise CheckpointError(
            f"{path}: cannot be read ({first_line(error)}); copy or download the file again"
        ) from error
