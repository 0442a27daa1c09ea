from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.history import ChanceLine, History, LogReader, Point, read_history

from ..support.commands import FINETUNE, TRAIN_OPTIONS, environment, run

STAMP = "2026-11-24 03:17:26 | INFO | "
HYDRA = "[2026-11-24 03:17:26,123]"


def read(*lines: str) -> History:
    reader = LogReader()
    for line in lines:
        reader.feed(line + "\n")
    return reader.history


def test_json() -> None:
    inner = '{"epoch": 2, "update": 1.231, "loss": "1.25", "accuracy": "30", "num_updates": "16", "lr": "0.001"}'
    valid = '{"epoch": 2, "valid_loss": "1.5", "valid_accuracy": "20.5", "valid_mrr": "nan", "valid_num_updates": "16"}'
    epoch = '{"epoch": 2, "train_loss": "1.375", "train_train_wall": "1", "train_num_updates": "26"}'
    history = read(STAMP + "train_inner | " + inner, STAMP + "valid | " + valid, STAMP + "train | " + epoch)
    assert history.points == [
        Point("train_inner", 16, 1.231, {"loss": 1.25, "accuracy": 30.0, "lr": 0.001}),
        Point("valid", 16, 2.0, {"loss": 1.5, "accuracy": 20.5}),
        Point("train", 26, 2.0, {"loss": 1.375, "train_wall": 1.0}),
    ]


def test_simple() -> None:
    history = read(
        STAMP + "train_inner | epoch 002:      9 / 12 loss=1.25, accuracy=30, ppl=nan, num_updates=21, lr=1e-05",
        STAMP + "dev, new | epoch 002 | valid on 'dev, new' subset | loss 1.5 | accuracy 20.5 | num_updates 21",
        STAMP + "train | epoch 002 | loss 1.375 | train_wall 1 | num_updates 24",
    )
    assert history.points == [
        Point("train_inner", 21, 1.75, {"loss": 1.25, "accuracy": 30.0, "lr": 1e-05}),
        Point("dev, new", 21, 2.0, {"loss": 1.5, "accuracy": 20.5}),
        Point("train", 24, 2.0, {"loss": 1.375, "train_wall": 1.0}),
    ]


def test_hydra_prefix() -> None:
    history = read(HYDRA + '[valid][INFO] - {"epoch": 1, "valid_loss": "1.5", "valid_num_updates": "4"}')
    assert history.points == [Point("valid", 4, 1.0, {"loss": 1.5})]


def test_a_line_behind_a_progress_bar() -> None:
    bar = "epoch 001:  50%|█████     | 6/12\r\x1b[Kepoch 001:  58%|█████     | 7/12\r                 \r"
    history = read(bar + "\x1b[0m" + STAMP + "valid | epoch 001 | valid on 'valid' subset | loss 1.5 | num_updates 4")
    assert history.points == [Point("valid", 4, 1.0, {"loss": 1.5})]


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


def test_header_and_footer() -> None:
    history = read("# command: bash finetune.sh: now", "#no header", "# peak memory: 3 GiB", "# Heading: no")
    assert history.header == {"command": "bash finetune.sh: now", "peak memory": "3 GiB"}


def test_chance_with_its_causes() -> None:
    reader = LogReader()
    text = "updates 1 to 20 are at chance: accuracy is 25.7%"
    assert reader.feed(f"2026-11-24 03:17:26 | WARNING | fairseq_cloze.plugin.task | {text}\n") == ChanceLine(text)
    for line in ("  1. the learning rate", "  2. answers", STAMP + "fairseq.trainer | begin", "  3. no cause"):
        assert reader.feed(line) is None
    assert reader.history.chance == [f"{text}\n  1. the learning rate\n  2. answers"]


def test_a_resumed_run_replaces_what_it_repeats() -> None:
    line = STAMP + "valid | epoch 001 | valid on 'valid' subset | loss {} | accuracy {} | num_updates {}"
    history = read(*(line.format(*figures) for figures in ((3, 50, 4), (2, 40, 8), (1, 30, 4))))
    assert [(point.update, point.values["loss"]) for point in history.of("valid")] == [(4, 1.0), (8, 2.0)]
    assert history.best() == history.of("valid")[1]
    assert history.best("test") is None and history.best(metric="mrr") is None and History().best() is None


def test_the_first_of_equally_good_validations_is_the_best() -> None:
    line = STAMP + "valid | epoch 001 | loss 1 | accuracy 40 | num_updates {}"
    best = read(*(line.format(update) for update in (4, 8))).best()
    assert best is not None and best.update == 4


def test_a_configuration_with_a_namespace() -> None:
    model = "Namespace(arch='roberta_base', lr=[1e-05], top=inf)"
    config = "{'_name': None, 'task': {'data': 'bin', 'view': full}, 'model': " + model + "}"
    history = read(STAMP + "fairseq_cli.train | " + config)
    assert history.config["model"] == {"arch": "roberta_base", "lr": [1e-05], "top": None}
    assert history.setting("task", "data") == "bin"
    assert history.setting("task", "view") == "full"
    assert history.setting("task", "seed") is history.setting("common", "seed") is history.setting("_name", "x") is None
    assert read(STAMP + "fairseq_cli.train | {'broken'").config == {}


def test_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(ClozeError, match=r"none\.log: expected a log, cannot be read \(No such file or directory\)"):
        read_history(tmp_path / "none.log")


def test_all_formats_of_a_real_run_say_the_same(
    finetuned: Path, data_bin: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The same training logged as JSON and on a terminal, which shows training lines in its progress bar only."""
    log, save_dir = tmp_path / "tqdm.log", tmp_path / "save"
    best = ("--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
    options = (*FINETUNE, *best, "--finetune-from-model", pretrained / "model.pt", "--log-format", "tqdm")
    parts = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)
    run("script", "-qec", shlex.join(map(str, parts)), log, env=environment(TERM="xterm"))
    expected, history = read_history(finetuned / "log.txt"), read_history(log)
    for found, folder in ((expected, finetuned), (history, save_dir)):
        assert found.ended and found.subsets() == ["valid"]
        assert found.setting("checkpoint", "save_dir") == str(folder)
        assert found.setting("task", "data") == str(data_bin) and found.setting("task", "view") == "joint"
    points = [_figures(point) for point in expected.points]
    assert [point for point in points if point[0] != "train_inner"] == [_figures(point) for point in history.points]
    assert len(expected.of("train_inner")) > 40 and len(expected.of("valid")) == len(expected.of("train")) == 2


def _figures(point: Point) -> Any:
    speeds = ("bps", "wps", "ups", "wall", "train_wall")
    values = {name: value for name, value in point.values.items() if name not in speeds}
    assert {"loss", "accuracy", "chance", "n_blanks"} <= set(values)
    return point.tag, point.update, round(point.epoch, 3), values
