"""A checkpoint says what it holds, how far it had come and what belongs to it; messages call it by its name."""

from __future__ import annotations

import pickle
import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.data.encoding import DEFAULT_ENCODING, EncodingOptions
from fairseq_cloze.data.fairseq_files import DICTIONARY_FILE, MERGES_FILE
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError
from fairseq_cloze.model.names import RANKING_HEAD
from fairseq_cloze.views.settings import AS_TRAINED, PartialSettings, Settings
from fairseq_cloze.weights.carried import STATE_KEY, OtherVocabulary, carried_state, read_carried
from fairseq_cloze.weights.checkpoint import Checkpoint, Progress, digests, unusable

from ..support.models import tiny_state


def without_state(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.state.items() if key != "task_state"}


def changed(vocabulary: Vocabulary, name: str, old: bytes, new: bytes) -> Vocabulary:
    content = vocabulary.fairseq_files()[name]
    assert old in content
    return Vocabulary({**vocabulary.fairseq_files(), name: content.replace(old, new, 1)}, "changed")


# -- what it holds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ([1, 2], ""),
        ({"weights": {}}, ""),
        ({"model": [1]}, ""),
        (
            {"roberta.embeddings.word_embeddings.weight": 1},
            ", found Hugging Face weights; convert them with 'fairseq-cloze import-hf'",
        ),
    ],
)
def test_something_else(tmp_path: Path, state: Any, hint: str) -> None:
    with pytest.raises(CheckpointError) as error:
        Checkpoint(state, tmp_path / "x.pt")
    assert str(error.value) == f"{tmp_path / 'x.pt'}: expected a checkpoint of fairseq{hint}"


def test_messages_call_it_by_its_name(tmp_path: Path, pretrained: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.read(tmp_path / "private.pt", "checkpoint3.pt")
    assert str(error.value) == "checkpoint3.pt: no such checkpoint; check the path"
    (tmp_path / "private.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError) as error:
        Checkpoint.read(tmp_path / "private.pt", "checkpoint3.pt")
    assert str(error.value).startswith("checkpoint3.pt: cannot be read as a checkpoint, 4 bytes (")
    found = Checkpoint.read(pretrained / "model.pt", "the small one")
    with pytest.raises(CheckpointError) as error:
        found.require_ranking_head()
    assert str(error.value) == (
        "the small one: has no ranking head, its scores would be random; pass --scorer mean, or train one first"
    )


def test_heads(pretrained: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    assert Checkpoint(state, "x.pt").heads == set()
    state["model"] = {**state["model"], f"{RANKING_HEAD}dense.bias": torch.zeros(2)}
    state["model"]["classification_heads.mnli.dense.bias"] = torch.zeros(2)
    found = Checkpoint(state, "x.pt")
    assert found.heads == {"cloze_ranking", "mnli"}
    found.require_ranking_head()


@pytest.mark.parametrize(
    ("epoch", "inside", "updates", "expected"),
    [
        (3, 0, 20, Progress(2, 20)),  # at its end, the next one is named
        (3, 7, 27, Progress(3, 27)),
        (1, 0, 0, Progress(1, 0)),
        (None, None, 5, Progress(None, 5)),
        (4, 1, None, Progress(4, None)),
    ],
)
def test_progress(epoch: int | None, inside: int | None, updates: int | None, expected: Progress) -> None:
    state: dict[str, Any] = {"model": {}}
    if epoch is not None:
        state["extra_state"] = {"train_iterator": {"epoch": epoch, "iterations_in_epoch": inside}}
    if updates is not None:
        state["optimizer_history"] = [{"num_updates": 1}, {"num_updates": updates}]
    assert Checkpoint(state, "x.pt").progress == expected


def test_identity(pretrained: Path) -> None:
    """It is the weights', after so many updates, scored in such a way; what a run remembers is no part of it."""
    whole = Checkpoint.read(pretrained / "model.pt")
    bias = "encoder.lm_head.bias"
    vocabulary = whole.require_vocabulary()

    def identity(**more: Any) -> str:
        state = {**whole.state, "optimizer_history": [{"num_updates": 10}], **more}
        return Checkpoint(state, "x.pt").identity

    def carried(view: str, encoding: EncodingOptions = DEFAULT_ENCODING) -> dict[str, Any]:
        return carried_state(vocabulary, encoding, Settings(view))

    def options(**more: Any) -> Namespace:
        return Namespace(**{**vars(whole.state["args"]), **more})

    same = [
        identity(),
        identity(extra_state={"val_loss": 1.0, "train_iterator": {"epoch": 2, "iterations_in_epoch": 0}}),
        identity(last_optimizer_state={"state": {}}, optimizer_history=[{"num_updates": 10, "best_loss": 2.0}]),
        identity(args=options(save_dir="elsewhere", max_update=50)),
        identity(model={name: value.clone() for name, value in whole.state["model"].items()}),
    ]
    assert len({*same}) == 1
    others = [
        identity(optimizer_history=[{"num_updates": 11}]),
        identity(model={**whole.state["model"], bias: whole.state["model"][bias] + 1e-3}),
        identity(model={**whole.state["model"], bias: whole.state["model"][bias].double()}),
        identity(args=options(layer_norm_eps=1e-6)),
        identity(task_state=carried("full")),
        identity(task_state=carried("full", EncodingOptions(sentence_case=True))),
    ]
    assert len({same[0], *others}) == 1 + len(others)


def test_the_proof_names_the_part_and_the_first_difference(pretrained: Path) -> None:
    checkpoint = Checkpoint.read(pretrained / "model.pt")
    own = digests(checkpoint.weights)
    assert checkpoint.prove_load(checkpoint.weights, own) == (
        f"weights are those of {checkpoint.name} (encoder {own['encoder'][:12]}, LM head {own['LM head'][:12]})"
    )
    for name, part in (
        ("encoder.sentence_encoder.layers.1.fc2.bias", "encoder"),
        ("encoder.lm_head.bias", "LM head"),
    ):
        other = {**checkpoint.weights, name: checkpoint.weights[name] + 1}
        found = digests(other)
        with pytest.raises(CheckpointError) as error:
            checkpoint.prove_load(other, found)
        assert str(error.value) == (
            f"the {part} is not that of {checkpoint.name}: expected digest {own[part][:12]}, found {found[part][:12]}; "
            f"training would start from other weights than those asked for (first difference: {name})"
        )


# -- what it carries -------------------------------------------------------------------------------------------------


def test_what_is_carried_comes_back(vocabulary: Vocabulary) -> None:
    settings = Settings("full", "head", "mask", 0.25)
    state = {"model": {}, "task_state": carried_state(vocabulary, EncodingOptions("none", True), settings)}
    found = Checkpoint(state, "x.pt")
    assert found.carried == PartialSettings("full", "head", "mask", 0.25)
    assert found.carried.completed() == settings
    assert found.encoding == EncodingOptions("none", True)
    assert found.vocabulary is not None and found.vocabulary.files == vocabulary.files


def test_of_other_origin(pretrained: Path) -> None:
    found = Checkpoint(without_state(Checkpoint.read(pretrained / "model.pt")), "elsewhere/x.pt")
    assert (found.carried, found.encoding, found.vocabulary) == (AS_TRAINED, None, None)
    with pytest.raises(CheckpointError, match="^elsewhere/x.pt: carries no vocabulary and none lies beside it; put "):
        found.require_vocabulary()
    beside = Checkpoint(found.state, pretrained / "model.pt")
    assert beside.vocabulary is not None and beside.vocabulary.files == Vocabulary.load(pretrained).files


def test_of_a_newer_version(vocabulary: Vocabulary) -> None:
    state = carried_state(vocabulary, DEFAULT_ENCODING, Settings())
    state[STATE_KEY]["version"] = 3
    with pytest.raises(CheckpointError) as error:
        read_carried(state, "x.pt")
    assert str(error.value) == (
        "x.pt: expected version 2 of what this project adds to a checkpoint, found 3; use a newer fairseq-cloze"
    )
    assert read_carried(None, "x.pt") is read_carried({"other": 1}, "x.pt") is None


# -- vocabularies ----------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_proved_as_far_as_that_goes(tmp_path: Path, pretrained: Path, vocabulary: Vocabulary) -> None:
    dictionary, tokenizer = vocabulary.dictionary_digest[:12], vocabulary.tokenizer_digest[:12]
    whole = Checkpoint.read(pretrained / "model.pt")
    line = f"dictionary {dictionary} and tokenizer {tokenizer} are the checkpoint's"
    assert whole.check_vocabulary(vocabulary, "the data") == (line, True)
    bare = Checkpoint(without_state(whole), tmp_path / "x.pt")
    unknown = f"could not be compared, {tmp_path / 'x.pt'} came without"
    line = f"dictionary has the checkpoint's {len(vocabulary):,} rows; it and the tokenizer {unknown}"
    assert bare.check_vocabulary(vocabulary, "the data") == (line, False)
    (tmp_path / DICTIONARY_FILE).write_bytes(vocabulary.fairseq_files()[DICTIONARY_FILE])
    line = f"dictionary {dictionary} is the checkpoint's; the tokenizer {unknown}"
    assert bare.check_vocabulary(vocabulary, "the data") == (line, False)


def test_another_vocabulary_says_which_part_differs(pretrained: Path, vocabulary: Vocabulary) -> None:
    checkpoint = Checkpoint.read(pretrained / "model.pt")
    lines = vocabulary.fairseq_files()[DICTIONARY_FILE].splitlines(keepends=True)
    merges = vocabulary.fairseq_files()[MERGES_FILE]
    others = {
        "dictionary": changed(vocabulary, DICTIONARY_FILE, lines[4] + lines[5], lines[5] + lines[4]),
        "tokenizer": changed(vocabulary, MERGES_FILE, b"\n".join(merges.split(b"\n")[-2:]), b""),
    }
    for part, other in others.items():
        with pytest.raises(OtherVocabulary) as error:
            checkpoint.check_vocabulary(other, "data-bin x")
        assert error.value.part == part
        assert str(error.value).startswith(f"the {part} of data-bin x does not belong to {checkpoint.name}: expected")
        again = pickle.loads(pickle.dumps(error.value))
        assert (again.part, str(again)) == (part, str(error.value))


def test_options_of_both_layouts() -> None:
    old = Checkpoint({"model": {}, "args": Namespace(encoder_layers=6)}, "x.pt")
    new = Checkpoint({"model": {}, "cfg": {"model": {"encoder_layers": 6}, "task": {"data": "bin"}}}, "x.pt")
    assert old.option("encoder_layers") == new.option("encoder_layers") == 6
    assert old.option("activation_fn") is new.option("activation_fn") is None
    assert (old.task_options, new.task_options) == ({}, {"data": "bin"})


# -- damaged ones ----------------------------------------------------------------------------------------------------

EMBEDDING = "encoder.sentence_encoder.embed_tokens.weight"
WHERE = "first in encoder.sentence_encoder.layers.0.fc1.weight; take an earlier checkpoint, 'fairseq-cloze doctor' says"
DIVIDES = "expected a number that divides the width 8, found"
MISFIT = "weights do not fit the model,"
NUMBERS = "expected one or two dimensions of floating-point numbers, found"
ACTIVATIONS = "expected one of gelu, gelu_accurate, gelu_fast, linear, relu, tanh, found"
FIRST = "encoder.sentence_encoder.layers.0.fc1.weight"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (FIRST, "text", f"weight {FIRST}: {NUMBERS} str"),
        (FIRST, torch.tensor(1.0), f"weight {FIRST}: {NUMBERS} torch.float32 ()"),
        (FIRST, torch.zeros(8, 8, dtype=torch.int64), f"weight {FIRST}: {NUMBERS} torch.int64 (8, 8)"),
        (FIRST, torch.zeros(8, 8, dtype=torch.complex64), f"weight {FIRST}: {NUMBERS} torch.complex64 (8, 8)"),
        (EMBEDDING, torch.zeros(0, 8), f"weight {EMBEDDING}: {NUMBERS} torch.float32 (0, 8)"),
        (3, torch.zeros(8), f"weight 3: {NUMBERS} torch.float32 (8,)"),
        (FIRST, torch.zeros(7, 8), f"{MISFIT} encoder.sentence_encoder.layers.0.fc1.bias: expected (7,), found (8,)"),
        (f"{FIRST}x", torch.zeros(7, 8), f"{MISFIT} {FIRST}x: expected none, found (7, 8)"),
        (FIRST.replace("0", "3"), torch.zeros(8, 8), f"{MISFIT} expected 1 layers as configured, found 2"),
        (FIRST, torch.full((8, 8), torch.nan), f"64 weights are NaN or beyond 1e+09, {WHERE} more"),
    ],
)  # fmt: skip
def test_weights_that_are_none(name: Any, value: Any, problem: str) -> None:
    state = tiny_state()
    state["model"][name] = value
    with pytest.raises(CheckpointError) as error:
        Checkpoint(state, "x.pt").require_sound()
    assert str(error.value) in (f"x.pt: {problem}", f"x.pt: {problem}; take the original file")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e9])
def test_weights_that_nothing_can_be_computed_with(value: float) -> None:
    weights = {"a": torch.ones(3, dtype=torch.float16), "empty": torch.empty(0), "b": torch.tensor([1.0, value, value])}
    assert unusable({**weights, "c": torch.tensor([value])}) == (3, "3 weights are NaN or beyond 1e+09, first in b")
    half = torch.tensor([1.0, value]).half()
    assert unusable({"half": half}) == (1, "1 weights are NaN or beyond 1e+09, first in half")
    assert unusable({"a": torch.full((2,), 1e9), "n": torch.tensor([3])}) == (0, "")


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("encoder_attention_heads", 3, f"{DIVIDES} 3"),
        ("encoder_attention_heads", 0, f"{DIVIDES} 0"),
        ("encoder_attention_heads", "2", f"{DIVIDES} 2"),
        pytest.param("encoder_attention_heads", 10**5000, f"{DIVIDES} a number of 16,610 bits", id="huge"),
        ("layer_norm_eps", -1.0, "expected a small number above 0, found -1.0"),
        ("layer_norm_eps", float("nan"), "expected a small number above 0, found nan"),
        ("activation_fn", "swish", f"{ACTIVATIONS} swish"),
        ("activation_fn", torch.ones(2), f"{ACTIVATIONS} a Tensor"),
        ("pooler_activation_fn", [1], f"{ACTIVATIONS} a list"),
        ("untie_weights_roberta", "False", "expected true or false, found False"),
        ("encoder_layers", 10**9, f"{MISFIT} expected 1000000000 layers as configured, found 1"),
    ],
)  # fmt: skip
def test_options_that_are_none(option: str, value: Any, problem: str) -> None:
    state = tiny_state()
    setattr(state["args"], option, value)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(state, "x.pt").require_sound()
    start = "" if problem.startswith(MISFIT) else f"option {option}: "
    assert str(error.value) == f"x.pt: {start}{problem}; take the original file"


@pytest.mark.parametrize("configuration", [None, 3, "text", [], {"model": []}, {"model": {"encoder_layers": 1}}])
def test_configurations_that_are_none(configuration: Any) -> None:
    found = Checkpoint({**tiny_state(), "args": None, "cfg": configuration}, "x.pt")
    with pytest.raises(CheckpointError) as error:
        _ = found.architecture
    assert str(error.value) == (
        "x.pt: expected a masked LM of fairseq or of this project, 'encoder_attention_heads' is missing from it"
    )
    assert found.task_options == {}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"version": 1}, "vocabulary"),
        ({"version": 1, "vocabulary": {"dict.txt": b"x"}}, "vocabulary"),
        ({"version": 1, "encoding": 3}, "encoding"),
        ({"version": 1, "encoding": {"norm": 1}}, "encoding"),
        ({"version": 1, "view": 3}, "view"),
        ({"version": 1, "contrast": "much"}, "contrast"),
    ],
)  # fmt: skip
def test_what_is_carried_is_damaged(content: Any, part: str) -> None:
    found = Checkpoint({"model": {}, "task_state": {STATE_KEY: content}}, "x.pt")
    with pytest.raises(CheckpointError) as error:
        getattr(found, part if part in ("vocabulary", "encoding") else "carried")
    assert str(error.value).startswith(f"x.pt: the {part} that it carries is damaged (")


def test_a_vocabulary_that_unpacks_to_gigabytes() -> None:
    bomb = zlib.compress(bytes(1 << 25) + b"x", 1)
    files = dict.fromkeys(("dict.txt", "encoder.json", "vocab.bpe"), bomb)
    found = Checkpoint({"model": {}, "task_state": {STATE_KEY: {"version": 1, "vocabulary": files}}}, "x.pt")
    with pytest.raises(CheckpointError) as error:
        _ = found.vocabulary
    assert str(error.value) == (
        "x.pt: the vocabulary that it carries is damaged (cut short, or more than 33,554,432 bytes); take the "
        "original file"
    )
