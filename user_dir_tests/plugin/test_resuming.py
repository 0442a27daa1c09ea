"""Started again, a run is the run it was; what is not of this run does not count in it."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_cloze import register
from fairseq_cloze.data.encoding import encode_passages
from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.data.store import Store
from fairseq_cloze.errors import ClozeError, Exit
from fairseq_cloze.passages.passage import Passage
from fairseq_cloze.runs.events import read_events
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import PASSAGES, TRAIN_OPTIONS, Ran, run, start, torchrun, train

register()

from fairseq import checkpoint_utils  # noqa: E402

from fairseq_cloze.plugin.patches import install_all  # noqa: E402
from fairseq_cloze.plugin.resuming import MEMORY, remembered, require_counted, tell_changes  # noqa: E402
from fairseq_cloze.plugin.source import what_is_sound  # noqa: E402

install_all()

BEST = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
SMALL = ("--arch", "cloze_roberta", "--max-tokens", "1024", "--no-epoch-checkpoints")


@pytest.fixture
def go(data_bin: Path, pretrained: Path, tmp_path: Path) -> Any:
    """Train into a folder: ``go("save", *options)``; README's command."""

    def train_into(name: str, *options: Any, data: Path = data_bin, code: int = 0) -> Ran:
        started = ("--finetune-from-model", pretrained / "model.pt")
        return train(data, tmp_path / name, *SMALL, *started, *options, code=code)

    return train_into


def updates_of(ran: Ran) -> list[int]:
    return [int(row["num_updates"]) for row in ran.metrics("train_inner")]


def last_line(ran: Ran) -> str:
    return ran.text.splitlines()[-1]


def copied(tmp_path: Path, name: str) -> str:
    shutil.copytree(tmp_path / "save", tmp_path / name)
    return name


# -- a finished run --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_patience_has_ended_does_nothing_more(go: Any, tmp_path: Path) -> None:
    options = ("--lr", "1e-12", "--save-interval-updates", "2", "--patience", "2", "--max-update", "40", *BEST)
    assert updates_of(go("save", *options)) == [1, 2, 3, 4, 5, 6]
    again = go("save", *options)
    assert updates_of(again) == []
    assert "nothing left to do: the last 2 validations were no better (--patience 2)" in again.text
    assert [event["type"] for event in read_events(tmp_path / "save" / "metrics.jsonl")][-2:] == ["resumed", "finished"]
    more = (*options[:5], "3", *options[6:])
    assert updates_of(go("save", *more)) == [7, 8]  # one more validation, as two are counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (("--max-update", "3"), "3 of 3 updates are done"),
        (("--max-epoch", "1", "--batch-size", "20"), "1 of 1 epochs are done"),
        (("--stop-time-hours", "1e-9"), "hours of training are over (--stop-time-hours 1e-09)"),
        (
            (
                *("--lr-scheduler", "polynomial_decay", "--total-num-update", "2", "--stop-min-lr", "1e-9"),
                "--max-epoch",
                "9",
            ),
            "the learning rate is 0.0 (--stop-min-lr 1e-09)",
        ),
    ],
)
def test_a_finished_run_does_nothing_more(go: Any, tmp_path: Path, limits: Any, why: str) -> None:
    first = go("save", *limits, *BEST)
    assert updates_of(first)
    before = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=True)
    again = go("save", *limits, *BEST)
    assert updates_of(again) == []
    [line] = [line for line in again.text.splitlines() if "nothing left to do: " in line]
    assert line.endswith(why)
    kinds = [event["type"] for event in read_events(tmp_path / "save" / "metrics.jsonl")]
    assert [kind for kind in kinds if kind in ("started", "resumed", "finished")] == [
        *("started", "finished", "resumed", "finished")
    ]
    after = torch.load(tmp_path / "save" / "checkpoint_last.pt", weights_only=True)
    assert all(value.equal(after["model"][name]) for name, value in before["model"].items())


# -- other data, weights, options ------------------------------------------------------------------------------------


def test_what_differs_is_told_by_content_and_not_by_path(
    finetuned: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = Checkpoint.read(finetuned / "checkpoint_last.pt")
    now, then = OmegaConf.create(source.state["cfg"]), source.state["extra_state"]["cloze_run"]
    now.checkpoint.finetune_from_model = str(shutil.copy(pretrained / "model.pt", tmp_path / "same.pt"))
    now.task.data = "elsewhere"
    tell_changes(source, now, then["data"], then)
    now.checkpoint.finetune_from_model = str(pretrained / "model.pt")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "read", None)  # the file of then is not read again
        tell_changes(source, now, then["data"], then)
    assert not caplog.records
    weights = torch.load(pretrained / "model.pt", weights_only=True)
    weights["model"]["encoder.lm_head.bias"] += 1
    torch.save(weights, tmp_path / "other.pt")
    now.checkpoint.finetune_from_model = str(tmp_path / "other.pt")
    now.task.view, now.optimizer.weight_decay, now.lr_scheduler.warmup_updates = "neighbors", 0.1, 5
    tell_changes(source, now, ["0" * 64], then)
    last = source.name
    assert [record.message for record in caplog.records] == [
        f"{last} is of another run (other training passages then; other weights than those of --finetune-from-model "
        f"{tmp_path / 'other.pt'} then; --view joint then, neighbors now) and is resumed all the same; give each run "
        "its own --save-dir",
        f"{last} goes on with other options: --warmup-updates 0 then, 5 now",
        f"{last} goes on with the optimizer's options of then (--weight-decay 0.0 then, 0.1 now); "
        "--optimizer-overrides changes them",
    ]


@pytest.mark.slow
def test_what_is_another_run_by_its_content(go: Any, pretrained: Path, data_bin: Path, tmp_path: Path) -> None:
    moved, other = tmp_path / "moved", tmp_path / "other"
    go("save", "--max-update", "4", "--save-interval-updates", "2", *BEST)
    shutil.copytree(data_bin, moved)
    same = go("save", "--max-update", "6", *BEST, data=moved)
    assert "another run" not in same.text
    assert updates_of(same) == [5, 6]
    prepare({"train": [PASSAGES / "valid"], "valid": [PASSAGES / "train"]}, pretrained, other, workers=1)
    ran = go("save", "--max-update", "7", "--view", "neighbors", "--lr", "1e-4", *BEST, data=other)
    last = tmp_path / "save" / "checkpoint_last.pt"
    said = [line.split(" | ", 3)[-1] for line in ran.text.splitlines() if " | WARNING | fairseq_cloze" in line]
    assert [line.replace(str(last), "LAST") for line in said][:3] == [
        "epoch 1 is begun anew: its passages are others, or are looked at in another way",
        "LAST is of another run (other training passages then; --view joint then, neighbors now) and is resumed all "
        "the same; give each run its own --save-dir",
        "LAST goes on with other options: --lr [0.001] then, [0.0001] now",
    ]
    assert "the highest accuracy on valid" in said[3]
    assert "it is forgotten" in said[3]


@pytest.mark.slow
def test_the_best_score_of_another_run_does_not_count(go: Any, data_bin: Path, tmp_path: Path) -> None:
    go("save", "--max-update", "3", *BEST)
    options = (*SMALL, "--restore-file", tmp_path / "save" / "checkpoint_best.pt", "--valid-subset", "test", *BEST)
    ran = train(data_bin, tmp_path / "other", *options, "--max-update", "5", "--lr", "1e-12")
    assert updates_of(ran) == [4, 5]
    assert (tmp_path / "other" / "checkpoint_best.pt").exists()
    assert "is of another run: its best score, its patience and its time do not count in" in ran.text
    again = train(data_bin, tmp_path / "other", *options, "--max-update", "5", "--lr", "1e-12")
    assert "is not resumed, as --restore-file names another checkpoint, at each start; --continue-once" in again.text


@pytest.mark.slow
def test_optimizers_and_schedules(go: Any, data_bin: Path, tmp_path: Path) -> None:
    """adam and fused_adamw go on with each other's state; of others a line says what can be done, and that works."""
    go("save", "--max-update", "2", "--disable-validation")
    last = tmp_path / "save" / "checkpoint_last.pt"
    three = ("--max-update", "3", "--disable-validation")
    same = go(copied(tmp_path, "adam"), *three)
    fused = go(copied(tmp_path, "fused"), *three, "--optimizer", "fused_adamw")
    back = go("fused", "--max-update", "4", "--disable-validation", "--optimizer", "adam")
    assert updates_of(same) == updates_of(fused) == [3]
    assert updates_of(back) == [4]
    loaded = [torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("adam", "fused")]
    assert loaded[1]["last_optimizer_state"]["state"][0]["step"] == 4
    refused = go("save", *three, "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "2", code=1)
    assert last_line(refused) == (
        f"Error: {last} is of a run with other options (--lr-scheduler fixed then, inverse_sqrt now); take those of "
        "then; or leave --finetune-from-model out and pass --reset-lr-scheduler, once; or begin another run: "
        f"--finetune-from-model {last} with another --save-dir"
    )
    schedule = ("--lr-scheduler", "inverse_sqrt", "--warmup-updates", "2", "--reset-lr-scheduler")
    advised = train(data_bin, tmp_path / copied(tmp_path, "reset"), *SMALL, *three, *schedule)
    assert updates_of(advised) == [3]
    both = go("save", *three, "--reset-lr-scheduler", code=1)
    assert last_line(both) == (
        "Error: --finetune-from-model does not go with --reset-lr-scheduler: leave --finetune-from-model out, "
        f"{last} is resumed without it"
    )


@pytest.mark.slow
def test_without_the_state_of_the_optimizer_it_goes_on(go: Any, tmp_path: Path) -> None:
    options = ("--lr-scheduler", "polynomial_decay", "--total-num-update", "8", "--no-save-optimizer-state")
    go("save", *options, "--max-update", "4", "--disable-validation")
    ran = go("save", *options, "--max-update", "8", "--disable-validation")
    assert updates_of(ran) == [5, 6, 7, 8]
    assert [row["lr"] for row in ran.metrics("train_inner")] == [0.000375, 0.00025, 0.000125, 0]
    assert "holds no state of the optimizer (--no-save-optimizer-state): the run goes on after update 4" in ran.text


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(go: Any, data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    options = ("--save-interval-updates", "2", "--disable-validation")
    first = go("save", *options, "--max-update", "4")
    started = ("--save-dir", tmp_path / "save", "--finetune-from-model", pretrained / "model.pt", "--max-epoch", "1")
    two = torchrun(tmp_path / "bin", "fairseq-train", data_bin, *TRAIN_OPTIONS, *SMALL, *started, *options)
    blanks = [row["n_blanks"] for ran in (first, two) for row in ran.metrics("train_inner")]
    assert sum(blanks) == 405
    assert two.text.count("epoch 1 goes on in other batches (processes 1 then, 2 now)") == 1


def test_a_memory_that_lacks_something_is_none(caplog: pytest.LogCaptureFixture) -> None:
    whole = {"start": None, "data": ["ab"], "measure": ["loss", "lowest", "valid", "cd"], "best": 1.5}
    whole |= {"not_better": 0, "rate": 1e-5, "plateau": None, "owes": [1, False]}
    assert remembered({MEMORY: whole}, "a.pt") == whole
    assert remembered({}, "a.pt") == {}
    assert not caplog.records
    spoilt: list[Any] = [{name: value for name, value in whole.items() if name != lost} for lost in whole]
    spoilt += [
        {("passages" if name == "data" else name): value for name, value in whole.items()}
    ]  # of an earlier version
    spoilt += [7, {**whole, "best": "1.5"}, {**whole, "measure": []}, {**whole, "owes": [1, 0]}]
    assert [remembered({MEMORY: each}, "a.pt") for each in spoilt] == [{}] * len(spoilt)
    assert {record.message for record in caplog.records} == {
        "a.pt: what its run remembers cannot be read, or an earlier version wrote it; its patience begins anew"
    }


# -- what is best ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "options", "kind"),
    [
        ("accuracy_one_token", ("heretofore", "nonetheless"), "whose options all have one token"),
        ("accuracy_multi_token", ("/", "\\"), "with an option of several tokens"),
    ],
)
def test_a_figure_that_counts_no_blank_of_the_split(figure: str, options: Any, kind: str, vocabulary: Any) -> None:
    """Blanks of the other kind, and one of this kind without an answer."""
    others = {"accuracy_one_token": ("/", "\\"), "accuracy_multi_token": ("heretofore", "nonetheless")}
    passages = [Passage("a", "a.json", "_ _", (options, others[figure]), (0, answer)) for answer in (-1, 0)]
    stores = [Store.from_columns([encode_passages([each], vocabulary)], len(vocabulary)) for each in passages]
    with pytest.raises(ClozeError) as error:
        require_counted(figure, "valid", stores[0])
    assert str(error.value) == (
        f"--best-checkpoint-metric {figure}: expected blanks {kind} in split 'valid', found none; pass "
        "--best-checkpoint-metric accuracy, or another --valid-subset"
    )
    require_counted(figure, "valid", stores[1])
    require_counted("accuracy", "valid", stores[0])


def test_it_is_refused_before_the_first_update(pretrained: Path, passage: Any, go: Any, tmp_path: Path) -> None:
    folder = passage("a.json", "It was _ .", [["heretofore", "nonetheless"]], ["A"]).parent
    prepare({"train": [folder], "valid": [folder]}, pretrained, tmp_path / "bin", workers=1)
    best = ("--best-checkpoint-metric", "accuracy_one_token", "--maximize-best-checkpoint-metric")
    ran = go("save", *best, "--max-update", "2", data=tmp_path / "bin", code=1)
    assert last_line(ran).startswith("Error: --best-checkpoint-metric accuracy_one_token: expected blanks whose")
    assert updates_of(ran) == []


# -- damage ----------------------------------------------------------------------------------------------------------


def save_weights(source: Path, path: Path, value: float, updates: int = 0) -> None:
    """A checkpoint like *source*, with a *value* among its weights."""
    state = Checkpoint.read(source).state
    state["model"]["encoder.lm_head.dense.bias"][0] = value
    torch.save({**state, "optimizer_history": [{"num_updates": updates}]}, path)


def test_which_checkpoint_is_sound(pretrained: Path, tmp_path: Path) -> None:
    source = pretrained / "model.pt"
    last = tmp_path / "checkpoint_last.pt"
    assert what_is_sound(tmp_path) == f"No checkpoint in {tmp_path} is sound"
    save_weights(source, last, float("nan"), 9)
    (tmp_path / "checkpoint_1_8.pt").write_bytes(b"PK\x03\x04")
    assert what_is_sound(tmp_path) == f"No checkpoint in {tmp_path} is sound: remove {last} to begin anew"
    save_weights(source, tmp_path / "checkpoint_1_4.pt", 1.0, 4)
    save_weights(source, tmp_path / "checkpoint_1_6.pt", -2.0, 6)
    assert what_is_sound(tmp_path) == (
        f"{tmp_path / 'checkpoint_1_6.pt'} is sound, of update 6: 'cp {tmp_path / 'checkpoint_1_6.pt'} {last}' goes "
        "back to it"
    )
    save_weights(source, last, 1.0, 6)
    assert what_is_sound(tmp_path) == f"{last} is sound, of update 6: the same command goes on there"


def test_a_damaged_checkpoint_is_refused_and_another_one_named(go: Any, pretrained: Path, tmp_path: Path) -> None:
    save = tmp_path / "save"
    save.mkdir()
    last = save / "checkpoint_last.pt"
    last.write_bytes((pretrained / "model.pt").read_bytes()[:-1000])
    shutil.copy(pretrained / "model.pt", save / "checkpoint_1_2.pt")
    ran = go("save", "--max-update", "4", code=1)
    assert last_line(ran).startswith(f"Error: {last}: cannot be read as a checkpoint")
    assert last_line(ran).endswith(
        f"{save / 'checkpoint_1_2.pt'} is sound, of update 0: 'cp {save / 'checkpoint_1_2.pt'} {last}' goes back to it"
    )
    assert "Traceback" not in ran.text


@pytest.mark.slow
def test_gradients_that_are_no_numbers_end_a_training_with_a_line(go: Any, tmp_path: Path) -> None:
    ran = go("save", "--optimizer", "sgd", "--lr", "1e30", "--max-update", "4", code=1)
    assert re.fullmatch(
        r"Error: update 2: gradients are Nan/Inf; [\d,]+ weights are NaN or beyond 1e\+09, first in "
        r"encoder\.sentence_encoder\.embed_tokens\.weight\. Take a lower --lr, or --warmup-updates and --clip-norm "
        f"1\\.0\\. No checkpoint in {re.escape(str(tmp_path / 'save'))} is sound",
        last_line(ran),
    )
    assert "Traceback" not in ran.text
    assert read_events(tmp_path / "save" / "metrics.jsonl")[-1]["status"] == Exit.FAILED
    saved = go(
        "saved", "--optimizer", "sgd", "--lr", "1e30", "--max-update", "4", "--save-interval-updates", "1", code=1
    )
    assert re.match(
        r"Error: after update 1 [\d,]+ weights are NaN or beyond 1e\+09, first in encoder", last_line(saved)
    )
    assert not (tmp_path / "saved" / "checkpoint_last.pt").exists()


def test_a_disk_without_room_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the size of files is what a full disk is to a writer."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    last, best = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_best.pt"
    checkpoint_utils.torch_persistent_save({"update": 1}, str(last))
    large = tmp_path / "large"
    large.write_bytes(bytes(400_000))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(ClozeError) as saving:
            checkpoint_utils.torch_persistent_save({"update": 2, "weights": torch.ones(100_000)}, str(last))
        with pytest.raises(ClozeError) as copying:
            checkpoint_utils.PathManager.copy(str(large), str(best), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    again = "Make room, then start the same command again to go on there"
    assert str(saving.value) == f"{last}: cannot be saved (File too large); {last} stays as it was. {again}"
    assert str(copying.value) == f"{best}: cannot be saved (File too large); {last} stays as it was. {again}"
    assert pauses == [2.5, 2.5]
    assert torch.load(last, weights_only=True) == {"update": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_last.pt", "large"]


# -- at any moment ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_validation_that_is_made_later_saves_the_same_checkpoint(
    data_bin: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Another file with the same weights: a watch knows it by them."""
    options = (*SMALL, "--finetune-from-model", pretrained / "model.pt", "--max-epoch", "1")
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", tmp_path / "save", *options)
    process = start(*command)
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if "begin validation on" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == Exit.REQUEUE, text
    last = tmp_path / "save" / "checkpoint_last.pt"
    before, content = Checkpoint.read(last), last.read_bytes()
    assert "validation" not in {event["type"] for event in read_events(tmp_path / "save" / "metrics.jsonl")}
    run(*command)
    after = Checkpoint.read(last)
    assert last.read_bytes() != content
    assert (after.progress, after.identity) == (before.progress, before.identity)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_or_told_to_stop_at_any_moment(data_bin: Path, pretrained: Path, tmp_path: Path, seed: int) -> None:
    """Curve, validations, best score, patience and weights of a run that was left alone, digit by digit."""
    options = (*SMALL, "--finetune-from-model", pretrained / "model.pt", "--max-epoch", "3", "--patience", "30", *BEST)
    options += ("--save-interval-updates", "3", "--keep-interval-updates", "2", "--keep-best-checkpoints", "2")
    options += ("--lr-scheduler", "reduce_lr_on_plateau", "--lr-patience", "1", "--update-freq", "2")
    train(data_bin, tmp_path / "whole", *options)
    draw, kills, tells = random.Random(seed), 0, 0
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", tmp_path / "killed", *options)
    while kills < 7:
        process = start(*command)
        time.sleep(draw.uniform(0.5, 6.0))
        number = signal.SIGKILL if draw.random() < 0.7 else signal.SIGTERM
        if process.poll() is None:
            os.kill(process.pid, number)
        text, _ = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        tells += process.returncode == Exit.REQUEUE
        assert process.returncode in (0, -signal.SIGKILL, -signal.SIGTERM, Exit.REQUEUE), text
        if process.returncode == 0:
            shutil.rmtree(tmp_path / "killed")
    final = run(*command)
    print(f"seed {seed}: {kills} kills, {tells} requests to stop; {len(updates_of(final))} updates in the last start")
    found = {}
    for name in ("whole", "killed"):
        events = read_events(tmp_path / name / "metrics.jsonl")
        found[name] = [
            {
                event["update"]: {key: event[key] for key in ("loss", "n_correct", "n_blanks")}
                for event in events
                if event["type"] == kind
            }
            for kind in ("update", "validation")
        ]
    assert found["killed"] == found["whole"]
    states = [torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True) for name in ("whole", "killed")]
    assert all(value.equal(states[1]["model"][name]) for name, value in states[0]["model"].items())
    assert states[0]["extra_state"]["best"] == states[1]["extra_state"]["best"]
    assert states[0]["extra_state"]["cloze_run"] == states[1]["extra_state"]["cloze_run"]
    names = [
        sorted(path.name for path in (tmp_path / name).glob("*") if path.suffix == ".pt")
        for name in ("whole", "killed")
    ]
    assert names[0] == names[1]
