from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runlog.fairseq_log import read_lines, read_log
from fairseq_cloze.runs.curves import History, Point, history_of
from fairseq_cloze.runs.events import read_events

from ..support.commands import FINETUNE, TRAIN_OPTIONS, environment, run

STAMP = "2026-11-24 03:17:26 | INFO | "
HYDRA = "[2026-11-24 03:17:26,123]"


def read(*lines: str) -> History:
    history = History()
    read_lines([f"{line}\n".encode() for line in lines], history)
    return history


def test_json() -> None:
    inner = '{"epoch": 2, "update": 1.231, "loss": "1.25", "accuracy": "30", "num_updates": "16", "lr": "0.001"}'
    valid = '{"epoch": 2, "valid_loss": "1.5", "valid_accuracy": "20.5", "valid_mrr": "nan", "valid_num_updates": "16"}'
    epoch = '{"epoch": 2, "train_loss": "1.375", "train_train_wall": "1", "train_num_updates": "26"}'
    history = read(STAMP + "train_inner | " + inner, STAMP + "valid | " + valid, STAMP + "train | " + epoch)
    assert history == History(
        updates=[Point(16, 1.231, {"loss": 1.25, "accuracy": 30.0, "lr": 0.001})],
        epochs=[Point(26, 2.0, {"loss": 1.375, "train_wall": 1.0})],
        validations={"valid": [Point(16, 2.0, {"loss": 1.5, "accuracy": 20.5})]},
    )


def test_simple() -> None:
    history = read(
        STAMP + "train_inner | epoch 002:      9 / 12 loss=1.25, accuracy=30, ppl=nan, num_updates=21, lr=1e-05",
        STAMP + "dev, new | epoch 002 | valid on 'dev, new' subset | loss 1.5 | accuracy 20.5 | num_updates 21",
        STAMP + "train | epoch 002 | loss 1.375 | train_wall 1 | num_updates 24",
    )
    assert history == History(
        updates=[Point(21, 1.75, {"loss": 1.25, "accuracy": 30.0, "lr": 1e-05})],
        epochs=[Point(24, 2.0, {"loss": 1.375, "train_wall": 1.0})],
        validations={"dev, new": [Point(21, 2.0, {"loss": 1.5, "accuracy": 20.5})]},
    )


def test_hydra_prefix() -> None:
    history = read(HYDRA + '[valid][INFO] - {"epoch": 1, "valid_loss": "1.5", "valid_num_updates": "4"}')
    assert history == History(validations={"valid": [Point(4, 1.0, {"loss": 1.5})]})


def test_a_line_behind_a_progress_bar() -> None:
    bar = "epoch 001:  50%|█████     | 6/12\r\x1b[Kepoch 001:  58%|█████     | 7/12\r                 \r"
    history = read(bar + "\x1b[0m" + STAMP + "valid | epoch 001 | valid on 'valid' subset | loss 1.5 | num_updates 4")
    assert history == History(validations={"valid": [Point(4, 1.0, {"loss": 1.5})]})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss 1.5",
        STAMP + "valid | no figures",
        STAMP + "valid | {broken",
        STAMP + "valid | [1]",
        STAMP + 'valid | {"loss": "1.5"}',
        STAMP + "train_inner | epoch 001:      9 / 12 nothing",
        STAMP + "valid | epoch 001 | loss | num_updates",
        "[2026-11-24",
        "x" * 2_000_000,
    ],
)
def test_other_lines_are_passed_over(line: str) -> None:
    assert read(line) == History()


def test_the_folder_that_a_log_of_run_names() -> None:
    assert read("# command: x", "# folder: /home/me/a: b", "# Heading: no") == History(folder="/home/me/a: b")


def test_a_resumed_run_replaces_what_it_repeats() -> None:
    line = STAMP + "valid | epoch 001 | valid on 'valid' subset | loss {} | accuracy {} | num_updates {}"
    history = read(*(line.format(*figures) for figures in ((3, 50, 4), (2, 40, 8), (1, 30, 4), (1, 35, 8))))
    assert history.curve("loss", "valid") == [(4, 1.0), (8, 1.0)]
    assert history.curve("accuracy", "valid") == [(4, 30.0), (8, 35.0)]


def test_a_configuration_with_a_namespace() -> None:
    model = "Namespace(arch='roberta_base', lr=[1e-05], top=inf)"
    config = "{'_name': None, 'task': {'data': 'bin', 'view': full}, 'model': " + model + "}"
    history = read(STAMP + "fairseq_cli.train | " + config)
    assert history.settings["model"] == {"arch": "roberta_base", "lr": [1e-05], "top": None}
    assert history.setting("task", "data") == "bin"
    assert history.setting("task", "view") == "full"
    assert history.setting("task", "seed") is history.setting("common", "seed") is history.setting("_name", "x") is None
    assert read(STAMP + "fairseq_cli.train | {'broken'").settings == {}


def test_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(ClozeError, match=r"none\.log: expected a log, cannot be read \(No such file or directory\)"):
        read_log(tmp_path / "none.log")


def test_all_formats_of_a_real_run_say_the_same(
    finetuned: Path, data_bin: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The same training logged as JSON and on a terminal, which shows training lines in its progress bar only."""
    log, save_dir = tmp_path / "tqdm.log", tmp_path / "save"
    best = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
    options = (*FINETUNE, *best, "--finetune-from-model", pretrained / "model.pt", "--log-format", "tqdm")
    parts = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)
    run("script", "-qec", shlex.join(map(str, parts)), log, env=environment(TERM="xterm"))
    expected, history = read_log(finetuned / "log.txt"), read_log(log)
    for found, folder in ((expected, finetuned), (history, save_dir)):
        assert list(found.validations) == ["valid"]
        assert found.setting("checkpoint", "save_dir") == str(folder)
        assert found.setting("task", "data") == str(data_bin) and found.setting("task", "view") == "joint"
    assert figures(expected.epochs) == figures(history.epochs)
    assert figures(expected.validations["valid"]) == figures(history.validations["valid"])
    assert len(expected.updates) > 40 and history.updates == []
    assert len(expected.epochs) == len(expected.validations["valid"]) == 2


def test_a_log_says_what_the_events_say(finetuned: Path) -> None:
    log, events = read_log(finetuned / "log.txt"), history_of(read_events(finetuned / "metrics.jsonl"))
    for metric in ("loss", "accuracy"):
        for name, curve in log.curves(metric).items():
            assert curve == [(update, pytest.approx(value, abs=1e-3)) for update, value in events.curves(metric)[name]]
    assert len(log.curves("loss")["training"]) > 40


def figures(points: list[Point]) -> Any:
    speeds = ("bps", "wps", "ups", "wall", "train_wall")
    for point in points:
        assert {"loss", "accuracy", "chance", "n_blanks"} <= set(point.values)
    return [
        (
            point.update,
            round(point.epoch, 3),
            {name: value for name, value in point.values.items() if name not in speeds},
        )
        for point in points
    ]
