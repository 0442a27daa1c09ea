from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_cloze.data.fairseq_files import FAIRSEQ_FILES
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.errors import CheckpointError, ClozeError
from fairseq_cloze.model.int8 import missing
from fairseq_cloze.passages.passage import LETTERS
from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.evaluate import evaluate
from fairseq_cloze.ranking.ranker import load
from fairseq_cloze.ranking.resources import Resources
from fairseq_cloze.views.settings import PartialSettings
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES, run, train

FOUR = ["calm", "cold", "old", "odd"]


def test_the_command_and_its_json(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    checkpoint = finetuned / "checkpoint_best.pt"
    out = tmp_path / "results" / "valid.json"
    done = run("fairseq-cloze", "evaluate", checkpoint, data_bin, "--json", out)
    result = json.loads(out.read_text())
    measured = ("seconds", "blanks_per_second", "tokens_per_second", "tokens_per_passage", "padding")
    timing = {key: result.pop(key) for key in measured}
    assert all(value >= 0 for value in timing.values())
    best = torch.load(checkpoint, weights_only=True)["extra_state"]["best"]
    correct = round(best * 102 / 100)
    gold = [g for passage in read_passages([PASSAGES / "valid"]) for g in passage.gold]
    majority = int(np.bincount(gold).argmax())
    accuracies = {key: result.pop(key) for key in ("accuracy_one_token", "accuracy_multi_token", "mrr")}
    n_one, n_multi = result.pop("n_one_token"), result.pop("n_multi_token")
    notes = result.pop("notes")
    assert [one["path"] for one in result.pop("checkpoints")] == [str(checkpoint)]
    assert result == {
        "checkpoint": str(checkpoint),
        "data_bin": str(data_bin),
        "split": "valid",
        "view": "joint",
        "scorer": "mean",
        "other_blanks": "remove",
        "contrast": 0.7,
        "weights": [1.0],
        "forwards_per_passage": pytest.approx(result["forwards_per_passage"]),
        "encoding": {"text_norm": "standard", "sentence_case": False, "language": "en"},
        "device": "cpu",
        "fp16": False,
        "bf16": False,
        "int8": False,
        "accuracy": pytest.approx(100 * correct / 102),
        "chance": pytest.approx(25.0),
        "majority": pytest.approx(100 * gold.count(majority) / 102),
        "majority_answer": LETTERS[majority],
        "n_blanks": 102,
        "n_unlabelled": 0,
        "breakdown": {},
    }
    assert n_one + n_multi == 102 and n_one > 0
    split = accuracies["accuracy_one_token"] * n_one + accuracies["accuracy_multi_token"] * n_multi
    assert split == pytest.approx(100 * correct)
    assert 0.25 < accuracies["mrr"] < 1
    lines = [line for line in done.text.splitlines() if "tensorboardX" not in line]
    assert lines[0] == f"{checkpoint} on valid of {data_bin} (view joint, scorer mean, contrast 0.7)"
    assert lines[1:6] == [
        f"{'':24}accuracy %    blanks",
        f"{'all blanks':24}{100 * correct / 102:10.2f}{102:10}",
        f"{'one-token candidates':24}{accuracies['accuracy_one_token']:10.2f}{n_one:10}",
        f"{'multi-token candidates':24}{accuracies['accuracy_multi_token']:10.2f}{n_multi:10}",
        f"{'chance':24}{25.0:10.2f}",
    ]
    assert lines[6] == f"{f'always {LETTERS[majority]}':24}{100 * gold.count(majority) / 102:10.2f}"
    assert lines[7].startswith(f"MRR {accuracies['mrr']:.4f}; ") and "blanks/s, padding" in lines[7]
    passages = f"{result['forwards_per_passage']:.2f} forwards with {timing['tokens_per_passage']:,.0f} tokens"
    assert lines[8] == f"a passage takes {passages}"
    assert lines[9:] == notes


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_batch_size_gives_the_same(finetuned: Path, data_bin: Path, split: str) -> None:
    checkpoint = finetuned / "checkpoint_last.pt"
    results = [evaluate(checkpoint, data_bin, split, resources=Resources(batch_size=size)) for size in (1, 7, 64)]
    results.append(evaluate(checkpoint, data_bin, split, resources=Resources(max_tokens=1000)))
    assert len({(result.accuracy, result.mrr, result.n_blanks) for result in results}) == 1
    assert results[0].n_blanks == {"train": 405, "test": 98}[split]


def test_half_precision(finetuned: Path, data_bin: Path) -> None:
    checkpoint = finetuned / "checkpoint_last.pt"
    half, full = (evaluate(checkpoint, data_bin, "train", resources=Resources(fp16=fp16)) for fp16 in (True, False))
    assert (half.n_blanks, half.fp16) == (405, True)
    assert abs(half.accuracy - full.accuracy) <= 100 * 2 / 405


@pytest.mark.skipif(missing() is not None, reason="needs a CPU with VNNI or AMX")
def test_int8(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    """Both results and the prediction file say it; several checkpoints work; no batch size changes the answers."""
    checkpoint, out = finetuned / "checkpoint_last.pt", tmp_path / "p.json"
    full, eight = (evaluate(checkpoint, data_bin, "train", resources=Resources("cpu", int8=each)) for each in (0, 1))
    assert (full.int8, eight.int8) == (False, True)
    assert abs(eight.accuracy - full.accuracy) <= 100 * 6 / 405 and abs(eight.mrr - full.mrr) < 0.01
    small = Resources("cpu", batch_size=3, int8=True)
    several = evaluate(f"{checkpoint}:{checkpoint}", data_bin, "train", resources=small, predictions_path=out)
    assert (several.accuracy, several.mrr) == (eight.accuracy, pytest.approx(eight.mrr, abs=1e-4))
    assert json.loads(out.read_text())["fairseq_cloze"]["int8"] is True


def test_int8_where_the_cpu_is_not_made_for_it(
    monkeypatch: pytest.MonkeyPatch, finetuned: Path, data_bin: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    checkpoint = finetuned / "checkpoint_last.pt"
    full, other = (evaluate(checkpoint, data_bin, resources=Resources("cpu", int8=each)) for each in (False, True))
    assert (other.int8, other.accuracy, other.mrr) == (False, full.accuracy, full.mrr)
    assert set(other.notes) - set(full.notes) == {
        "--int8: this CPU has neither VNNI nor AMX, so it was computed in float32"
    }


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        (Resources("cpu", bf16=True, int8=True), "--int8 and --bf16: expected one of them, as each says what computes"),
        (Resources("cpu", fp16=True, int8=True), "--int8 and --fp16: expected one of them, as each says what computes"),
        (Resources("meta", int8=True), "--int8 is for CPUs, and the device is meta; take --device cpu"),
    ],
)
def test_int8_beside_what_it_does_not_go_with(
    finetuned: Path, data_bin: Path, resources: Resources, problem: str
) -> None:
    with pytest.raises(ClozeError, match=f"^{problem}$"):
        evaluate(finetuned / "checkpoint_last.pt", data_bin, resources=resources)


def test_chance_is_said_to_be_chance(pretrained: Path, data_bin: Path) -> None:
    """Random weights: the table says that this is guessing, and where to read on."""
    result = evaluate(pretrained / "model.pt", data_bin, "train")
    margin = 196 * (0.25 * 0.75 / 405) ** 0.5
    assert result.accuracy < 25 + margin
    assert result.notes == [
        f"accuracy is not above chance: guessing gives {25 - margin:.1f} to {25 + margin:.1f}% in 95 of 100 cases; "
        "see docs/chance.md for the likely causes"
    ]


def test_text_encoded_otherwise_is_noted(tmp_path: Path, finetuned: Path, pretrained: Path) -> None:
    from fairseq_cloze.data.encoding import EncodingOptions

    prepare({"valid": [PASSAGES / "valid"]}, pretrained, tmp_path / "raw", EncodingOptions("none"), workers=1)
    result = evaluate(finetuned / "checkpoint_last.pt", tmp_path / "raw")
    assert (
        "the checkpoint's text was encoded with {'text_norm': 'standard', 'sentence_case': False, 'language': 'en'}, "
        "the data-bin's with {'text_norm': 'none', 'sentence_case': False, 'language': 'en'}"
    ) in result.notes


def test_unlabelled_blanks_are_counted_apart(tmp_path: Path, pretrained: Path, passage: Callable[..., Path]) -> None:
    passage("a.json", "It was _ and _ .", [FOUR, FOUR])
    path = passage("b.json", "It was _ .", [FOUR], ["A"])
    prepare({"test": [path.parent]}, pretrained, tmp_path / "bin", workers=1)
    result = evaluate(pretrained / "model.pt", tmp_path / "bin", "test")
    assert (result.n_blanks, result.n_unlabelled) == (1, 2)
    assert "2 blanks are unlabelled and count for nothing above" in result.notes


def test_scores_that_are_no_numbers(
    tmp_path: Path, pretrained: Path, data_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are none are refused before; others can overflow, in a larger model below the limit, too."""
    state = Checkpoint.read(pretrained / "model.pt").state
    name = "encoder.lm_head.layer_norm.weight"
    for value in (float("nan"), 3e38):
        torch.save({**state, "model": {**state["model"], name: torch.full((48,), value)}}, tmp_path / "model.pt")
        with pytest.raises(ClozeError) as error:
            evaluate(tmp_path / "model.pt", data_bin, resources=Resources(batch_size=1))
        text = str(error.value)
        if value == 3e38:
            assert text.startswith(f"{tmp_path / 'model.pt'}: expected numbers as scores, found NaN or infinity for ")
            assert text.endswith("the weights are damaged, take another checkpoint")
            assert ", first in passage '" in text and "', blank " in text
        else:
            assert text == (
                f"{tmp_path / 'model.pt'}: 48 weights are NaN or beyond 1e+09, first in "
                f"{name}; take an earlier checkpoint, 'fairseq-cloze doctor' says more"
            )
        monkeypatch.setattr("fairseq_cloze.weights.checkpoint.LARGEST", math.inf)


# -- checkpoints that do not fit -------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_vocabulary(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    state = Checkpoint.read(pretrained / "model.pt").state
    torch.save({key: value for key, value in state.items() if key != "task_state"}, tmp_path / "model.pt")
    for name in FAIRSEQ_FILES:
        shutil.copy(pretrained / name, tmp_path)
    rows = (tmp_path / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join([rows[3], *rows[1:3], rows[0], *rows[4:]]))
    with pytest.raises(CheckpointError, match="the dictionary of data-bin .* does not belong to .*model.pt: expected"):
        evaluate(tmp_path / "model.pt", data_bin)


def test_no_head_to_score_with(finetuned: Path, data_bin: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        evaluate(finetuned / "checkpoint_last.pt", data_bin, settings=PartialSettings(view="full", scorer="head"))
    assert str(error.value) == (
        f"{finetuned / 'checkpoint_last.pt'}: has no ranking head, its scores would be random; "
        "pass --scorer mean, or train one first"
    )


@pytest.mark.slow
def test_another_activation_in_the_ranking_head(tmp_path: Path, data_bin: Path) -> None:
    """The shape of the head comes from the checkpoint, too: fairseq-validate and evaluate agree."""
    shape = ("--encoder-layers", 1, "--encoder-embed-dim", 24, "--encoder-attention-heads", 2)
    options = ("--arch", "cloze_roberta", "--from-scratch", *shape, "--view", "neighbors", "--scorer", "head")
    schedule = ("--lr", 0.02, "--batch-size", 32, "--max-update", 12)  # until scores differ by more than rounding does
    ran = train(data_bin, tmp_path, *options, "--pooler-activation-fn", "relu", *schedule)
    checkpoint = tmp_path / "checkpoint_last.pt"
    [member] = load(checkpoint).members
    assert member.architecture.pooler_activation_fn == "relu"
    assert member.model.classification_heads["cloze_ranking"].activation_fn is torch.nn.functional.relu
    result = evaluate(checkpoint, data_bin)
    [row] = ran.metrics("valid")
    assert (result.accuracy, result.mrr) == (pytest.approx(row["accuracy"], 1e-4), pytest.approx(row["mrr"], 1e-4))


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_a_device_that_is_not_there(finetuned: Path, data_bin: Path, device: str) -> None:
    with pytest.raises(ClozeError, match=rf"device {device} cannot be used \(.*\); take cpu, cuda, or cuda:N"):
        evaluate(finetuned / "checkpoint_last.pt", data_bin, resources=Resources(device=device))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_result_that_cannot_be_written(tmp_path: Path, finetuned: Path, data_bin: Path, command: str) -> None:
    """Said before the work, not after it."""
    arguments = (data_bin, "--json", tmp_path) if command == "evaluate" else (PASSAGES / "test", "--out", tmp_path)
    done = run("fairseq-cloze", command, finetuned / "gone.pt", *arguments, code=1)
    assert done.text.splitlines()[-1] == f"Error: {tmp_path}: cannot be written (Is a directory); choose another file"
    assert list(tmp_path.iterdir()) == []


def test_joint_with_a_head(finetuned: Path, data_bin: Path) -> None:
    with pytest.raises(ClozeError, match="--view joint needs --scorer mean, kmask or l2r, found --scorer head"):
        evaluate(finetuned / "checkpoint_last.pt", data_bin, settings=PartialSettings(view="joint", scorer="head"))


def test_missing_checkpoint(tmp_path: Path, data_bin: Path) -> None:
    done = run("fairseq-cloze", "evaluate", tmp_path / "gone.pt", data_bin, code=1)
    assert done.text.splitlines()[-1] == f"Error: {tmp_path / 'gone.pt'}: no such checkpoint; check the path"
