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
from ..model.architecture import LARGEST_BASE, MOST_LAYERS
from .families import ACTIVATIONS, FAMILIES, Family, why_not
from .plain import show
from .reading import load_checkpoint, refuse_pointer

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"

#: The folder says here in which file each weight is, where they are in several.
_INDEX = ".index.json"

#: What programs that wrap a model put before all its names.
_WRAPPERS = re.compile(r"((_orig_mod|module)\.)+")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``CheckpointError`` where it is none, names the file.

    Numbers need not be finite, as transformers writes others where nothing reads them.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)}); copy or download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(content).__name__}; download it again")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of one of :data:`FAMILIES`, complete; ``CheckpointError`` says what it is, or what is wrong."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: expected a Hugging Face model, found no {CONFIG}; copy or download it again")
    config = read_json(path)
    why, family = why_not(config), family_of(config)
    if why or family is None:
        kinds = "; " + why if why else ""
        raise CheckpointError(
            f"{folder}: expected a masked LM with model_type {', '.join(FAMILIES)}, "
            f"found {_kind(config)}{kinds}; such a model cannot be imported"
        )
    if family.bases:
        _as_written_before(config, folder)
    for field, value in family.defaults.items():
        config.setdefault(field, value)
    for field, value in family.fixed.items():
        if config.get(field, value) != value:
            raise CheckpointError(
                f"{folder}: expected {field} {value}, as {family.name} has, found {show(config[field])}; such a model "
                "cannot be imported"
            )
    for field, ours in family.sizes.items():
        if field not in config:
            raise CheckpointError(f"{folder}: {field} is missing from {CONFIG}; copy or download it again")
        if type(config[field]) is not int or config[field] < 1:
            raise _wrong(folder, field, "a number from 1 on", config[field])
        if ours == "encoder_layers" and family.parts.get("shared_layers") and config[field] >= MOST_LAYERS:
            raise _wrong(folder, field, f"a number below {MOST_LAYERS}", config[field])
    ours_to_theirs = {ours: theirs for theirs, ours in family.sizes.items()}
    width, heads = (ours_to_theirs[ours] for ours in ("encoder_embed_dim", "encoder_attention_heads"))
    if config[width] % config[heads]:
        raise _wrong(folder, heads, f"a number that divides {width} {config[width]}", config[heads])
    if family.bases and config[width] // config[heads] % 2:
        raise _wrong(folder, heads, f"a number that divides {width} {config[width]} into even parts", config[heads])
    for field in family.bases:
        if config[field] is None and field != next(iter(family.bases)):
            config[field] = config[next(iter(family.bases))]  # one for all layers
        base = config[field]
        if type(base) not in (int, float) or not 1 < base <= LARGEST_BASE:
            raise _wrong(folder, field, "a number above 1", base)
    if family.activation in config and config[family.activation] not in list(ACTIVATIONS):
        raise _wrong(folder, family.activation, f"one of {', '.join(ACTIVATIONS)}", config[family.activation])
    if family.eps:
        eps = config[family.eps]
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise _wrong(folder, family.eps, "a small number above 0", eps)
    for field in family.dropouts:
        share = config.setdefault(field, 0.1)
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise _wrong(folder, field, "a number from 0 to 1", share)
    if type(config.setdefault("tie_word_embeddings", True)) is not bool:
        raise _wrong(folder, "tie_word_embeddings", "true or false", config["tie_word_embeddings"])
    return config


#: What transformers 5 calls the layers of a ModernBERT, and the base of the rotary positions of each kind before.
_KINDS_OF_LAYERS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def _as_written_before(config: dict[str, Any], folder: Path) -> None:
    """Put what transformers 5 writes of a ModernBERT's layers into the fields that it had before, which 5 reads too."""
    told = config.pop("rope_parameters", None)
    for kind, values in ({} if told is None else told if isinstance(told, dict) else {"": told}).items():
        plain = isinstance(values, dict) and values.keys() <= {"rope_type", "rope_theta"}
        if kind not in _KINDS_OF_LAYERS or not plain or values.get("rope_type", "default") != "default":
            found = f'"{show(kind)}": {show(json.dumps(values))}'
            raise CheckpointError(
                f"{folder}: {CONFIG}: rope_parameters: expected rope_theta alone for each of "
                f"{' and '.join(_KINDS_OF_LAYERS)}, as ModernBERT has, found {found}; such a model cannot be imported"
            )
        if "rope_theta" in values:
            config[_KINDS_OF_LAYERS[kind]] = values["rope_theta"]
    layers = config.pop("layer_types", None)
    if layers is None:
        return
    full, sliding = _KINDS_OF_LAYERS
    after_first = layers[1:] if isinstance(layers, list) else []
    every = after_first.index(full) + 1 if full in after_first else max(2, len(after_first) + 1)
    if not layers or layers != [sliding if number % every else full for number in range(len(after_first) + 1)]:
        raise CheckpointError(
            f"{folder}: {CONFIG}: layer_types: expected {full} in the first layer and every so many behind it, "
            f"{sliding} in all others, found {show(json.dumps(layers))}; such a model cannot be imported"
        )
    if config.get("num_hidden_layers", len(layers)) != len(layers):
        raise _wrong(folder, "layer_types", f"one for each of {show(config['num_hidden_layers'])} layers", layers)
    config["global_attn_every_n_layers"] = every


def family_of(config: Mapping[str, Any]) -> Family | None:
    """The family that a configuration names, if it is one of ours."""
    kind = config.get("model_type")
    return FAMILIES.get(kind) if isinstance(kind, str) else None


def _kind(config: Mapping[str, Any]) -> str:
    """What a configuration says that it is of: model type and class."""
    classes = config.get("architectures")
    named = f" ({show(classes[0])})" if isinstance(classes, list) and classes else ""
    return show(config.get("model_type")) + named


def _wrong(folder: Path, field: str, expected: str, found: Any) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {CONFIG}: {field}: expected {expected}, found {show(found)}; copy or download it again"
    )


def read_weights(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of encoder and LM head in float32, under Hugging Face's names, and notes of what was made of them.

    Raises:
        CheckpointError: they cannot be read, or are not those that *config* tells of
    """
    family = FAMILIES[config["model_type"]]
    tokens, positions, token_types = map(family.place, (family.tokens, family.positions, family.token_types))
    bare = tuple({name.removeprefix(family.body).split(".")[0] + "." for name in (*family.encoder, tokens)})
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
        if name.startswith(bare):  # saved without the head's class around it
            name = f"{family.body}{name}"
        if name in weights:
            raise CheckpointError(f"{folder}: {show(name)} is there twice, under two names; save the model again")
        wanted = name.startswith((family.body, family.head_prefix)) or name in (family.bias, family.decoder)
        if wanted and not name.endswith("position_ids"):
            weights[name] = _as_float(value, name, folder)
    if wrapped:
        notes.append(f"left out '{', '.join(sorted(wrapped))}', which stood before the names of weights")
    for missing, kept in aliases.items():
        if kept in weights:
            weights.setdefault(missing, weights[kept])
    _find_tied(weights, family, config, folder, notes)
    needed = [(tokens, "encoder"), (positions, "encoder"), (token_types, "encoder"), (family.head_weight, "LM head")]
    for name, what in needed:
        if name != family.body and name not in weights:
            raise CheckpointError(
                f"{folder}: expected the weights of {family.masked_lm}, found no {what} ({name}); "
                "take the masked-LM release of the model"
            )
    expected = [("vocab_size", len(weights[tokens]))]
    if family.token_types and family.type_rows == 1 and len(weights[token_types]) != 1:
        found = len(weights[token_types])
        raise CheckpointError(f"{folder}: expected one token type, as {family.name} has, found {found}")
    if family.token_types and (types := len(weights[token_types])) > 1:
        notes.append(f"left out {types - 1} of {types} token types, which stand for a second text")
    if family.positions:
        expected.append(("max_position_embeddings", len(weights[positions])))
    for field, ours in family.sizes.items():
        if ours == "encoder_layers" and not family.parts.get("shared_layers"):
            expected.append((field, _count_layers(weights, family)))
        if ours == ("embedding_dim" if "embedding_dim" in family.sizes.values() else "encoder_embed_dim"):
            expected.append((field, weights[tokens].size(-1)))
    for field, found in expected:
        if config.get(field, found) != found:
            raise CheckpointError(
                f"{folder}: {CONFIG} says {field} {show(config[field])}, the weights have {found:,}; they are of two "
                "models, or cut down: copy or download both again"
            )
    return weights, notes


def _count_layers(weights: Mapping[str, Tensor], family: Family) -> int:
    before = next(name for name in family.encoder if "{}" in name).partition("{}")[0]
    pattern = re.compile(rf"{re.escape(before)}([0-9]{{1,6}})\.")
    return len({match[1] for match in map(pattern.match, weights) if match})


def _as_float(value: Any, name: str, folder: Path) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() not in (1, 2):
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"{folder}: {show(name)}: expected one or two dimensions of floating-point numbers, found {found}; "
            "quantised models cannot be imported"
        )
    return value.float()


def _find_tied(
    weights: dict[str, Tensor], family: Family, config: Mapping[str, Any], folder: Path, notes: list[str]
) -> None:
    """Put embedding, projection and bias under the names of both, as transformers ties them."""
    tokens, wanted = family.place(family.tokens), family.decoder
    if config["tie_word_embeddings"]:
        decoder = weights.pop(wanted, None)
        if tokens not in weights and decoder is not None:
            weights[tokens] = decoder
        elif decoder is not None and not torch.equal(decoder, weights.get(tokens, decoder)):
            notes.append(f"left out {wanted}, as {CONFIG} says that the embedding is used in its place")
    elif wanted not in weights:
        raise CheckpointError(
            f"{folder}: expected {wanted}, as {CONFIG} has tie_word_embeddings false, found none; the LM head is "
            "incomplete"
        )
    bias = weights.pop(family.decoder_bias, weights.get(family.bias))
    if bias is None and family.head_weight not in weights:
        return  # there is no head at all
    if bias is None:
        raise CheckpointError(f"{folder}: expected {family.bias}, found none; the LM head is incomplete")
    if not torch.equal(weights.setdefault(family.bias, bias), bias):
        both = f"{family.bias} and {family.decoder_bias}"
        raise CheckpointError(f"{folder}: {both} differ, which are one; save the model again")


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
