from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shlex
import tracemalloc
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


VALID = STAMP + "valid | epoch 001 | valid on 'valid' subset | loss 1.5 | num_updates 4"


@pytest.mark.parametrize(
    "label",
    [
        *("0: ", "12: ", "[default0]:", "[trainer1]:", "[1,0]<stdout>:", "train-1  | "),
        "Nov 24 03:17:26 ",  # ts
        "2026-11-24 03:17:26 ",
        "2026-11-24T03:17:26.123456789Z ",  # docker logs -t
        "Nov 24 03:17:26 node7 train.sh[4711]: ",  # journalctl
        "\x1b[36m[pod/train-0/main]\x1b[0m ",
    ],
)
def test_labels_before_lines(label: str) -> None:
    expected = History(validations={"valid": [Point(4, 1.0, {"loss": 1.5})]})
    assert read(label + VALID) == expected
    assert (
        read(label + HYDRA + '[valid][INFO] - {"epoch": 1, "valid_loss": "1.5", "valid_num_updates": "4"}') == expected
    )


@pytest.mark.parametrize("line", [f"# command: echo '{VALID}'", f'{{"log": "{VALID}"}}', "x" * 201 + VALID])
def test_a_line_that_quotes_a_line_says_nothing(line: str) -> None:
    assert read(line) == History()


def test_the_file_of_log_file() -> None:
    """It has the messages alone; whose figures they are, their names say."""
    history = read(
        "{'_name': None, 'task': {'data': 'bin'}}",
        '{"epoch": 1, "update": 0.5, "loss": "1.25", "num_updates": "2"}',
        '{"epoch": 1, "my_dev_loss": "1.5", "my_dev_num_updates": "4"}',
        '{"epoch": 1, "train_loss": "1.375", "train_num_updates": "4"}',
        "epoch 002:      2 / 4 loss=1, num_updates=6",
        "epoch 002 | valid on 'valid' subset | loss 1.5 | num_updates 8",
        "epoch 002 | loss 1 | num_updates 8",
    )
    assert history == History(
        updates=[Point(2, 0.5, {"loss": 1.25}), Point(6, 1.5, {"loss": 1.0})],
        epochs=[Point(4, 1.0, {"loss": 1.375}), Point(8, 2.0, {"loss": 1.0})],
        validations={"my_dev": [Point(4, 1.0, {"loss": 1.5})], "valid": [Point(8, 2.0, {"loss": 1.5})]},
        settings={"_name": None, "task": {"data": "bin"}},
    )


def test_states_of_a_progress_bar() -> None:
    bar = "epoch 001:  {}%|████▋    | {}/4 [00:05<00:03,  1.0it/s, loss={}, ppl=nan, num_updates={}]"
    states = [bar.format(25 * n, n, 2 - n / 4, n) for n in (1, 2, 3)]
    expected = [Point(n, n / 4, {"loss": 2 - n / 4}) for n in (1, 2, 3)]
    assert read("\r" + "\r\x1b[K".join(states)).updates == read(*states).updates == expected


def test_packed_logs(tmp_path: Path) -> None:
    for name, pack in (("a.log.gz", gzip.compress), ("a.log.xz", lzma.compress), ("a.log.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(VALID.encode()))
        assert read_log(tmp_path / name) == read(VALID)
    whole = gzip.compress(VALID.encode())
    for damaged in (whole[:-9], b"x" + whole, whole[:15] + b"\xff\xff" + whole[17:]):
        (tmp_path / "b.log.gz").write_bytes(damaged)
        with pytest.raises(ClozeError, match=r"b\.log\.gz: expected a log, cannot be read \(.+\); check the path"):
            read_log(tmp_path / "b.log.gz")


def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    """Of a packed gigabyte without a line break, a megabyte is held."""
    with gzip.open(tmp_path / "a.log.gz", "wb", 1) as file:
        file.write(bytes(30 << 20) + f" num_updates\n{VALID}\n".encode())
    tracemalloc.start()
    history = read_log(tmp_path / "a.log.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert history == read(VALID) and peak < 8 << 20


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.log")
    with pytest.raises(ClozeError, match=r"a\.log: expected a log, cannot be read \(it is no file\)"):
        read_log(tmp_path / "a.log")


@pytest.mark.parametrize(
    "line",
    [
        STAMP + "valid | " + '{"valid_loss": ' + "[" * 100_000 + "num_updates",
        STAMP + "valid | " + '{"valid_loss": 1, "valid_num_updates": ' + "9" * 5000 + "}",
        STAMP + "valid | " + '{"valid_loss": 1, "valid_num_updates": ' + "9" * 400 + "}",
        STAMP + "valid | " + '{"valid_loss": 1, "valid_num_updates": -1}',
        STAMP + "train_inner | epoch 001: " + "9" * 5000 + " / 12 loss=1, num_updates=4",
        STAMP + "fairseq_cli.train | {'task': {}, [1]: 2}",
        STAMP + "fairseq_cli.train | {'task': " + "-" * 100_000,
    ],
)
def test_lying_lines(line: str) -> None:
    assert read(line) == History()


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
    """The same training logged as JSON and on a terminal, which shows training lines in its progress bar."""
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
    assert len(expected.updates) > 40  # of a fast training the bar shows some, or none
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
