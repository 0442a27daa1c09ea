"""fairseq's own commands, run for real: training, validation, resuming, several processes."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze import register
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.errors import Exit
from fairseq_cloze.runs.lock import RunState, run_state

from ..support.commands import (
    BIN,
    PASSAGES,
    PLUGIN,
    ROOT,
    TRAIN_OPTIONS,
    Ran,
    free_port,
    run,
    start,
    torchrun,
    train,
    validate,
)

register()

from fairseq_cloze.ranking.evaluate import evaluate  # noqa: E402

GOLDEN = Path(__file__).parent.parent / "golden"


def losses(ran: Ran) -> dict[int, float]:
    """Update → training loss."""
    return {int(row["num_updates"]): row["loss"] for row in ran.metrics("train_inner")}


@pytest.fixture(scope="module")
def log(finetuned: Path) -> Ran:
    """What the run behind ``finetuned`` printed."""
    return Ran(0, (finetuned / "log.txt").read_text())


# -- one run ---------------------------------------------------------------------------------------------------------


def test_every_blank_is_trained_on_and_validated(log: Ran) -> None:
    assert [row["n_blanks"] for row in log.metrics("train")] == [405, 405]
    assert [row["n_blanks"] for row in log.metrics("valid")] == [102, 102]
    by_epoch: dict[int, float] = {}
    for row in log.metrics("train_inner"):
        by_epoch[int(row["epoch"])] = by_epoch.get(int(row["epoch"]), 0) + row["n_blanks"]
    assert by_epoch == {1: 405, 2: 405}


def test_log_lines_show_what_matters(log: Ran) -> None:
    for row in log.metrics("train_inner"):
        assert {"loss", "accuracy", "chance", "mrr", "bps", "padding", "n_blanks", "lr", "gnorm"} <= row.keys()
        assert (row["chance"], 0 <= row["padding"] < 30) == (25, True)
    assert any(row["bps"] > 0 for row in log.metrics("train_inner"))
    for row in log.metrics("valid"):
        assert {"accuracy", "accuracy_one_token", "accuracy_multi_token", "mrr"} <= row.keys()


def test_it_learns(log: Ran) -> None:
    train_loss = [row["loss"] for row in log.metrics("train")]
    assert train_loss[1] < train_loss[0]


def test_golden_losses(log: Ran) -> None:
    """The curve of this seed, as it was when it was first right; other machines round otherwise."""
    golden = json.loads((GOLDEN / "joint.json").read_text())
    assert losses(log) == pytest.approx({int(update): loss for update, loss in golden.items()}, rel=5e-3)


def test_the_load_is_proved_before_the_first_update(log: Ran, pretrained: Path) -> None:
    lines = log.text.splitlines()
    proof = [
        number
        for number, line in enumerate(lines)
        if f"weights are those of {pretrained / 'model.pt'} (encoder" in line
    ]
    belongs = [number for number, line in enumerate(lines) if "are the checkpoint's" in line]
    first = next(number for number, line in enumerate(lines) if "| train_inner |" in line)
    assert len(proof) == len(belongs) == 1
    assert belongs[0] < proof[0] < first
    assert re.search(r"dictionary [0-9a-f]{12} and tokenizer [0-9a-f]{12} are the checkpoint's", lines[belongs[0]])


def test_checkpoints_hold_plain_data_and_no_namespace(finetuned: Path) -> None:
    state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
    assert state["args"] is None
    assert state["cfg"]["model"]["encoder_layers"] == 2 and state["cfg"]["model"]["layer_norm_eps"] == 1e-12
    assert sorted(state["task_state"]["fairseq_cloze"]) == [
        "contrast",
        "encoding",
        "other_blanks",
        "scorer",
        "version",
        "view",
        "vocabulary",
    ]


def test_best_checkpoint_has_the_exact_accuracy(finetuned: Path, log: Ran) -> None:
    best = torch.load(finetuned / "checkpoint_best.pt", weights_only=True)["extra_state"]["best"]
    correct = best * 102 / 100
    assert correct == pytest.approx(round(correct), abs=1e-9)
    assert best == pytest.approx(max(row["accuracy"] for row in log.metrics("valid")), abs=1e-4)


# -- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--batch-size", "1"),
        ("--batch-size", "7", "--required-batch-size-multiple", "8"),
        ("--max-tokens", "4000", "--num-workers", "2"),
    ],
)
def test_validate_counts_every_blank_once(finetuned: Path, data_bin: Path, log: Ran, options: Any) -> None:
    [row] = validate(data_bin, finetuned / "checkpoint_last.pt", *options).metrics("valid")
    assert row["n_blanks"] == 102
    last = log.metrics("valid")[-1]
    assert (row["accuracy"], row["mrr"]) == (last["accuracy"], last["mrr"])
    assert row["loss"] == pytest.approx(last["loss"], abs=1e-4)


@pytest.mark.slow
def test_validate_in_half_precision(finetuned: Path, data_bin: Path, log: Ran) -> None:
    checkpoint = finetuned / "checkpoint_last.pt"
    [row] = validate(data_bin, checkpoint, "--batch-size", "16", "--fp16", "--valid-subset", "train").metrics("train")
    assert row["n_blanks"] == 405
    [full] = validate(data_bin, checkpoint, "--batch-size", "16", "--valid-subset", "train").metrics("train")
    assert abs(row["accuracy"] - full["accuracy"]) <= 100 * 2 / 405  # two blanks, for a small random model
    assert row["loss"] == pytest.approx(full["loss"], abs=1e-2)


def test_validate_an_imported_checkpoint(pretrained: Path, data_bin: Path) -> None:
    """Weights that were never trained here name another task and criterion."""
    ran = validate(data_bin, pretrained / "model.pt", "--max-tokens", "2000", "--valid-subset", "valid,test")
    [valid], [test] = ran.metrics("valid"), ran.metrics("test")
    assert (valid["n_blanks"], test["n_blanks"]) == (102, 98)
    assert "the checkpoint's criterion is masked_lm, scoring with cloze_ranking" in ran.text


def test_validate_in_another_view(finetuned: Path, data_bin: Path) -> None:
    options = ("--batch-size", "4", "--view", "neighbors")
    [row] = validate(data_bin, finetuned / "checkpoint_last.pt", *options).metrics("valid")
    assert row["n_blanks"] == 102


# -- the other views, plain RoBERTa, hydra ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "scorer", "loss"),
    [
        pytest.param("joint", "l2r", "softmax", marks=pytest.mark.slow),
        ("full", "mean", "softmax"),
        ("neighbors", "head", "margin"),
        pytest.param("full", "head", "listnet", marks=pytest.mark.slow),
    ],
)
def test_other_views_train(tmp_path: Path, pretrained: Path, data_bin: Path, view: str, scorer: str, loss: str) -> None:
    options = ("--view", view, "--scorer", scorer, "--ranking-loss", loss, "--max-tokens", "40000", "--max-epoch", "1")
    arch = ("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--no-epoch-checkpoints")
    ran = train(data_bin, tmp_path, *arch, *options)
    assert [row["n_blanks"] for row in ran.metrics("train")] == [405]
    assert [row["n_blanks"] for row in ran.metrics("valid")] == [102]
    result = evaluate(tmp_path / "checkpoint_last.pt", data_bin)
    assert (result.view, result.scorer, result.n_blanks) == (view, scorer, 102)
    assert result.accuracy == pytest.approx(ran.metrics("valid")[0]["accuracy"], abs=1e-3)


@pytest.mark.slow
def test_plain_roberta_arch(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    shape = ("--encoder-layers", 2, "--encoder-embed-dim", 48, "--encoder-ffn-embed-dim", 96)
    shape += ("--encoder-attention-heads", 4, "--max-positions", 126)
    same = ("--dropout", 0, "--attention-dropout", 0, "--batch-size", 8, "--max-update", 3)  # it drops padding, too
    options = ("--arch", "roberta_base", *shape, *same, "--no-epoch-checkpoints")
    ran = train(data_bin, tmp_path, *options, "--finetune-from-model", pretrained / "model.pt")
    narrow = train(
        *(data_bin, tmp_path / "narrow", "--arch", "cloze_roberta", *same, "--no-save"),
        *("--finetune-from-model", pretrained / "model.pt"),
    )
    assert losses(ran) == pytest.approx(losses(narrow), rel=1e-4)
    [row] = validate(data_bin, tmp_path / "checkpoint_last.pt", "--batch-size", 5).metrics("valid")
    assert row["accuracy"] == pytest.approx(ran.metrics("valid")[0]["accuracy"])


def test_restore_file(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """--restore-file takes RoBERTa checkpoints as well, with the resets fairseq asks for."""
    resets = ("--reset-optimizer", "--reset-dataloader", "--reset-meters", "--reset-lr-scheduler")
    options = ("--arch", "cloze_roberta", "--batch-size", 8, "--max-update", 1, "--no-save", "--disable-validation")
    ran = train(data_bin, tmp_path, *options, *resets, "--restore-file", pretrained / "model.pt")
    assert f"weights are those of {pretrained / 'model.pt'}" in ran.text


def test_hydra_train(tmp_path: Path, pretrained: Path, data_bin: Path, log: Ran) -> None:
    """The same run by configuration file gives the same curve."""
    ran = run(
        *("fairseq-hydra-train", "--config-dir", ROOT / "examples" / "hydra", "--config-name", "cloze_ranking"),
        *(f"common.user_dir={PLUGIN}", f"task.data={data_bin}", f"hydra.run.dir={tmp_path}"),
        *(f"checkpoint.finetune_from_model={pretrained / 'model.pt'}", f"checkpoint.save_dir={tmp_path / 'save'}"),
        *(
            "dataset.max_tokens=1024",
            "dataset.num_workers=0",
            "optimization.max_epoch=2",
            "optimization.max_update=0",
            "optimization.lr=[1e-3]",
        ),
        *(
            "common.log_interval=1",
            "lr_scheduler._name=fixed",
            "lr_scheduler.warmup_updates=0",
            "optimization.clip_norm=0",
            "optimizer.weight_decay=0",
        ),
        *("optimizer.adam_betas='(0.9, 0.999)'", "optimizer.adam_eps=1e-8", "checkpoint.no_epoch_checkpoints=true"),
    )
    assert losses(ran) == losses(log)


# -- interruption ----------------------------------------------------------------------------------------------------


def test_killed_and_run_again_the_curve_goes_on(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """kill -9, then told to stop, the same command every time: losses and weights of a run that was left alone,
    digit by digit.
    """
    options = ("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--max-tokens", "1024")
    options += ("--max-epoch", "3", "--save-interval-updates", "5", "--keep-interval-updates", "1")
    whole = train(data_bin, tmp_path / "whole", *options)
    expected = losses(whole)
    assert len(expected) > 60
    found: dict[int, float] = {}
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", tmp_path / "killed", *options)
    for kill_at, number in ((13, signal.SIGKILL), (44, signal.SIGUSR1)):
        process = start(*command)
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if f'"num_updates": "{kill_at}"' in line:
                os.kill(process.pid, number)
                break
        text += process.stdout.read()
        assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else Exit.REQUEUE)
        if number != signal.SIGKILL:
            updates = max(losses(Ran(0, text)))  # the signal comes while one is computed
            assert text.splitlines()[-1] == (
                f"Stopped after update {updates}, as it was told to. {tmp_path / 'killed' / 'checkpoint_last.pt'} is "
                "saved: start the same command again to go on (exit status 75)"
            )
            assert run_state(tmp_path / "killed") is RunState.REQUEUED
        found.update(losses(Ran(0, text)))
    last = run(*command)
    assert f"resuming from {tmp_path / 'killed' / 'checkpoint_last.pt'}" in last.text
    assert f"weights are those of {tmp_path / 'killed' / 'checkpoint_last.pt'}" in last.text
    rerun = losses(last)
    assert min(rerun) >= 45
    assert run_state(tmp_path / "killed") is RunState.ENDED
    found.update(rerun)
    assert found == expected
    states = [torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True) for run in ("whole", "killed")]
    for name, value in states[0]["model"].items():
        assert value.equal(states[1]["model"][name]), name
    [one], [two] = whole.metrics("valid")[-1:], last.metrics("valid")[-1:]
    assert one["accuracy"] == two["accuracy"]


def test_tensorboard_shows_what_the_log_says(finetuned: Path, log: Ran) -> None:
    import struct

    from tensorboardX.proto.event_pb2 import Event

    for tag in ("train_inner", "train", "valid"):
        [events] = (finetuned / "tensorboard" / tag).iterdir()
        data, at, scalars = events.read_bytes(), 0, {}
        while at < len(data):  # length, checksum of the length, event, checksum of the event
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + size])
            scalars.update({(event.step, value.tag): value.simple_value for value in event.summary.value})
            at += size + 16
        rows = log.metrics(tag)
        assert rows
        for row in rows:
            for name in ("loss", "accuracy", "chance", "mrr", "n_blanks"):
                assert scalars[int(row["num_updates"]), name] == pytest.approx(row[name], rel=1e-4)


# -- several processes -----------------------------------------------------------------------------------------------


def two_processes(data_bin: Path, save_dir: Path, *options: Any) -> Ran:
    """Plain torchrun, without a word about backends; what rank 0 printed, and warnings of rank 1."""
    folder = save_dir.with_name(f"{save_dir.name}-bin")
    return torchrun(folder, "fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)


@pytest.mark.parametrize("update_freq", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path: Path, pretrained: Path, data_bin: Path, update_freq: int) -> None:
    """Two workers do in one update what one does in twice as many accumulation steps."""
    options = ("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--max-epoch", "2")
    options += ("--dropout", "0", "--attention-dropout", "0", "--batch-size", "3", "--no-epoch-checkpoints")
    two = two_processes(data_bin, tmp_path / "two", *options, "--update-freq", update_freq)
    assert [row["n_blanks"] for row in two.metrics("train")] == [405, 405]
    assert [row["n_blanks"] for row in two.metrics("valid")] == [102, 102]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        *("checkpoint_best.pt", "checkpoint_last.pt", "metrics.jsonl", "run.json")
    ]
    assert two.text.count(f"weights are those of {pretrained / 'model.pt'}") == 1
    if update_freq == 1:
        one = train(data_bin, tmp_path / "one", *options, "--update-freq", 2)
        assert losses(two) == pytest.approx(losses(one), rel=2e-4)
        for ours, theirs in zip(two.metrics("train_inner"), one.metrics("train_inner")):
            assert (ours["n_blanks"], ours["bsz"]) == (theirs["n_blanks"], theirs["bsz"])
        for ours, theirs in zip(two.metrics("valid"), one.metrics("valid")):
            assert ours["accuracy"] == theirs["accuracy"]


def test_processes_that_do_not_know_of_each_other(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """fairseq-hydra-train looks for torchrun before it imports the plugin; that must not go unsaid."""
    env = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ran = run(
        *("fairseq-hydra-train", "--config-dir", ROOT / "examples" / "hydra", "--config-name", "cloze_ranking"),
        *(f"common.user_dir={PLUGIN}", f"task.data={data_bin}", f"hydra.run.dir={tmp_path}"),
        *(f"checkpoint.finetune_from_model={pretrained / 'model.pt'}", f"checkpoint.save_dir={tmp_path / 'save'}"),
        code=1,
        env=env,
    )
    assert (
        "fairseq_cloze.errors.SetupError: 2 processes were started (torchrun), but fairseq runs each alone, all "
        "writing the same checkpoints; instead of fairseq-hydra-train, start "
        "python -m fairseq_cloze.plugin.hydra_train (see "
        "docs/training.md, Several processes)"
    ) in ran.text.splitlines()


@pytest.mark.slow
def test_validation_and_hydra_under_torchrun(tmp_path: Path, finetuned: Path, data_bin: Path) -> None:
    launcher = ("torchrun", "--nproc-per-node", "2", "--master-port")
    options = ("--user-dir", PLUGIN, "--task", "cloze_ranking", "--path", finetuned / "checkpoint_last.pt")
    options += ("--batch-size", "3", "--log-format", "json", "--valid-subset", "train")
    one = run("fairseq-validate", data_bin, *options)
    two = run(*launcher, free_port(), BIN / "fairseq-validate", data_bin, *options)
    [expected], [found] = one.metrics("train"), two.metrics("train")
    assert {**found, "loss": 0, "bps": 0} == {**expected, "loss": 0, "bps": 0}
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    ran = run(
        *(*launcher, free_port(), "-m", "fairseq_cloze.plugin.hydra_train"),
        *("--config-dir", ROOT / "examples" / "hydra", "--config-name", "cloze_ranking"),
        *(f"common.user_dir={PLUGIN}", f"task.data={data_bin}", f"hydra.run.dir={tmp_path}", "common.log_interval=1"),
        *(f"checkpoint.finetune_from_model={finetuned / 'checkpoint_last.pt'}", "optimization.max_update=3"),
        *(f"checkpoint.save_dir={tmp_path / 'save'}", "dataset.max_tokens=1024", "lr_scheduler.warmup_updates=1"),
        env={"PYTHONPATH": str(ROOT)},
    )
    assert [row["num_updates"] for row in ran.metrics("train_inner")] == [1.0, 2.0, 3.0]
    assert "training on 2 devices" in ran.text


# -- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_take_turns(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    prepare({"train": [PASSAGES / "test"]}, pretrained, tmp_path / "second", workers=1)
    shards = f"{data_bin}:{tmp_path / 'second'}"
    options = ("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--max-tokens", "2000")
    ran = train(shards, tmp_path / "save", *options, "--max-epoch", "3", "--no-epoch-checkpoints")  # type: ignore[arg-type]
    assert [row["n_blanks"] for row in ran.metrics("train")] == [405, 98, 405]
    assert [row["n_blanks"] for row in ran.metrics("valid")] == [102] * 3
