from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from aiosmtpd.controller import Controller
from click.testing import CliRunner

from fairseq_cloze import register
from fairseq_cloze.cli import main
from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.resources import Resources
from fairseq_cloze.runs.lock import RunLock
from fairseq_cloze.watch import arrivals, watcher
from fairseq_cloze.watch.records import append_record, has_stalled, read_validation
from fairseq_cloze.watch.resources import choose_device
from fairseq_cloze.watch.watcher import watch
from fairseq_cloze.weights.checkpoint import Checkpoint

from ..support.commands import FINETUNE, TRAIN_OPTIONS, free_port, start
from ..support.texts import write_passage

register()

from fairseq_cloze.ranking import evaluate as evaluate_module  # noqa: E402

LIMIT = 60.0  # seconds to wait for anything


@pytest.fixture(scope="session")
def small_bin(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """A data-bin whose valid split is a passage of three blanks."""
    from fairseq_cloze.data.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    options = [["cold", "old", "warm", "calm"]] * 3
    write_passage(
        folder / "valid" / "a.json", "It was a _ day , then a _ one , then a _ one .", options, ["A", "B", "C"]
    )
    write_passage(folder / "unlabelled" / "a.json", "It was a _ day .", options[:1])
    splits = {"train": [folder / "valid"], "valid": [folder / "valid"], "test": [folder / "unlabelled"]}
    prepare(splits, pretrained, folder / "bin", workers=1)
    return folder / "bin"


@pytest.fixture(scope="session")
def template(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint without the state of its optimizer."""
    state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
    path = tmp_path_factory.mktemp("template") / "template.pt"
    torch.save({key: state[key] for key in state if key != "last_optimizer_state"}, path)
    return path


WRITER = """
import os, sys, time, torch

def write(template, folder, first, last, keep=10**6):
    "Checkpoints of 10 * first to 10 * last updates, all of other content; all but the last *keep* are pruned."
    state = torch.load(template, weights_only=True)
    bias = state["model"]["encoder.lm_head.bias"]
    for number in range(first, last + 1):
        torch.manual_seed(number)
        state["model"]["encoder.lm_head.bias"] = bias + torch.randn_like(bias)
        state["optimizer_history"][-1]["num_updates"] = 10 * number
        path = os.path.join(folder, f"checkpoint_1_{10 * number}.pt")
        torch.save(state, path + ".tmp")
        os.rename(path + ".tmp", path)
        if number - keep >= first:
            os.remove(os.path.join(folder, f"checkpoint_1_{10 * (number - keep)}.pt"))
"""
_NAMES: dict[str, Any] = {}
exec(WRITER, _NAMES)
write: Callable[..., None] = _NAMES["write"]


def write_beside(template: Path, folder: Path, first: int, last: int, keep: int) -> subprocess.Popen[str]:
    """The same from another process, as fast as it can."""
    call = f"write({str(template)!r}, {str(folder)!r}, {first}, {last}, {keep})"
    timed = f"start = time.perf_counter(); {call}; print(f'{{time.perf_counter() - start:.3f}}')"
    return start(sys.executable, "-c", f"{WRITER}\n{timed}")


def watch_beside(*arguments: Any, **kwargs: Any) -> subprocess.Popen[str]:
    return start("fairseq-cloze", "watch", *arguments, **kwargs)


def until(condition: Callable[[], Any], process: Any = None, limit: float = LIMIT) -> Any:
    """Wait for a condition; what it returned."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def records(save_dir: Path) -> list[dict[str, Any]]:
    return read_validation(save_dir / "validation.jsonl", lambda line: None)


def identity(content: bytes) -> str:
    """Of a checkpoint, from the bytes of its file."""
    return Checkpoint(torch.load(io.BytesIO(content), weights_only=True), "it").identity


def names(save_dir: Path) -> list[str]:
    """Checkpoints with a score, in the order they were scored."""
    return [record["checkpoint"] for record in records(save_dir) if "accuracy" in record]


def expected(first: int, last: int) -> list[str]:
    return [f"checkpoint_1_{10 * number}.pt" for number in range(first, last + 1)]


def ready(save_dir: Path, process: Any) -> None:
    """Wait until a watch captures what comes: its look at what is there already is over."""
    probe = save_dir / "checkpoint_probe.pt"
    probe.write_text("no checkpoint")
    queue = save_dir / ".watch" / "valid" / "queue"
    until(lambda: queue.is_dir() and any(path.name.endswith("probe.pt") for path in queue.iterdir()), process)
    probe.unlink()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PAUSES", (0.05, 0.1))
    monkeypatch.setattr(watcher, "LET_GO", 0.5)


# -- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_everything_about_a_finished_run(tmp_path: Path, template: Path, data_bin: Path) -> None:
    """Epochs, copies, a truncated file: scored once, named, and nothing again by the next watch."""
    write(template, tmp_path, 1, 4)
    shutil.copy(tmp_path / "checkpoint_1_40.pt", tmp_path / "checkpoint_last.pt")
    whole = (tmp_path / "checkpoint_1_40.pt").read_bytes()
    (tmp_path / "checkpoint_2_50.pt").write_bytes(whole[:-100])
    RunLock(tmp_path)._file.close()  # a training that has ended
    lines: list[str] = []
    best = watch(tmp_path, data_bin, resources=None, report=lines.append)

    scored = [record for record in records(tmp_path) if "accuracy" in record]
    assert [record["checkpoint"] for record in scored] == expected(1, 4)
    assert [record["aliases"] for record in scored] == [[], [], [], ["checkpoint_last.pt"]]
    assert [(record["epoch"], record["updates"]) for record in scored] == [(1, 10), (1, 20), (1, 30), (1, 40)]
    for record in scored:
        path = tmp_path / record["checkpoint"]
        assert record["content"] == Checkpoint.read(path).identity
        evaluation = evaluate_module.evaluate(path, data_bin)
        for name in ("accuracy", "mrr", "chance", "n_blanks", "n_one_token", "majority", "view", "scorer", "contrast"):
            assert record[name] == getattr(evaluation, name), name
        assert (record["split"], record["data_bin"]) == ("valid", str(data_bin.resolve()))
        assert record["seconds"] > 0 and record["waited"] > 0
    highest = max(record["accuracy"] for record in scored)
    winner = next(record for record in scored if record["accuracy"] == highest)
    assert best == winner
    assert [record["best"] for record in scored] == [
        record["accuracy"] > max((other["accuracy"] for other in scored[:number]), default=-1.0)
        for number, record in enumerate(scored)
    ]
    [failure] = [record for record in records(tmp_path) if "error" in record]
    assert (failure["checkpoint"], failure["attempts"]) == ("checkpoint_2_50.pt", 3)
    assert failure["error"].startswith("checkpoint_2_50.pt: cannot be read as a checkpoint")
    assert f"checkpoint_2_50.pt: given up after 3 attempts: {failure['error']}" in lines

    assert os.path.samefile(tmp_path / "checkpoint_best_accuracy.pt", tmp_path / winner["checkpoint"])
    evaluate_module.evaluate(tmp_path / winner["checkpoint"], data_bin, predictions_path=tmp_path / "again.json")
    assert (tmp_path / "predictions_valid.json").read_text() == (tmp_path / "again.json").read_text()
    assert (tmp_path / "validation.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "validation.txt").read_text()
    assert table.count("\n") == 9 and "  best\n" in table
    assert table.endswith(f"given up:\n{failure['checkpoint']}: {failure['error']}\n")
    assert lines[-1] == (
        f"the run has ended: 4 scored, 1 given up; best {winner['checkpoint']} with {winner['accuracy']:.2f}%"
    )
    assert lines[0].startswith(f"scoring 'valid' of {data_bin} on cpu, threads: ")
    assert [path.name for path in (tmp_path / ".watch" / "valid").iterdir() if path.name != "predictions.json"] == [
        "lock"
    ]

    before = (tmp_path / "validation.jsonl").read_text()
    (tmp_path / "checkpoint_best_accuracy.pt").unlink()
    again: list[str] = []
    assert watch(tmp_path, data_bin, report=again.append) == winner
    assert (tmp_path / "validation.jsonl").read_text() == before
    assert again[-1] == (
        f"the run has ended: 0 scored, 4 before; best {winner['checkpoint']} with {winner['accuracy']:.2f}%"
    )
    assert os.path.samefile(tmp_path / "checkpoint_best_accuracy.pt", tmp_path / winner["checkpoint"])


def test_weights_that_are_saved_again_are_not_scored_again(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """As where a stop broke off a validation: it is made at the next start, and the checkpoint is saved once more."""
    write(template, tmp_path, 1, 1)
    lines: list[str] = []
    watch(tmp_path, small_bin, until_idle=0.3, report=lines.append)
    state = torch.load(tmp_path / "checkpoint_1_10.pt", weights_only=True)
    state["extra_state"]["val_loss"] = 1.0
    torch.save(state, tmp_path / "checkpoint_last.pt")
    torch.save(state, tmp_path / "checkpoint_1_10.pt")
    watch(tmp_path, small_bin, until_idle=0.3, report=lines.append)
    assert names(tmp_path) == expected(1, 1)
    assert lines.count("checkpoint_last.pt: the same as checkpoint_1_10.pt, which is scored") == 1


def test_a_clock_that_jumps(tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day forwards or back each time that somebody asks."""
    days, plain, plain_ns = itertools.cycle((0, 86_400, -86_400)), time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: plain() + next(days))
    monkeypatch.setattr(time, "time_ns", lambda: plain_ns() + next(days) * 10**9)
    write(template, tmp_path, 1, 3)
    for _ in range(2):
        watch(tmp_path, small_bin, until_idle=0.3, report=print)
    assert names(tmp_path) == expected(1, 3)
    assert all(record["waited"] >= 0 for record in records(tmp_path))


def test_other_passages_are_scored_anew(tmp_path: Path, template: Path, data_bin: Path, small_bin: Path) -> None:
    write(template, tmp_path, 1, 1)
    RunLock(tmp_path)._file.close()
    for folder, split in ((small_bin, "valid"), (data_bin, "valid"), (data_bin, "test"), (data_bin, "valid")):
        watch(tmp_path, folder, split, report=lambda line: None)
    found = [(record["n_blanks"], record["split"]) for record in records(tmp_path)]
    assert [split for _, split in found] == ["valid", "valid", "test"]
    assert found[:2] == [(3, "valid"), (102, "valid")]
    assert (tmp_path / "checkpoint_best_accuracy_test.pt").exists()
    assert (tmp_path / "predictions_test.json").exists()
    assert (tmp_path / "validation.txt").read_text().count("checkpoint_1_10.pt") == 3


@pytest.mark.usefixtures("quick")
def test_overwritten_while_it_is_scored(
    tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(template, tmp_path, 1, 2)
    new = (tmp_path / "checkpoint_1_20.pt").read_bytes()
    (tmp_path / "checkpoint_1_20.pt").unlink()
    path = tmp_path / "checkpoint_1_10.pt"
    plain = evaluate_module.evaluate

    def slow(*args: Any, **kwargs: Any) -> Any:
        evaluation = plain(*args, **kwargs)
        if path.read_bytes() != new:
            path.write_bytes(new)  # in place
        return evaluation

    monkeypatch.setattr(evaluate_module, "evaluate", slow)
    lines: list[str] = []
    watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    [record] = records(tmp_path)
    assert record["content"] == identity(new)
    assert "checkpoint_1_10.pt: overwritten while it was scored; scoring what it has become" in lines


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_scored_does_not_stop_the_watch(
    tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory once, and always; a checkpoint whose weights are no numbers."""
    write(template, tmp_path, 1, 3)
    state = torch.load(template, weights_only=True)
    state["model"]["encoder.lm_head.bias"].fill_(float("nan"))
    torch.save(state, tmp_path / "checkpoint_2_40.pt")
    calls: list[str] = []
    plain = evaluate_module.evaluate

    def scarce(checkpoint: Checkpoint, *args: Any, **kwargs: Any) -> Any:
        name = checkpoint.name
        calls.append(name)
        if name == "checkpoint_1_20.pt" or (name == "checkpoint_1_10.pt" and calls.count(name) == 1):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(checkpoint, *args, **kwargs)

    monkeypatch.setattr(evaluate_module, "evaluate", scarce)
    lines: list[str] = []
    watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    assert sorted(names(tmp_path)) == ["checkpoint_1_10.pt", "checkpoint_1_30.pt"]
    tries = {name: calls.count(name) for name in calls}
    assert tries.pop("checkpoint_1_20.pt") >= 2  # only a checkpoint's own fault is final
    assert tries == {"checkpoint_1_10.pt": 2, "checkpoint_1_30.pt": 1, "checkpoint_2_40.pt": 1}
    failures = {record["checkpoint"]: record for record in records(tmp_path) if "error" in record}
    problem = "checkpoint_1_20.pt: OutOfMemoryError: CUDA out of memory"
    assert failures["checkpoint_1_20.pt"]["error"] == problem
    attempts = failures["checkpoint_1_20.pt"]["attempts"]
    assert attempts == calls.count("checkpoint_1_20.pt")
    assert f"checkpoint_1_20.pt: the next watch tries again after {attempts} attempts: {problem}" in lines
    assert "checkpoint_1_10.pt: OutOfMemoryError: CUDA out of memory; trying again" in lines
    assert failures["checkpoint_2_40.pt"]["attempts"] == 1
    assert "checkpoint_2_40.pt" in failures["checkpoint_2_40.pt"]["error"]
    assert ".watch" not in "".join(record["error"] for record in failures.values())

    monkeypatch.setattr(evaluate_module, "evaluate", plain)  # more memory now: it is whole and gets another chance
    watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    assert sorted(names(tmp_path)) == expected(1, 3)


def test_latest_skips_with_a_count(tmp_path: Path, template: Path, small_bin: Path) -> None:
    write(template, tmp_path, 1, 5)
    lines: list[str] = []
    watch(tmp_path, small_bin, latest=True, until_idle=0.5, report=lines.append)
    assert names(tmp_path) == ["checkpoint_1_50.pt"]
    assert lines[-1].split(": ", 1)[1].startswith("1 scored, 4 skipped; best checkpoint_1_50.pt with")
    assert "checkpoint_1_40.pt: skipped, there is a newer one (4 skipped)" in lines
    watch(tmp_path, small_bin, latest=True, until_idle=0.5, report=lines.append)  # nor later, as older than a score
    assert names(tmp_path) == ["checkpoint_1_50.pt"]
    watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    assert names(tmp_path) == ["checkpoint_1_50.pt", *expected(1, 4)]


def test_without_matplotlib(tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and the table come all the same; the picture's absence is told once."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    lines: list[str] = []
    for number in (1, 2):
        write(template, tmp_path, number, number)
        watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    assert names(tmp_path) == expected(1, 2)
    assert "checkpoint_1_20.pt" in (tmp_path / "validation.txt").read_text()
    assert not (tmp_path / "validation.png").exists()
    assert [line for line in lines if "matplotlib" in line] == 2 * [
        "table or picture could not be written (pictures need matplotlib (import of matplotlib.figure halted; None in "
        "sys.modules): pip install 'fairseq-cloze[plot]')"
    ]


# -- what happens beside it ----------------------------------------------------------------------------------------


def test_rewritten_in_place_while_it_is_read(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """As cp and rsync --inplace do: it is read again when it is still."""
    content = template.read_bytes()
    path = tmp_path / "checkpoint_last.pt"
    path.write_bytes(content)
    process = watch_beside(tmp_path, small_bin, "--until-idle", "3s")
    rng = random.Random(3)
    for _ in range(40):
        with open(path, "wb", buffering=0) as file:  # cut short first
            time.sleep(0.02 * rng.random())
            for start in range(0, len(content), 1 << 16):
                file.write(content[start : start + (1 << 16)])
        time.sleep(0.1 * rng.random())
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, text
    [record] = records(tmp_path)
    assert record["content"] == identity(content), text


def beside(first: Callable[[], Any], *others: Callable[[], Any]) -> Callable[[str], None]:
    """A report of lines that does something after the first score, and after each further one."""
    todo = [first, *others]

    def report(line: str) -> None:
        lines.append(line)
        if ": " in line and "accuracy " in line and todo:
            todo.pop(0)()

    lines: list[str] = []
    report.lines = lines  # type: ignore[attr-defined]
    return report


@pytest.mark.usefixtures("quick")
def test_a_data_bin_that_goes_away_and_becomes_another(
    tmp_path: Path, template: Path, small_bin: Path, data_bin: Path
) -> None:
    """What is scored are the blanks that were read at the start."""
    folder, save_dir = tmp_path / "bin", tmp_path / "run"
    shutil.copytree(small_bin, folder)
    save_dir.mkdir()
    write(template, save_dir, 1, 1)

    def leave() -> None:
        folder.rename(tmp_path / "away")
        write(template, save_dir, 2, 2)

    def replace() -> None:
        shutil.copytree(data_bin, folder)
        write(template, save_dir, 3, 3)

    report: Any = beside(leave, replace)
    watch(save_dir, folder, until_idle=1.0, report=report)
    assert names(save_dir) == expected(1, 3)
    assert [record["n_blanks"] for record in records(save_dir)] == [3, 3, 3]
    assert len({record["data"] for record in records(save_dir)}) == 1
    goes_on = "the watch goes on with the blanks that it has read, start it again for others"
    assert [line for line in report.lines if goes_on in line] == [
        f"{folder}: is away; {goes_on}",
        f"{folder}: was prepared anew; {goes_on}",
    ]


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_recorded_is_recorded_later(
    tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a while; checkpoints that are pruned meanwhile stay."""
    write(template, tmp_path, 1, 2)
    plain, full = watcher.append_record, [True] * 5

    def append(path: Path, record: Any) -> None:
        if full.pop() if full else False:
            for pruned in tmp_path.glob("checkpoint_1_*.pt"):
                pruned.unlink()
            raise ClozeError(f"{path}: cannot be written (No space left on device); choose another file")
        plain(path, record)

    monkeypatch.setattr(watcher, "append_record", append)
    monkeypatch.setattr(watcher, "LET_GO", 60.0)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        raise OSError(28, "No space left on device")  # the log is on that disk, too

    watch(tmp_path, small_bin, until_idle=0.5, report=report)
    assert sorted(names(tmp_path)) == expected(1, 2)
    assert [line for line in lines if "trying again" in line] == 2 * [
        f"{tmp_path / 'validation.jsonl'}: cannot be written (No space left on device); choose another file; "
        "trying again"
    ]


@pytest.mark.usefixtures("quick")
def test_what_is_let_go_is_the_next_watchs(
    tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(template, tmp_path, 1, 1)

    def refuse(path: Path, record: Any) -> None:
        if "error" not in record:
            (tmp_path / "checkpoint_1_10.pt").unlink(missing_ok=True)
            raise OSError(5, "Input/output error")
        append_record(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(watcher, "append_record", refuse)
        watch(tmp_path, small_bin, until_idle=0.1, report=lambda line: None)
    [record] = records(tmp_path)
    assert record["error"] == "checkpoint_1_10.pt: Input/output error"
    watch(tmp_path, small_bin, until_idle=0.1, report=lambda line: None)
    assert names(tmp_path) == expected(1, 1)
    assert not (tmp_path / ".watch" / "valid" / "queue").exists()


@pytest.mark.usefixtures("quick")
def test_a_save_dir_that_is_made_anew(tmp_path: Path, template: Path, small_bin: Path) -> None:
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    write(template, save_dir, 1, 1)

    def again() -> None:
        time.sleep(1.0)
        save_dir.mkdir()
        write(template, save_dir, 1, 2)

    def remove() -> None:
        shutil.rmtree(save_dir)
        threading.Thread(target=again).start()

    report: Any = beside(remove)
    best = watch(save_dir, small_bin, until_idle=3.0, report=report)
    assert names(save_dir) == expected(1, 2) and best in records(save_dir)
    assert f"{save_dir}: was removed; waiting for it to come back" in report.lines
    assert report.lines[-1].split(": ", 1)[1].startswith("2 scored; best ")


@pytest.mark.usefixtures("quick")
def test_a_save_dir_that_stays_away(tmp_path: Path, template: Path, small_bin: Path) -> None:
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    write(template, save_dir, 1, 1)
    report: Any = beside(lambda: shutil.rmtree(save_dir))
    watch(save_dir, small_bin, until_idle=0.5, report=report)
    assert report.lines[-1].startswith("was removed, and nothing new for ") and not save_dir.exists()


@pytest.mark.usefixtures("quick")
def test_odd_files_beside_the_checkpoints(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """None of them keeps the whole one from its score; each that is no checkpoint is named."""
    write(template, tmp_path, 1, 1)
    good = (tmp_path / "checkpoint_1_10.pt").read_bytes()
    (tmp_path / "checkpoint_folder.pt").mkdir()
    os.mkfifo(tmp_path / "checkpoint_pipe.pt")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "checkpoint_socket.pt"))
    (tmp_path / "checkpoint_link.pt").symlink_to("nowhere")
    (tmp_path / "checkpoint_loop.pt").symlink_to("checkpoint_loop.pt")
    (tmp_path / "checkpoint_empty.pt").touch()
    torch.save([1, 2], tmp_path / "checkpoint_list.pt")
    torch.save({"model": {}, "optimizer_history": [3]}, tmp_path / "checkpoint_history.pt")
    encoded = "checkpoint=?utf-8?q?=0d=0aReply-To:_x?=\n\x1b.pt"
    (tmp_path / encoded).write_bytes(b"x")
    odd = os.fsdecode(b"checkpoint_caf\xe9.pt")
    (tmp_path / odd).write_bytes(good)
    long = "checkpoint" + "x" * 240 + ".pt"
    (tmp_path / long).write_bytes(good)
    (tmp_path / ".watch" / "valid" / "queue").mkdir(parents=True)
    (tmp_path / ".watch" / "valid" / "queue" / "notes").write_text("my own")
    os.utime(tmp_path / odd, ns=(0, -(10**18)))
    os.utime(tmp_path / "checkpoint_1_10.pt", ns=(0, 4 * 10**18))
    lines: list[str] = []
    watch(tmp_path, small_bin, until_idle=0.5, report=lines.append)
    [record] = [record for record in records(tmp_path) if "accuracy" in record]
    assert sorted([record["checkpoint"], *record["aliases"]]) == ["checkpoint_1_10.pt", odd]
    failed = {record["checkpoint"] for record in records(tmp_path) if "error" in record}
    assert failed == {"checkpoint_empty.pt", "checkpoint_list.pt", "checkpoint_history.pt", encoded}
    assert all(line.isprintable() for line in lines)
    assert f"{long}: not scored, expected a name of at most 235 bytes; rename it" in lines
    assert "checkpoint_loop.pt: cannot be linked or copied (Too many levels of symbolic links); trying again" in lines
    assert "checkpoint=?utf-8?q?=0d=0aReply-To:_x?=\\n\\x1b.pt: given up after 3 attempts: " in "\n".join(lines)
    (tmp_path / "validation.txt").read_text()
    assert [path.name for path in (tmp_path / ".watch" / "valid" / "queue").iterdir()] == ["notes"]


@pytest.mark.usefixtures("quick")
def test_names_that_are_not_utf8(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """Of the save-dir and the data-bin."""
    save_dir, folder = (tmp_path / os.fsdecode(name) for name in (b"run\xe9", b"bin\xe9"))
    save_dir.mkdir()
    shutil.copytree(small_bin, folder)
    write(template, save_dir, 1, 1)
    lines: list[str] = []
    watch(save_dir, folder, until_idle=0.5, report=lines.append)
    [record] = records(save_dir)
    assert record["data_bin"] == str(folder) and names(save_dir) == expected(1, 1)
    assert lines[0].startswith(f"scoring 'valid' of {tmp_path}/bin\\xe9 on cpu")
    assert (save_dir / "validation.png").exists()


@pytest.mark.usefixtures("quick")
def test_a_damaged_line_is_named_and_its_checkpoint_scored_again(
    tmp_path: Path, template: Path, small_bin: Path
) -> None:
    write(template, tmp_path, 1, 2)
    watch(tmp_path, small_bin, until_idle=0.1, report=lambda line: None)
    path = tmp_path / "validation.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"split"', b'"splie"', 1))
    lines: list[str] = []
    watch(tmp_path, small_bin, until_idle=0.1, report=lines.append)
    problem = "its checksum is another; if you changed the line yourself, take crc32 out of it"
    told = f"{path}, line 1: cannot be used ({problem}); it is passed over, and stays there"
    assert [line for line in lines if "line 1" in line] == [told]
    assert sorted(names(tmp_path)) == expected(1, 2) and path.read_bytes().count(b"\n") == 3


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--until-idle", "5"), 2, "expected a time like 90s, 30m or 2h, found '5'"),
        (("--split", "dev"), 1, "no split 'dev', found test, train, valid"),
        (("--split", "test"), 1, "expected labelled blanks, found none; name another split"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, small_bin: Path, options: Any, code: int, message: str) -> None:
    result = CliRunner().invoke(main, ["watch", str(tmp_path / "run"), str(small_bin), *options])
    assert (result.exit_code, message in result.output, (tmp_path / "run").exists()) == (code, True, False), (
        result.output
    )


def test_the_folder_need_not_be_there(tmp_path: Path, small_bin: Path) -> None:
    result = CliRunner().invoke(main, ["watch", str(tmp_path / "run"), str(small_bin), "--until-idle", "0.01s"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"{tmp_path / 'run'}: no such folder yet; making it and waiting for a training to write there"
    assert lines[-1].endswith(": 0 scored; no score") and lines[-1].startswith("nothing new for ")


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, small_bin: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ClozeError, match="run: cannot be written .*; check the folder"):
        watch(tmp_path / "run", small_bin)


def test_a_device_that_is_not_there(tmp_path: Path, small_bin: Path) -> None:
    """It is refused at once, not at each checkpoint."""
    with pytest.raises(ClozeError, match=r"^device nowhere cannot be used \("):
        watch(tmp_path / "run", small_bin, resources=Resources(device="nowhere"))


def test_the_gpu_is_the_runs(tmp_path: Path) -> None:
    assert choose_device("cuda:1", tmp_path) == ("cuda:1", "")
    beside = ("cpu", " (the GPU is left to the run, --device cuda takes it)")
    assert choose_device(None, tmp_path) == beside
    code = "import sys, time; from fairseq_cloze.runs.lock import RunLock; lock = RunLock(sys.argv[1]); time.sleep(600)"
    training = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    until(lambda: (tmp_path / "run.json").exists() and (tmp_path / "run.json").read_text(), training)
    assert choose_device(None, tmp_path) == beside
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "host": f"not-{socket.gethostname()}"}))
    assert choose_device(None, tmp_path) == (None, "")
    training.kill()
    training.wait()
    (tmp_path / "run.json").write_text(json.dumps({**record, "requeued": True}))
    assert choose_device(None, tmp_path) == beside
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert choose_device(None, tmp_path) == (None, "")


# -- mail ------------------------------------------------------------------------------------------------------------


class Inbox:
    def __init__(self) -> None:
        self.mails: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(envelope.content)
        return "250 OK"


def test_mail(tmp_path: Path, template: Path, small_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at the first event, one at the end: with table and picture, and what came in between."""
    from email import message_from_bytes, policy

    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        settings = {"HOST": "127.0.0.1", "PORT": str(server.port), "SECURITY": "plain"}
        settings["FROM"] = "run@example.org"
        for name, value in settings.items():
            monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{name}", value)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        write(template, tmp_path, 1, 14)
        lines: list[str] = []
        watch(tmp_path, small_bin, until_idle=0.1, emails=["me@example.org"], report=lines.append)
    finally:
        server.stop()
    texts = []
    for content in inbox.mails:
        message: Any = message_from_bytes(content, policy=policy.default)
        body = message.get_body(("plain",))
        texts.append(f"{message['Subject']}\n{body.get_content()}")
        assert any(part.get_content_type() == "image/png" for part in message.walk())
    everything = "\n".join(texts)
    assert 1 <= len(texts) <= 2, everything
    assert "14 scored; best checkpoint_" in texts[-1]
    assert (tmp_path / "validation.txt").read_text().splitlines()[3] in texts[-1]
    gains = [record for record in records(tmp_path)[1:] if record["best"]]
    for record in gains:
        assert f"{record['checkpoint']} is the best so far, {record['accuracy']:.2f}% after " in everything
    scores = records(tmp_path)
    told = [line for line in lines if line.startswith(("no new best in 10 checkpoints; it is ", "3 checkpoints in a"))]
    happened = [has_stalled(scores[: number + 1]) for number in range(14)]
    assert len(told) == 1 + sum(happened)  # three blanks are at chance at once
    assert all(line in everything for line in told)
    assert sum(happened) == 1, "take other seeds"


# -- processes -------------------------------------------------------------------------------------------------------


def test_a_run_ends_while_it_is_watched(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """One watch per split; what comes is scored; the end of the run is the end of the watch."""
    code = "import sys; from fairseq_cloze.runs.lock import RunLock; lock = RunLock(sys.argv[1]); sys.stdin.read()"
    training = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE)
    assert training.stdin is not None
    process = watch_beside(tmp_path, small_bin, "--device", "cpu")
    try:
        until(
            lambda: (tmp_path / ".watch/valid/lock").exists() and (tmp_path / ".watch/valid/lock").read_text(), process
        )
        refused = CliRunner().invoke(main, ["watch", str(tmp_path), str(small_bin)])
        assert (refused.exit_code, refused.output) == (
            1,
            f"Error: split 'valid' of {tmp_path}: another watch is at work there (process {process.pid} on "
            f"{socket.gethostname()}); wait for it, or stop it first\n",
        )
        write(template, tmp_path, 1, 2)
        until(lambda: len(names(tmp_path)) == 2, process)
        assert process.poll() is None
        write(template, tmp_path, 3, 3)
        training.stdin.close()
        training.wait()
        text, _ = process.communicate(timeout=LIMIT)
    finally:
        training.kill()
        process.kill()
    assert process.returncode == 0, text
    assert names(tmp_path) == expected(1, 3)
    lines = [line for line in text.splitlines() if "tensorboardX" not in line]
    assert lines[0].startswith(f"scoring 'valid' of {small_bin} on cpu, threads: 1; 0 scored before")
    for number, record in enumerate(records(tmp_path)):
        assert lines[1 + number].startswith(
            f"{record['checkpoint']}: {record['updates']} updates, accuracy {record['accuracy']:.2f}%, "
            + ("best so far, " if record["best"] else "")
            + "chance 25.00%, "
        )
    assert lines[-1].startswith("the run has ended: 3 scored; best ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal(tmp_path: Path, template: Path, small_bin: Path, number: signal.Signals) -> None:
    process = watch_beside(tmp_path, small_bin)
    try:
        ready(tmp_path, process)
        write(template, tmp_path, 1, 1)
        queue = tmp_path / ".watch" / "valid" / "queue"
        until(lambda: any(path.name.endswith("10.pt") for path in queue.iterdir()), process)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        text, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 128 + number, text
    assert [line for line in text.splitlines() if "tensorboardX" not in line][-1].startswith("stopped; ")
    assert "Traceback" not in text
    assert (tmp_path / "checkpoint_1_10.pt").exists()
    assert all(path.name.endswith(".checkpoint_probe.pt") for path in queue.glob("*"))  # which was removed
    gone, alive = psutil.wait_procs(family, LIMIT)
    assert len(gone) == 2 and not alive


def missed(text: str) -> list[str]:
    """Checkpoints that a watch says were gone before it could link them."""
    end = ": pruned before it could be linked, not scored"
    return [line[: -len(end)] for line in text.splitlines() if line.endswith(end)]


@pytest.mark.parametrize(("total", "kills"), [(40, 1), pytest.param(200, 2, marks=pytest.mark.slow)])
def test_killed_and_each_scored_once(tmp_path: Path, template: Path, small_bin: Path, total: int, kills: int) -> None:
    """Written as fast as the disk allows, pruned to the last twelve; the watch is killed at random moments."""
    rng = random.Random(total)
    process = watch_beside(tmp_path, small_bin)
    ready(tmp_path, process)
    writer = write_beside(template, tmp_path, 1, total, 12)
    seconds = writer.communicate()[0]
    assert writer.returncode == 0, seconds
    assert sorted(path.name for path in tmp_path.glob("checkpoint_1_*.pt")) == sorted(expected(total - 11, total))
    for mark in sorted(rng.sample(range(1, total - 1), kills)):
        until(lambda mark=mark: len(names(tmp_path)) >= mark, process, 4 * LIMIT)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert missed(process.communicate()[0]) == []
        process = watch_beside(tmp_path, small_bin, "--until-idle", "1s")
    text, _ = process.communicate(timeout=4 * LIMIT)
    assert process.returncode == 0, text
    assert sorted(names(tmp_path)) == sorted(expected(1, total)), text
    scored = [record for record in records(tmp_path) if "accuracy" in record]
    assert len({record["content"] for record in scored}) == total
    best = max(scored, key=lambda record: record["accuracy"])
    content = Checkpoint.read(tmp_path / "checkpoint_best_accuracy.pt").identity
    assert content == best["content"]
    print(f"{total} checkpoints in {seconds.strip()} s")


@pytest.mark.slow
@pytest.mark.parametrize("everything", [True, False])
def test_two_hundred_at_once(tmp_path: Path, template: Path, small_bin: Path, everything: bool) -> None:
    """Pruned to the last three, some 15 ms; what a busy machine misses is named, and the last three never are."""
    process = watch_beside(tmp_path, small_bin, "--until-idle", "15s", "--all" if everything else "--latest")
    ready(tmp_path, process)
    writer = write_beside(template, tmp_path, 1, 200, 3)
    written = writer.communicate()[0]
    text, _ = process.communicate(timeout=4 * LIMIT)
    assert process.returncode == 0, text
    scored, gone = names(tmp_path), missed(text)
    end = ": skipped, there is a newer one ("
    skipped = [line.split(end)[0] for line in text.splitlines() if end in line]
    assert sorted([*scored, *skipped, *gone]) == sorted(expected(1, 200)), text
    assert set(expected(198, 200) if everything else expected(200, 200)) <= {*scored}
    assert (skipped == []) == everything
    counts = [f"{len(scored)} scored", f"{len(skipped)} skipped", "1 given up", f"{len(gone)} pruned too early"]
    closing = ", ".join(count for count in counts if not count.startswith("0 "))
    assert closing.replace(", 1 given up", "") in text.splitlines()[-1].replace(", 1 given up", "")
    print(f"200 in {written.strip()} s: {closing}")


@pytest.mark.slow
def test_beside_a_real_training(tmp_path: Path, pretrained: Path, data_bin: Path) -> None:
    """fairseq-train knows nothing of it, prunes and copies; the watch ends by itself."""
    save_dir = tmp_path / "run"
    process = watch_beside(save_dir, data_bin)
    options = (
        "--save-interval-updates",
        "2",
        "--keep-interval-updates",
        "1",
        "--max-update",
        "12",
        "--no-epoch-checkpoints",
    )
    training = start(
        "fairseq-train",
        data_bin,
        *TRAIN_OPTIONS,
        *(
            "--save-dir",
            save_dir,
            *FINETUNE[:4],
            "--no-epoch-checkpoints",
            *options,
            "--finetune-from-model",
            pretrained / "model.pt",
        ),
    )
    log, _ = training.communicate(timeout=4 * LIMIT)
    assert training.returncode == 0, log
    text, _ = process.communicate(timeout=4 * LIMIT)
    assert process.returncode == 0, text
    updates = [record["updates"] for record in records(save_dir)]
    assert updates == [2, 4, 6, 8, 10, 12], text
    trained = [line.split(" | ", 3)[3] for line in log.splitlines() if " | INFO | valid | {" in line]
    accuracies = [float(json.loads(line)["valid_accuracy"]) for line in trained]
    assert [record["accuracy"] for record in records(save_dir)] == pytest.approx(accuracies, abs=0.01)
    best = max(records(save_dir), key=lambda record: record["accuracy"])
    content = Checkpoint.read(save_dir / "checkpoint_best_accuracy.pt").identity
    assert content == best["content"]


class Chaos:
    """What may happen in a save-dir and to a data-bin, drawn by lot; *good* holds what has to be scored."""

    def __init__(self, template: Path, save_dir: Path, data_bin: Path, seed: int) -> None:
        self.folder, self.data_bin, self.random = save_dir, data_bin, random.Random(seed)
        self.state = torch.load(template, weights_only=True)
        self.good: dict[str, str] = {}  # name by content
        self.number = 0
        self.template = template

    def content(self) -> bytes:
        """A new checkpoint."""
        self.number += 1
        self.state["optimizer_history"][-1]["num_updates"] = 10 * self.number
        self.state["model"]["encoder.lm_head.bias"].normal_(0, 0.5)
        torch.save(self.state, self.folder.parent / "new")
        return (self.folder.parent / "new").read_bytes()

    def save(self, name: str = "") -> None:
        """As a training does; the name may be taken by an older one."""
        content = self.content()
        path = self.folder / (name or f"checkpoint_1_{10 * self.number}.pt")
        path.with_suffix(".pt.tmp").write_bytes(content)
        path.with_suffix(".pt.tmp").rename(path)
        self.good[identity(content)] = path.name
        time.sleep(0.1)  # to be captured

    def write_in_place(self) -> None:
        content = self.content()
        with open(self.folder / f"checkpoint_2_{10 * self.number}.pt", "wb", buffering=0) as file:
            for part in (b"x" * len(content), content[: len(content) // 2], content):
                file.seek(0)
                file.truncate(self.random.choice((0, len(content) // 3)))
                for start in range(0, len(part), 1 << 17):
                    file.write(part[start : start + (1 << 17)])
                    time.sleep(self.random.choice((0, 0, 0.03)))
        self.good[identity(content)] = Path(file.name).name

    def prune(self) -> None:
        found = sorted(self.folder.glob("checkpoint_1_*.pt"))
        if found:
            self.random.choice(found).unlink()

    def rename(self) -> None:
        found = sorted(self.folder.glob("checkpoint_1_*.pt"))
        if found:
            path = self.random.choice(found)
            path.rename(path.with_name(f"checkpoint_renamed{self.number}.pt"))

    def odd(self) -> None:
        path = self.folder / f"checkpoint_odd{self.random.randrange(30)}\n\udce9.pt"
        if not path.exists() and not path.is_symlink():
            kinds: list[Callable[[], Any]] = [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere")]
            content = self.template.read_bytes()
            kinds += [path.touch, lambda: path.write_bytes(content[: self.random.randrange(len(content))])]
            self.random.choice(kinds)()

    def touch(self) -> None:
        found = sorted(self.folder.glob("checkpoint_1_*.pt"))
        if found:
            os.utime(self.random.choice(found), ns=(0, self.random.choice((-(10**18), 0, 4 * 10**18))))

    def move_data(self) -> None:
        self.data_bin.rename(self.data_bin.with_name("away"))
        time.sleep(self.random.random())
        self.data_bin.with_name("away").rename(self.data_bin)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_chaos(tmp_path: Path, template: Path, small_bin: Path) -> None:
    """Every good checkpoint is scored once, the process lives, and memory and files stay as they are."""
    save_dir, data_bin = tmp_path / "run", tmp_path / "bin"
    save_dir.mkdir()
    shutil.copytree(small_bin, data_bin)
    seconds, seed = float(os.environ.get("FAIRSEQ_CLOZE_CHAOS", "60")), random.randrange(10**6)
    chaos = Chaos(template, save_dir, data_bin, seed)
    happenings = [chaos.save] * 4 + [lambda: chaos.save("checkpoint_last.pt"), chaos.write_in_place, chaos.prune]
    happenings += [chaos.prune, chaos.rename, chaos.odd, chaos.touch, chaos.move_data]
    process, texts, kills, figures = watch_beside(save_dir, data_bin, "--device", "cpu"), [], 0, []
    ready(save_dir, process)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        chaos.random.choice(happenings)()
        time.sleep(0.3 * chaos.random.random())
        if chaos.random.random() < 0.01 and data_bin.exists():
            process.kill()
            texts.append(process.communicate()[0])
            process, kills = watch_beside(save_dir, data_bin, "--device", "cpu"), kills + 1
            ready(save_dir, process)
            figures.clear()
        one = psutil.Process(process.pid)
        figures.append((one.memory_info().rss, one.num_fds(), one.num_threads()))
    until(lambda: not {*chaos.good} - {record.get("content") for record in records(save_dir)}, process, 600)
    process.send_signal(signal.SIGTERM)
    texts.append(process.communicate()[0])
    contents = [record["content"] for record in records(save_dir) if "accuracy" in record]
    assert process.returncode == 143 and "Traceback" not in "".join(texts), "".join(texts)
    assert {content: contents.count(content) for content in chaos.good} == dict.fromkeys(chaos.good, 1), seed
    assert missed("".join(texts)) == []
    half = len(figures) // 2
    for before, after in zip(zip(*figures[half // 2 : half]), zip(*figures[half:])):
        print(f"{max(before):,} {max(after):,}")
        assert max(after) <= 1.15 * max(before) + 2
    print(f"seed {seed}: {len(chaos.good)} checkpoints, {len(contents)} scored, {kills} kills")
