from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fairseq_cloze.watch import arrivals as module
from fairseq_cloze.watch.arrivals import Arrivals, progress_of, try_again
from fairseq_cloze.watch.capture import key_of

LIMIT = 30.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Arrivals]]:
    """Starter of the arrivals of *tmp_path*, whose lines are in ``lines``."""
    started: list[Arrivals] = []

    def begin(known: dict[Any, Any] | None = None, say: Callable[[str], None] = print) -> Arrivals:
        (tmp_path / ".watch").mkdir(exist_ok=True)
        started.append(Arrivals(tmp_path, tmp_path / ".watch", known or {}, say))
        return started[-1]

    yield begin
    for arrivals in started:
        arrivals.close()


def save(path: Path, updates: int = 10, **more: Any) -> Path:
    """A file that looks like a checkpoint of fairseq."""
    torch.save({"model": {"weight": torch.zeros(1000)}, "optimizer_history": [{"num_updates": updates}], **more}, path)
    return path


def names(arrivals: Arrivals) -> list[str]:
    return sorted(checkpoint.name for checkpoint in arrivals.waiting.values())


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def unsettled(arrivals: Arrivals) -> int:
    """Number of files that are not whole so far."""
    return sum(path not in arrivals.waiting for path in arrivals.queue.iterdir())


def test_whole_checkpoints(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    path = save(tmp_path / "checkpoint_1_10.pt")
    arrivals = start()
    save(tmp_path / "checkpoint_last.pt", 20)
    arrivals.look()
    assert unsettled(arrivals) == 2
    assert arrivals.inspect() == [] and unsettled(arrivals) == 0
    assert names(arrivals) == ["checkpoint_1_10.pt", "checkpoint_last.pt"]
    checkpoint, last = sorted(arrivals.waiting.values(), key=lambda one: one.order)
    assert checkpoint.content == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (checkpoint.updates, last.updates, checkpoint.epoch, last.epoch) == (10, 20, 1, None)
    assert (checkpoint.is_copy, last.is_copy) == (False, True)
    assert time.time() - 60 < checkpoint.arrived <= time.time()
    path.unlink()
    assert checkpoint.is_unchanged() and checkpoint.private.exists()
    arrivals.drop(checkpoint.private)
    assert not checkpoint.private.exists() and names(arrivals) == ["checkpoint_last.pt"]


def test_a_truncated_one_is_tried_again_and_given_up(
    tmp_path: Path, start: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER", (0.05, 0.1))
    lines: list[str] = []
    arrivals = start(say=lines.append)
    whole = save(tmp_path / "whole").read_bytes()
    (tmp_path / "checkpoint_1_10.pt").write_bytes(whole[: len(whole) // 2])
    arrivals.look()
    given_up: list[Any] = []
    until(lambda: given_up.extend(arrivals.inspect()) or given_up)
    [(name, trial)] = given_up
    assert (name, trial.attempts, trial.is_over) == ("checkpoint_1_10.pt", 3, True)
    assert trial.problem.startswith(f"checkpoint_1_10.pt: cannot be read as a checkpoint, {len(whole) // 2:,} bytes (")
    assert lines == [f"{trial.problem}; trying again"]
    assert list(arrivals.queue.iterdir()) == [] and arrivals.waiting == {}
    arrivals.look()
    assert list(arrivals.queue.iterdir()) == []

    (tmp_path / "checkpoint_1_10.pt").write_bytes(whole)  # copied again
    arrivals.look()
    arrivals.inspect()
    assert names(arrivals) == ["checkpoint_1_10.pt"]


def test_one_that_grows_is_waited_for(
    tmp_path: Path, start: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER", (0.02, 0.02))
    arrivals = start()
    whole = save(tmp_path / "whole").read_bytes()
    with open(tmp_path / "checkpoint_1_10.pt", "wb", buffering=0) as file:
        for start_byte in range(0, len(whole), len(whole) // 6):
            assert arrivals.inspect() == []
            file.write(whole[start_byte : start_byte + len(whole) // 6])
            arrivals.look()
            time.sleep(0.03)
    until(lambda: arrivals.inspect() or arrivals.waiting)
    [checkpoint] = arrivals.waiting.values()
    assert checkpoint.content == hashlib.sha256(whole).hexdigest()


def test_known_files_are_not_read(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    scored, damaged = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_1_20.pt"
    for path in (scored, damaged):
        path.write_text("not read")
    arrivals = start({key_of(scored.stat()): "its digest", key_of(damaged.stat()): None})
    arrivals.look()
    assert arrivals.inspect() == []
    assert [(one.name, one.content) for one in arrivals.waiting.values()] == [("checkpoint_1_10.pt", "its digest")]


def test_those_that_are_pruned_at_once_are_told(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    """Stopped meanwhile, the other process can link nothing; it says so by name."""
    lines: list[str] = []
    arrivals = start(say=lines.append)
    arrivals.look()
    process = arrivals._process
    process.send_signal(signal.SIGSTOP)
    save(tmp_path / "checkpoint_1_10.pt").unlink()
    save(tmp_path / "checkpoint_1_20.pt")
    process.send_signal(signal.SIGCONT)
    until(lambda: arrivals.look() or arrivals.missed)
    assert lines == ["checkpoint_1_10.pt: pruned before it could be linked, not scored"]
    assert [path.name.split(".", 1)[1] for path in arrivals.queue.iterdir()] == ["checkpoint_1_20.pt"]


def test_the_other_process_is_started_again(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    lines: list[str] = []
    arrivals = start(say=lines.append)
    arrivals.look()
    arrivals._process.kill()
    arrivals._process.wait()
    save(tmp_path / "checkpoint_1_10.pt")
    arrivals.look()
    assert arrivals.inspect() == [] and names(arrivals) == ["checkpoint_1_10.pt"]
    assert lines == ["the process that links checkpoints has died; starting another"]


def test_nothing_is_left_running(start: Callable[..., Arrivals]) -> None:
    """The end of standard input, as when the parent is killed, ends the other process and its own."""
    arrivals = start()
    arrivals.look()
    process = psutil.Process(arrivals._process.pid)
    family = [process, *process.children(recursive=True)]
    assert len(family) == 2
    for one in family:  # a terminal's Ctrl-C is the parent's affair
        one.send_signal(signal.SIGINT)
    arrivals.look()
    assert all(one.is_running() for one in family)
    arrivals.close()
    psutil.wait_procs(family, LIMIT)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_it_starts_anywhere(tmp_path: Path, start: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules in the working directory are not taken for Python's own."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    (tmp_path / "fairseq_cloze").mkdir()
    monkeypatch.chdir(tmp_path)
    arrivals = start()
    save(tmp_path / "checkpoint_1_10.pt")
    arrivals.look()
    assert unsettled(arrivals) == 1


@pytest.mark.parametrize(
    ("name", "position", "expected"),
    [
        ("checkpoint_3_70.pt", {"epoch": 9, "iterations_in_epoch": 5}, (3, 70)),
        ("checkpoint3.pt", {"epoch": 4, "iterations_in_epoch": 0}, (3, 60)),
        ("checkpoint_last.pt", {"epoch": 4, "iterations_in_epoch": 5}, (4, 60)),
        ("checkpoint_last.pt", {"epoch": 4, "iterations_in_epoch": 0}, (3, 60)),
        ("checkpoint.best_accuracy_41.20.pt", {}, (None, 60)),
    ],
)
def test_progress(tmp_path: Path, name: str, position: dict[str, int], expected: Any) -> None:
    path = save(tmp_path / name, 60, extra_state={"train_iterator": position})
    assert progress_of(path, name) == expected


def test_trials() -> None:
    trial = None
    for attempts in (1, 2, 3):
        trial = try_again(trial, (1, 2, 3), "why")
        assert (trial.attempts, trial.is_over) == (attempts, attempts == 3)
    assert try_again(trial, (1, 3, 4), "why").attempts == 1
