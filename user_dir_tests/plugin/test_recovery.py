"""Training, validation and evaluation in processes whose memory really runs out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.runs.events import read_events

from ..support.commands import PLUGIN, ROOT, TRAIN_OPTIONS, Ran, free_port, run, start, train
from ..support.limited import FIXED_MMAP
from ..support.models import FailingOptimizer, build
from ..support.texts import write_passage
from ..support.warm import FAIRSEQ

register()

from fairseq_cloze.data.prepare import prepare  # noqa: E402

# Without dropout, and with an optimizer that does not magnify rounding.
EXACT = ("--arch", "cloze_roberta", "--optimizer", "sgd", "--lr", "0.1", "--dropout", "0", "--attention-dropout", "0")
EXACT += ("--no-epoch-checkpoints",)


LIMITED = ROOT / "user_dir_tests" / "support" / "limited.py"


def limited(megabytes: float, *command: Any, code: int = 0) -> Ran:
    """Run a command with that much memory for the model's work."""
    env = {**FIXED_MMAP, "FAIRSEQ_CLOZE_TRACEBACK": ""}
    return run(sys.executable, LIMITED, megabytes, *command, code=code, env=env, warm=FAIRSEQ)


def limited_train(megabytes: float, data_bin: Path, save_dir: Path, *options: Any, code: int = 0) -> Ran:
    """Run fairseq-train so."""
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)
    return limited(megabytes, *command, code=code)


def weights(save_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]
    return state


def assert_same(one: Path, two: Path) -> None:
    """The weights of two trainings are the same up to rounding."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "update_freq", "megabytes"), [(16000, 1, 70), pytest.param(8000, 2, 54, marks=pytest.mark.slow)]
)
def test_training_equals_one_with_enough_memory(
    tmp_path: Path, pretrained: Path, data_bin: Path, tokens: int, update_freq: int, megabytes: float
) -> None:
    options = (*EXACT, "--finetune-from-model", pretrained / "model.pt", "--max-epoch", "2")
    options += ("--max-tokens", tokens, "--update-freq", update_freq)
    plain = train(data_bin, tmp_path / "plain", *options)
    short = limited_train(megabytes, data_bin, tmp_path / "short", *options)
    assert_same(tmp_path / "plain", tmp_path / "short")
    assert [row["oom"] for row in plain.metrics("train")] == [0, 0]
    first, second = (row["oom"] for row in short.metrics("train"))
    assert first + second == short.text.count("with a batch of") > 0
    assert sum(row["oom"] for row in short.metrics("train_inner")) == first + second
    assert short.metrics("train")[1]["split_ahead"] > 0
    for tag in ("train", "valid"):
        for ours, theirs in zip(short.metrics(tag), plain.metrics(tag)):
            assert ours["n_blanks"] == theirs["n_blanks"] == {"train": 405, "valid": 102}[tag]
            assert (ours["accuracy"], ours["num_updates"]) == (theirs["accuracy"], theirs["num_updates"])
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


def test_too_often(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    options = (*EXACT, "--finetune-from-model", pretrained / "model.pt", "--max-tokens", "16000", "--max-oom", "0")
    ran = limited_train(60, data_bin, tmp_path, *options, code=5)
    [(count, tokens, times)] = re.findall(
        r"^Error: out of memory (\d+) times, more than --max-oom 0 allows; --max-tokens (\d+) --update-freq (\d+) "
        r"makes the same updates. 'fairseq-cloze fit-batch' finds the largest --max-tokens that fits. "
        r"Nothing was saved$",
        ran.text,
        re.M,
    )
    assert int(count) == ran.text.count("with a batch of") > 0
    assert int(tokens) == 16000 // int(times)
    assert "Traceback" not in ran.text and not list(tmp_path.glob("*.pt"))
    *_, short, stopped = read_events(tmp_path / "metrics.jsonl")
    assert (short["type"], short["where"], short["so_far"]) == ("out_of_memory", "training", int(count))
    assert 0 < short["split_from"] <= 16000
    assert (stopped["type"], stopped["status"]) == ("stopped", 5) and f"Error: {stopped['text']}" in ran.text


@pytest.mark.slow
def test_one_passage_that_does_not_fit(tmp_path: Path, pretrained: Path) -> None:
    text = "_ " + " ".join(f"word{number}" for number in range(20))
    write_passage(tmp_path / "in" / "long.json", text, [["one", "two"]], ["A"], id="long")
    prepare({"train": [tmp_path / "in"]}, pretrained, tmp_path / "bin", workers=1)
    options = (*EXACT, "--finetune-from-model", pretrained / "model.pt", "--batch-size", "1", "--disable-validation")
    ran = limited_train(-5, tmp_path / "bin", tmp_path / "save", *options, code=5)
    last = ran.text.splitlines()[-1]
    assert re.fullmatch(
        r"Error: out of memory: passage 'long' of split 'train' alone, \d+ tokens, does not fit; "
        r"--checkpoint-activations, --fp16 or --autocast need less memory per token; or take the passage out, or a "
        r"smaller model. Nothing was saved",
        last,
    ), ran.text


def test_evaluate(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    command = ("fairseq-cloze", "evaluate", pretrained / "model.pt", data_bin, "--split", "train")
    command += ("--max-tokens", "40000", "--predictions")
    run(*command, tmp_path / "plain.json")
    short = limited(56, *command, tmp_path / "short.json")
    expected, found = (
        json.loads((tmp_path / name).read_text(), parse_float=lambda text: round(float(text), 3))
        for name in ("plain.json", "short.json")
    )
    assert found == expected
    assert re.search(r"^batches that ran out of memory: [1-9]\d*, and split ahead: \d+; no score is ", short.text, re.M)


def test_calibrate(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    command = ("fairseq-cloze", "calibrate", pretrained / "model.pt", data_bin, "--max-tokens", "40000", "--out")
    plain = run(*command, tmp_path / "plain.pt").text.splitlines()
    short = limited(44, *command, tmp_path / "short.pt").text.splitlines()
    assert short[:2] == plain[:2]
    assert re.match(r"batches that ran out of memory: [1-9]\d*, and split ahead: \d+; no score is ", short[2])
    first, second = (torch.load(tmp_path / name, weights_only=False)["model"] for name in ("plain.pt", "short.pt"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


@pytest.mark.parametrize("options", [(), ("--bf16",), ("--int8",)], ids=["float32", "bfloat16", "int8"])
def test_onednn_is_not_asked_where_there_is_no_room(
    tmp_path: Path, pretrained: Path, data_bin: Path, options: Any
) -> None:
    """It would end the process without a word."""
    command = ("fairseq-cloze", "evaluate", pretrained / "model.pt", data_bin, "--split", "train", *options)
    ran = limited(6, *command, code=5)
    assert re.fullmatch(r"Error: out of memory: passage '.*' alone, \d+ tokens, .*", ran.text.splitlines()[-1])


@pytest.mark.slow
def test_validate(pretrained: Path, data_bin: Path) -> None:
    command = ("fairseq-validate", data_bin, "--user-dir", PLUGIN, "--task", "cloze_ranking", "--num-workers", "0")
    command += ("--path", pretrained / "model.pt", "--max-tokens", "40000", "--valid-subset", "train")
    command += ("--log-format", "json")
    [plain], [short] = run(*command).metrics("train"), limited(30, *command).metrics("train")
    assert short.pop("oom") > 0 == plain.pop("oom")
    names = ("n_blanks", "accuracy", "mrr")
    assert [short[name] for name in names] == [plain[name] for name in names]
    assert short["loss"] == pytest.approx(plain["loss"], abs=1e-5)


# -- without a process of its own ------------------------------------------------------------------------------------


def update(task: Any, model: Any, fails: list[int], sizes: tuple[int, ...]) -> tuple[list[Any], dict[str, Any], int]:
    """One update of some batches: gradients, sums of the logging outputs, and number of backward passes."""
    from fairseq_cloze.plugin.criterion import ClozeRankingCriterion
    from fairseq_cloze.plugin.sums import plain

    optimizer, dataset = FailingOptimizer(model, fails), task.dataset("train")
    criterion = ClozeRankingCriterion(task, "softmax", 1.0)
    optimizer.zero_grad()
    logs, start = [], 0
    for size in sizes:
        sample = dataset.collater([dataset[item] for item in range(start, start + size)])
        logs.append(task.train_step(sample, model, criterion, optimizer, 0)[2])
        start += size
    gradients = [None if each.grad is None else each.grad.clone() for each in optimizer.parameters]
    return gradients, plain(logs), optimizer.calls


@pytest.fixture
def trained(tmp_path: Path, data_bin: Path) -> Any:
    """Task and model, without dropout."""
    options = {"encoder_layers": 1, "encoder_embed_dim": 24, "encoder_attention_heads": 2}
    task, model = build(data_bin, tmp_path, from_scratch=True, dropout=0.0, attention_dropout=0.0, **options)
    task.load_dataset("train")
    return task, model


@pytest.mark.parametrize(
    ("fails", "calls"),
    [
        ([1], 5),  # a whole batch in two halves, and two more batches
        ([3], 3 + 4),  # the last of three: everything again
        ([2, 3], 2 + 1 + 5 + 0),  # what is computed again fails as well
    ],
)
def test_gradients_are_those_of_whole_batches(trained: Any, fails: list[int], calls: int) -> None:
    task, model = trained
    expected, wanted, _ = update(task, model, [], (4, 5, 6))
    found, log, number = update(task, model, fails, (4, 5, 6))
    for one, two in zip(expected, found):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert log.pop("oom") == len(fails) and wanted.pop("oom") == 0
    assert log.pop("loss") == pytest.approx(wanted.pop("loss"), rel=1e-5)
    for key in ("computed_tokens", "split_ahead", "log_candidates"):  # padding differs
        log.pop(key), wanted.pop(key)
    assert log == wanted


def test_an_overflow_does_not_forget_the_count(trained: Any) -> None:
    """Of an update that overflows in fp16 fairseq reduces nothing; the next one tells."""
    task, model = trained
    assert update(task, model, [1], (4,))[1]["oom"] == 1
    task._training.tokens = None
    assert update(task, model, [], (4,))[1]["oom"] == 1


# -- workers that sum gradients in the backward pass -----------------------------------------------------------------


def workers(data_bin: Path, folder: Path, fails: str) -> list[tuple[int, str]]:
    """Exit status and output of two workers, see :mod:`user_dir_tests.support.summing`."""
    port = free_port()
    started = [
        start(sys.executable, "-m", "user_dir_tests.support.summing", data_bin, folder, port, rank, fails)
        for rank in (0, 1)
    ]
    texts = [process.communicate()[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, texts)]


@pytest.mark.slow
def test_workers_that_sum_in_the_backward_pass(tmp_path: Path, data_bin: Path) -> None:
    assert [code for code, _ in workers(data_bin, tmp_path, "never")] == [0, 0]
    for fails in ("forward", "backward"):
        ended = workers(data_bin, tmp_path, fails)
        assert [code for code, _ in ended] == [0, 0], ended
        assert ["out of memory in update 1" in text for _, text in ended] == [False, True]
        for rank in (0, 1):
            expected, found = (torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("never", fails))
            for one, two in zip(expected, found):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_worker_that_cannot_take_back_what_it_sent(tmp_path: Path, data_bin: Path) -> None:
    _, (code, text) = workers(data_bin, tmp_path, "summing")
    assert code == 5
    assert text.splitlines()[-1].startswith(
        "Error: out of memory in update 1, while the workers sum their gradients; take --ddp-backend legacy_ddp, with "
        "which the batch can be computed again, or smaller batches: "
    )
