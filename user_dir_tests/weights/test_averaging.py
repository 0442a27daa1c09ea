from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.data.vocabulary import Vocabulary
from fairseq_cloze.errors import CheckpointError, ClozeError

from ..support.commands import FINETUNE, PASSAGES, run, train, validate

register()

from fairseq_cloze.ranking.evaluate import evaluate  # noqa: E402
from fairseq_cloze.weights.averaging import average_checkpoints  # noqa: E402
from fairseq_cloze.weights.carried import STATE_KEY  # noqa: E402
from fairseq_cloze.weights.checkpoint import Checkpoint  # noqa: E402

EMBEDDING, PROJECTION = "encoder.sentence_encoder.embed_tokens.weight", "encoder.lm_head.weight"
FIRST = "encoder.sentence_encoder.layers.0.fc1.weight"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, data_bin: Path) -> Path:
    """A training that saves after each of four updates."""
    folder = tmp_path_factory.mktemp("trained")
    saves = ("--max-update", 4, "--save-interval-updates", 1, "--disable-validation")
    train(data_bin, folder, *FINETUNE, *saves, "--finetune-from-model", pretrained / "model.pt")
    return folder


@pytest.fixture
def variant(tmp_path: Path, pretrained: Path) -> Callable[..., Path]:
    """Writer of checkpoints: the small model's state, changed in place by a function, its weights moved a little."""

    def write(name: str, change: Callable[[dict[str, Any]], Any] = lambda state: None, seed: int = 0) -> Path:
        state = deepcopy(Checkpoint.read(pretrained / "model.pt").state)
        state["model"][FIRST] += 0.01 * torch.randn(state["model"][FIRST].shape, generator=_generator(seed))
        change(state)
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return write


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the mean --------------------------------------------------------------------------------------------------------


def test_the_mean_is_fairseqs(tmp_path: Path, trained: Path) -> None:
    """Added in the order given and divided by their number, as fairseq's script does, to the last bit."""
    paths = [trained / f"checkpoint_1_{update}.pt" for update in (2, 3, 4)]
    states = [Checkpoint.read(path).state for path in paths]
    assert average_checkpoints(paths, tmp_path / "deep" / "mean.pt") == tmp_path / "deep" / "mean.pt"
    mean = Checkpoint.read(tmp_path / "deep" / "mean.pt").state
    assert list(mean["model"]) == list(states[0]["model"])
    for name, value in mean["model"].items():
        a, b, c = (state["model"][name] for state in states)
        assert value.dtype == a.dtype
        torch.testing.assert_close(value, (a + b + c) / 3, rtol=0, atol=0)
    assert not torch.equal(mean["model"][FIRST], states[2]["model"][FIRST])


def test_what_is_kept_of_the_last(tmp_path: Path, trained: Path) -> None:
    paths = [trained / f"checkpoint_1_{update}.pt" for update in (3, 4)]
    average_checkpoints(paths, tmp_path / "mean.pt")
    mean, last = Checkpoint.read(tmp_path / "mean.pt").state, Checkpoint.read(paths[1]).state
    assert list(mean) == list(last)
    for key in set(last) - {"model", "last_optimizer_state", "extra_state"}:
        assert mean[key] == last[key], key
    assert (
        last["last_optimizer_state"] is not None and last["extra_state"]["train_iterator"]["iterations_in_epoch"] == 4
    )
    assert mean["last_optimizer_state"] is None
    assert mean["extra_state"] == {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None}
    tied = mean["model"][EMBEDDING].data_ptr() == mean["model"][PROJECTION].data_ptr()
    assert tied, "embedding and projection are one tensor, and are stored once"
    assert (tmp_path / "mean.pt").stat().st_size < paths[1].stat().st_size / 2  # no optimiser


def test_types_are_kept_and_sums_are_wide(tmp_path: Path, variant: Callable[..., Path]) -> None:
    """Half precision: 2048 + 1 is 2048 in float16, so sums in float16 would lose the small ones.  Integers: floor."""

    def change(value: float, number: int) -> Callable[[dict[str, Any]], None]:
        def apply(state: dict[str, Any]) -> None:
            state["model"][FIRST] = torch.full_like(state["model"][FIRST], value, dtype=torch.float16)
            state["model"]["steps"] = torch.tensor([number, -number])

        return apply

    values = [(2048.0, 1), (1.0, 3), (1.0, 4)]
    paths = [variant(f"{number}.pt", change(*pair), number) for number, pair in enumerate(values[:2])]
    paths.append(variant("2.pt", lambda state: (change(*values[2])(state), state["model"][EMBEDDING].add_(0.5))))
    average_checkpoints(paths, tmp_path / "mean.pt")
    mean = Checkpoint.read(tmp_path / "mean.pt").state["model"]
    assert mean[FIRST].dtype == torch.float16
    assert mean[FIRST].unique().tolist() == [float(torch.tensor(2050 / 3, dtype=torch.float16))]
    assert mean["steps"].tolist() == [2, -3]
    assert mean["steps"].dtype == torch.int64


@pytest.mark.slow
def test_a_mean_is_used_as_any_checkpoint(tmp_path: Path, trained: Path, data_bin: Path) -> None:
    """fairseq-validate and evaluate agree on it, predict needs nothing else, training starts from it."""
    paths = [trained / f"checkpoint_1_{update}.pt" for update in (2, 4)]
    out = tmp_path / "mean.pt"
    done = run("fairseq-cloze", "average", *paths, "--out", out)
    assert done.text.splitlines() == [f"wrote {out}, the mean of 2 checkpoints"]
    [row] = validate(data_bin, out, "--batch-size", 8).metrics("valid")
    result = evaluate(out, data_bin)
    assert (result.accuracy, result.mrr) == (pytest.approx(row["accuracy"], 1e-4), pytest.approx(row["mrr"], 1e-4))
    run("fairseq-cloze", "predict", out, PASSAGES / "test", "--out", tmp_path / "answers.json")
    options = (*FINETUNE, "--max-update", 1, "--disable-validation", "--finetune-from-model", out)
    ran = train(data_bin, tmp_path / "next", *options)
    assert f"weights are those of {out}" in ran.text
    state = Checkpoint.read(tmp_path / "next" / "checkpoint_last.pt").state
    assert state["optimizer_history"][-1]["num_updates"] == 1


# -- checkpoints that do not belong together -------------------------------------------------------------------------


def _carry(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["task_state"][STATE_KEY].update(values)


def _wider(state: dict[str, Any]) -> None:
    state["model"][FIRST] = torch.cat([state["model"][FIRST]] * 2)


MISFITS: list[Any] = [
    (_carry(view="full"), "view joint, found full"),
    (_carry(scorer="head"), "scorer mean, found head"),
    (_carry(encoding={"text_norm": "none", "sentence_case": False}), "text_norm standard, found none"),
    (lambda state: setattr(state["args"], "encoder_attention_heads", 2), "encoder_attention_heads 4, found 2"),
    (lambda state: setattr(state["args"], "layer_norm_eps", 1e-5), "layer_norm_eps 1e-12, found 1e-05"),
    (_wider, "encoder_ffn_embed_dim 96, found 192"),
    (
        lambda state: state["model"].update({"encoder.lm_head.bias": torch.zeros(3)}),
        "weight encoder.lm_head.bias (600,) torch.float32, found (3,) torch.float32",
    ),
    (
        lambda state: state["model"].update({FIRST: state["model"][FIRST].half()}),
        f"weight {FIRST} (96, 48) torch.float32, found (96, 48) torch.float16",
    ),
    (lambda state: state["model"].pop("encoder.lm_head.bias"), "weight encoder.lm_head.bias (600,) torch.float32, "
                                                               "found none"),
    (lambda state: state["model"].update(new=torch.zeros(2)), "weight new none, found (2,) torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), MISFITS)
def test_checkpoints_that_differ(
    tmp_path: Path, variant: Callable[..., Path], change: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    first, second = variant("first.pt"), variant("second.pt", change, seed=1)
    with pytest.raises(CheckpointError) as error:
        average_checkpoints([first, second], tmp_path / "mean.pt")
    assert str(error.value) == (
        f"{second}: does not belong to {first}: expected {problem}; average checkpoints of one run"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pt", "second.pt"]


def test_another_vocabulary(tmp_path: Path, variant: Callable[..., Path]) -> None:
    import zlib

    def swap(state: dict[str, Any]) -> None:
        files = state["task_state"][STATE_KEY]["vocabulary"]
        content = json.loads(zlib.decompress(files["tokenizer.json"]))
        numbers = content["model"]["vocab"]
        numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
        files["tokenizer.json"] = zlib.compress(json.dumps(content).encode())

    first, second = variant("first.pt"), variant("second.pt", swap, seed=1)
    digests = []
    for path in (first, second):
        vocabulary = Checkpoint.read(path).vocabulary
        assert isinstance(vocabulary, Vocabulary)
        digests.append(vocabulary.dictionary_digest[:12])
    done = run("fairseq-cloze", "average", first, second, "--out", tmp_path / "mean.pt", code=1)
    assert done.text.splitlines() == [
        f"Error: {second}: does not belong to {first}: expected dictionary {digests[0]}, found {digests[1]}; "
        "average checkpoints of one run"
    ]


def test_a_copy_would_count_twice(tmp_path: Path, trained: Path) -> None:
    paths = [trained / name for name in ("checkpoint_1_3.pt", "checkpoint_1_4.pt", "checkpoint_last.pt")]
    with pytest.raises(CheckpointError) as error:
        average_checkpoints(paths, tmp_path / "mean.pt")
    assert str(error.value) == (
        f"{paths[2]}: holds the same weights as {paths[1]} and would count twice; name one of them "
        "(checkpoint_best.pt and checkpoint_last.pt are copies of others)"
    )
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_averaged(tmp_path: Path, variant: Callable[..., Path]) -> None:
    def problem(*arguments: Any) -> str:
        with pytest.raises(ClozeError) as error:
            average_checkpoints(*arguments)
        return str(error.value)

    first, second = variant("first.pt"), variant("second.pt", seed=1)
    content = first.read_bytes()
    assert problem([first], tmp_path / "mean.pt") == (
        "expected at least two checkpoints to average, found 1; name each file"
    )
    assert problem([first, tmp_path / "gone.pt"], tmp_path / "mean.pt") == (
        f"{tmp_path / 'gone.pt'}: no such checkpoint; check the path"
    )
    assert problem([second, first], first) == (
        f"{first}: would replace a checkpoint that it is made from; choose another file"
    )
    assert first.read_bytes() == content
    assert problem([first, second], tmp_path) == f"{tmp_path}: cannot be written (Is a directory); choose another file"


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, variant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [variant("first.pt"), variant("second.pt", seed=1)]
    (tmp_path / "mean.pt").write_text("what was there")

    def save(state: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ClozeError) as error:
        average_checkpoints(paths, tmp_path / "mean.pt")
    assert str(error.value) == (
        f"{tmp_path / 'mean.pt'}: cannot be written (PytorchStreamWriter failed writing file: No space left); "
        "choose another file"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pt", "mean.pt", "second.pt"]
    assert (tmp_path / "mean.pt").read_text() == "what was there"


def test_weights_that_are_no_numbers(tmp_path: Path, pretrained: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    state["model"]["encoder.lm_head.bias"][5] = torch.inf
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError) as error:
        average_checkpoints([pretrained / "model.pt", tmp_path / "bad.pt"], tmp_path / "mean.pt")
    assert str(error.value) == (
        f"{tmp_path / 'bad.pt'}: 1 weights are NaN or beyond 1e+09, first in "
        "encoder.lm_head.bias; take an earlier checkpoint, 'fairseq-cloze doctor' says more"
    )
    assert not (tmp_path / "mean.pt").exists()
