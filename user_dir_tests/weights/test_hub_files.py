"""Configuration and weights of Hugging Face folders: what is read, and what is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.weights.families import FAMILIES
from fairseq_cloze.weights.hub_files import read_config, read_weights
from fairseq_cloze.weights.hugging_face import read_hf

from ..support.models import save_tiny_hf

Weights = dict[str, torch.Tensor]

_ROBERTA = FAMILIES["roberta"]
BIAS, DECODER = _ROBERTA.bias, _ROBERTA.decoder
TOKENS, POSITIONS, TOKEN_TYPES = map(_ROBERTA.place, (_ROBERTA.tokens, _ROBERTA.positions, _ROBERTA.token_types))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_hf(tmp_path / "hf")
    return tmp_path / "hf"


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def rewrite(folder: Path, edit: Callable[[Weights], Weights], metadata: dict[str, str] | None = None) -> None:
    weights = edit(load_file(folder / "model.safetensors"))
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors", metadata)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_hf(folder)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "SRC")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("hidden_size", -8, "hidden_size: expected a number from 1 on, found -8"),
        ("hidden_size", "8", "hidden_size: expected a number from 1 on, found 8"),
        ("intermediate_size", math.nan, "intermediate_size: expected a number from 1 on, found nan"),
        ("num_attention_heads", True, "num_attention_heads: expected a number from 1 on, found True"),
        ("num_attention_heads", 3, "num_attention_heads: expected a number that divides hidden_size 8, found 3"),
        ("num_attention_heads", None, "num_attention_heads: expected a number from 1 on, found None"),
        ("layer_norm_eps", 0, "layer_norm_eps: expected a small number above 0, found 0"),
        ("layer_norm_eps", [1], "layer_norm_eps: expected a small number above 0, found a list"),
        ("hidden_dropout_prob", 2, "hidden_dropout_prob: expected a number from 0 to 1, found 2"),
        ("tie_word_embeddings", 1, "tie_word_embeddings: expected true or false, found 1"),
    ],
)  # fmt: skip
def test_fields_that_are_none(folder: Path, field: str, value: Any, problem: str) -> None:
    change(folder, **{field: value})
    assert refused(folder) == f"SRC: config.json: {problem}; copy or download it again"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("hidden_act", {"a": 1}),
        ("pad_token_id", None),
    ],
)
def test_what_a_roberta_does_not_have(folder: Path, field: str, value: Any) -> None:
    change(folder, **{field: value})
    assert refused(folder).startswith(f"SRC: expected {field} ")
    assert refused(folder).endswith("; such a model cannot be imported")


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("num_hidden_layers", 10**9, 1),
        ("hidden_size", 16, 8),
        ("vocab_size", 10, 266),
        ("max_position_embeddings", 514, 16),
    ],
)
def test_sizes_that_the_weights_do_not_have(folder: Path, field: str, value: int, found: int) -> None:
    change(folder, **{field: value})
    assert refused(folder) == (
        f"SRC: config.json says {field} {value}, the weights have {found}; they are of two models, or cut down: copy "
        "or download both again"
    )


def test_an_epsilon_left_out_is_that_of_transformers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["layer_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_hf(folder).architecture.layer_norm_eps == 1e-12


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "merges.txt"])
def test_pointers_of_git_lfs(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 498818054\n")
    assert refused(folder) == (
        f"SRC/{name}: is a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download it"
    )


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files(folder: Path, suffix: str) -> None:
    expected = read_hf(folder).weights
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {name: f"{stem}-0000{number % 2}.{suffix}" for number, name in enumerate(weights)}
    for place in set(places.values()):
        part = {name: weights[name] for name in weights if places[name] == place}
        save_file(part, folder / place) if suffix == "safetensors" else torch.save(part, folder / place)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = read_hf(folder).weights
    assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in found)
    (folder / f"{stem}-00001.{suffix}").unlink()
    assert refused(folder) == (
        f"SRC: expected {stem}-00001.{suffix}, which {index.name} names, in this folder, found none; copy or download "
        "it, too"
    )
    for other in ("../hf/config.json", "/etc/passwd", "a" * 300, ""):
        index.write_text(json.dumps({"weight_map": {**places, BIAS: other}}))
        assert ", in this folder, found none; copy or download it, too" in refused(folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    assert refused(folder) == f"SRC/{index.name}: expected weight_map, the file of each weight; download it again"


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_behind_a_wrapper(folder: Path, wrapper: str) -> None:
    expected = read_hf(folder).weights
    rewrite(folder, lambda weights: {wrapper + name: value for name, value in weights.items()})
    found = read_hf(folder)
    assert all(found.weights[name].equal(expected[name]) for name in expected)
    assert found.notes == [f"{folder}: left out '{wrapper}', which stood before the names of weights"]
    rewrite(folder, lambda weights: {**weights, BIAS: torch.zeros(266)})
    assert refused(folder) == f"SRC: {BIAS} is there twice, under two names; save the model again"


def test_tied_weights_under_the_other_name(folder: Path) -> None:
    """``safetensors.torch.save_model`` keeps one of two names, and says which in the file's metadata."""
    expected = read_hf(folder).weights
    rewrite(folder, lambda weights: {DECODER if name == TOKENS else name: value for name, value in weights.items()})
    found = read_hf(folder)
    assert all(found.weights[name].equal(expected[name]) for name in expected)
    assert not found.architecture.untie_weights_roberta
    rewrite(
        folder, lambda weights: {("x" if name == BIAS else name): value for name, value in weights.items()}, {BIAS: "x"}
    )
    assert refused(folder) == "SRC: expected lm_head.bias, found none; the LM head is incomplete"
    rewrite(folder, lambda weights: {**weights, "lm_head.decoder.bias": weights["x"]})
    assert read_hf(folder).weights["encoder.lm_head.bias"].equal(expected["encoder.lm_head.bias"])


def test_tied_weights_that_differ(folder: Path) -> None:
    """transformers takes the embedding where the configuration ties them, and so does the import."""
    expected = read_hf(folder).weights["encoder.lm_head.weight"]
    rewrite(folder, lambda weights: {**weights, DECODER: weights[TOKENS] + 1})
    found = read_hf(folder)
    assert found.weights["encoder.lm_head.weight"].equal(expected)
    assert found.notes == [f"{folder}: left out {DECODER}, as config.json says that the embedding is used in its place"]
    change(folder, tie_word_embeddings=False)
    assert read_hf(folder).weights["encoder.lm_head.weight"].equal(expected + 1)
    rewrite(folder, lambda weights: {name: value for name, value in weights.items() if name != DECODER})
    assert refused(folder) == (
        f"SRC: expected {DECODER}, as config.json has tie_word_embeddings false, found none; the LM head is incomplete"
    )
    rewrite(folder, lambda weights: {**weights, DECODER: weights[TOKENS], "lm_head.decoder.bias": torch.ones(266)})
    assert refused(folder) == "SRC: lm_head.bias and lm_head.decoder.bias differ, which are one; save the model again"


@pytest.mark.parametrize("name", [BIAS, TOKENS, "lm_head.dense.weight", "roberta.encoder.layer.0.output.dense.bias"])
def test_weights_cut_short(folder: Path, name: str) -> None:
    rewrite(folder, lambda weights: {**weights, name: weights[name][:-1]})
    assert refused(folder).startswith("SRC: config.json says vocab_size 266" if name == TOKENS else f"SRC: {name}: exp")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (TOKENS, torch.zeros(266, 8, dtype=torch.int8), "torch.int8 (266, 8)"),
        (POSITIONS, torch.tensor(1.0), "torch.float32 ()"),
    ],
)
def test_weights_of_other_types(folder: Path, name: str, value: torch.Tensor, found: str) -> None:
    rewrite(folder, lambda weights: {**weights, name: value})
    assert refused(folder) == (
        f"SRC: {name}: expected one or two dimensions of floating-point numbers, found {found}; quantised models "
        "cannot be imported"
    )


def test_weights_that_are_no_numbers(folder: Path) -> None:
    rewrite(folder, lambda weights: {**weights, BIAS: torch.full((266,), torch.inf)})
    assert "266 weights are NaN or beyond 1e+09, first in encoder.lm_head.bias; " in refused(folder)
    rewrite(folder, lambda weights: {**weights, TOKEN_TYPES: torch.zeros(2, 8)})
    assert refused(folder) == "SRC: expected one token type, as RoBERTa has, found 2"


def test_a_pickle_that_is_no_dictionary(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    assert refused(folder) == "SRC/pytorch_model.bin: expected weights by name, found a list"
    torch.save({"a": "b", 3: torch.ones(2)}, folder / "pytorch_model.bin")
    assert refused(folder) == "SRC: expected names of weights, found a int"


def test_both_halves_alone(folder: Path) -> None:
    config = read_config(folder)
    weights, notes = read_weights(folder, config)
    assert (len(weights[TOKENS]), config["hidden_size"], notes) == (266, 8, [])


def test_a_number_that_nobody_reads_need_not_be_finite(tmp_path: Path) -> None:
    """transformers writes such configurations."""
    save_tiny_hf(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "another_factor": math.inf}))
    assert read_hf(tmp_path).architecture.encoder_embed_dim == 8
