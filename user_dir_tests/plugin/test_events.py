"""What a real training tells of itself in ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.data.databin import DataBin
from fairseq_cloze.plugin.events import TrainingEvents
from fairseq_cloze.runs.curves import History, history_of
from fairseq_cloze.runs.events import read_events

from ..support.commands import FINETUNE, TRAIN_OPTIONS, Ran, start, train

SPEEDS = {"bps", "wps", "ups", "wall", "train_wall"}
TAGS = {"train_inner": "update", "valid": "validation", "train": "epoch"}
BEST = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")


def without_speeds(history: History) -> Any:
    """Figures that do not depend on the machine."""
    lists = {"updates": history.updates, "epochs": history.epochs, **history.validations}
    return {
        name: [
            (point.update, point.epoch, {key: value for key, value in point.values.items() if key not in SPEEDS})
            for point in points
        ]
        for name, points in lists.items()
    }


def test_every_line_of_the_log_is_an_event(finetuned: Path, data_bin: Path, pretrained: Path) -> None:
    """In the log's order, with the log's figures before they were rounded, and the counts behind them."""
    events = read_events(finetuned / "metrics.jsonl")
    log = Ran(0, (finetuned / "log.txt").read_text())
    lines = [line.split(" | ", 3) for line in log.text.splitlines()]
    logged = [TAGS[parts[2]] for parts in lines if len(parts) == 4 and parts[2] in TAGS]
    assert [event["type"] for event in events] == ["started", *logged, "finished"]
    assert len(logged) > 40
    for tag, kind in TAGS.items():
        rows, told = log.metrics(tag), [event for event in events if event["type"] == kind]
        assert len(rows) == len(told)
        for row, event in zip(rows, told, strict=True):
            assert event["update"] == row["num_updates"]
            assert event["epoch"] == row["epoch"]
            shared = (row.keys() & event.keys()) - SPEEDS - {"update", "epoch"}
            assert {"loss", "accuracy", "chance", "mrr", "n_blanks"} <= shared
            for name in shared:
                if math.isnan(row[name]):
                    assert event[name] is None
                    continue
                rounding = 0.05 if name in ("bsz", "wpb", "gnorm") else 1e-5
                assert event[name] == pytest.approx(row[name], rel=1e-5, abs=rounding), name
            assert event["accuracy"] == 100.0 * event["n_correct"] / event["n_blanks"]
            assert type(event["n_correct"]) is type(event["n_blanks"]) is int
            if kind == "update":
                assert event["lr"] == 1e-3
    valid = [event for event in events if event["type"] == "validation"]
    assert [(event["subset"], event["n_blanks"]) for event in valid] == [
        ("valid", DataBin(data_bin).open("valid").blanks)
    ] * 2
    settings = events[0]["settings"]
    assert settings["task"]["data"] == str(data_bin) and settings["task"]["view"] == "joint"
    assert settings["checkpoint"]["finetune_from_model"] == str(pretrained / "model.pt")
    assert (events[0]["update"], events[0]["epoch"], events[0]["folder"]) == (0, 1, str(Path.cwd()))


def test_a_killed_and_resumed_training_tells_the_same(
    finetuned: Path, data_bin: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Events of repeated updates are told apart; a second file gets the same lines."""
    command = (*FINETUNE, *BEST, "--finetune-from-model", pretrained / "model.pt", "--save-interval-updates", 8)
    second = tmp_path / "second.jsonl"
    env = {"FAIRSEQ_CLOZE_EVENTS": str(second)}
    process = start("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", tmp_path / "save", *command, env=env)
    path = tmp_path / "save" / "metrics.jsonl"
    while not any(event["update"] >= 13 for event in read_events(path)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with path.open("a") as file:  # a line that a crash has torn
        file.write('{"type":"update","upd')
    train(data_bin, tmp_path / "save", *command, env=env)
    events = read_events(path)
    assert events == read_events(second)
    [resumed] = [number for number, event in enumerate(events) if event["type"] == "resumed"]
    before = [event["update"] for event in events[:resumed] if event["type"] == "update"]
    assert events[resumed]["update"] % 8 == 0 and before[-1] > events[resumed]["update"] > 0
    again = [event["update"] for event in events[resumed:] if event["type"] == "update"]
    assert again[0] == events[resumed]["update"] + 1
    expected, found = (history_of(read_events(folder / "metrics.jsonl")) for folder in (finetuned, tmp_path / "save"))
    expected_figures, found_figures = without_speeds(expected), without_speeds(found)
    assert found_figures["updates"] == expected_figures["updates"]
    assert found_figures["epochs"] == expected_figures["epochs"]
    assert [one for one in found_figures["valid"] if one[0] % 8] == [
        one for one in expected_figures["valid"] if one[0] % 8
    ]
    assert events[-1]["type"] == "finished"


def test_a_place_that_cannot_be_written_stops_nothing(data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    options = ("--arch", "cloze_roberta", "--finetune-from-model", pretrained / "model.pt", "--batch-size", "8")
    limits = ("--max-update", "2", "--log-interval", "2", "--disable-validation", "--no-save")
    env = {"FAIRSEQ_CLOZE_EVENTS": str(tmp_path / "none" / "events.jsonl")}
    ran = train(data_bin, tmp_path, *options, *limits, env=env)
    assert ran.text.count("events cannot be written") == 1
    assert f"{tmp_path / 'none' / 'events.jsonl'}: events cannot be written (No such file or directory)" in ran.text
    assert [(event["type"], event["update"]) for event in read_events(tmp_path / "metrics.jsonl")] == [
        ("started", 0),
        ("update", 2),
        ("epoch", 2),
        ("finished", 2),
    ]


def test_nothing_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So commands that compute with a task, as fit-batch and fairseq-validate, write nothing."""
    monkeypatch.setenv("FAIRSEQ_CLOZE_EVENTS", str(tmp_path / "events.jsonl"))
    events = TrainingEvents()
    events.tell("chance")
    events.end_update(0.1, None)
    events.end_epoch()
    assert os.listdir(tmp_path) == []
    assert json.dumps(vars(events)["_writers"]) == "[]"
