from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fairseq_cloze.errors import CheckpointError, DataBinError
from fairseq_cloze.watch import arrivals as module
from fairseq_cloze.watch.arrivals import Arrival, Arrivals, is_own_fault, look_into
from fairseq_cloze.watch.capture import key_of
from fairseq_cloze.weights.checkpoint import Checkpoint

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
    return sorted(checkpoint.name for checkpoint in arrivals.waiting)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def unsettled(arrivals: Arrivals) -> int:
    """Number of files that are not whole so far."""
    return len(arrivals.queued) - len(arrivals.waiting)


def test_whole_checkpoints(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    path = save(tmp_path / "checkpoint_1_10.pt")
    arrivals = start()
    save(tmp_path / "checkpoint_last.pt", 20)
    arrivals.look()
    assert unsettled(arrivals) == 2
    assert arrivals.inspect() == [] and unsettled(arrivals) == 0
    assert names(arrivals) == ["checkpoint_1_10.pt", "checkpoint_last.pt"]
    checkpoint, last = sorted(arrivals.waiting, key=lambda one: one.order)
    assert checkpoint.content == Checkpoint.read(path).identity
    assert (checkpoint.updates, last.updates, checkpoint.epoch, last.epoch) == (10, 20, 1, None)
    assert (checkpoint.is_copy, last.is_copy) == (False, True)
    assert time.time() - 60 < checkpoint.arrived <= time.time()
    path.unlink()
    assert checkpoint.is_unchanged() and checkpoint.private.exists()
    arrivals.drop(checkpoint)
    assert not checkpoint.private.exists() and names(arrivals) == ["checkpoint_last.pt"]


def test_a_truncated_one_is_tried_again_and_given_up(
    tmp_path: Path, start: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.05, 0.1))
    lines: list[str] = []
    arrivals = start(say=lines.append)
    whole = save(tmp_path / "whole").read_bytes()
    (tmp_path / "checkpoint_1_10.pt").write_bytes(whole[: len(whole) // 2])
    arrivals.look()
    misfits: list[Arrival] = []
    until(lambda: misfits.extend(arrivals.inspect()) or misfits)
    [one] = misfits
    assert (one.name, one.tries) == ("checkpoint_1_10.pt", 3)
    assert one.problem.startswith("checkpoint_1_10.pt: cannot be read as a checkpoint")
    assert lines == [f"{one.problem}; trying again"]
    arrivals.drop(one)
    assert list(arrivals.queue.iterdir()) == [] and arrivals.waiting == []
    arrivals.look()
    assert list(arrivals.queue.iterdir()) == []

    (tmp_path / "checkpoint_1_10.pt").write_bytes(whole)  # copied again
    arrivals.look()
    arrivals.inspect()
    assert names(arrivals) == ["checkpoint_1_10.pt"]


def test_one_that_grows_is_waited_for(
    tmp_path: Path, start: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.02, 0.02))
    arrivals = start()
    whole = save(tmp_path / "whole").read_bytes()
    with open(tmp_path / "checkpoint_1_10.pt", "wb", buffering=0) as file:
        for start_byte in range(0, len(whole), len(whole) // 6):
            assert arrivals.inspect() == []
            file.write(whole[start_byte : start_byte + len(whole) // 6])
            arrivals.look()
            time.sleep(0.03)
    until(lambda: arrivals.inspect() or arrivals.waiting)
    [checkpoint] = arrivals.waiting
    assert checkpoint.content == Checkpoint.read(tmp_path / "whole").identity


def test_known_files_are_not_read(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    scored, damaged = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_1_20.pt"
    for path in (scored, damaged):
        path.write_text("not read")
    arrivals = start({key_of(scored.stat()): "its digest", key_of(damaged.stat()): None})
    arrivals.look()
    assert arrivals.inspect() == []
    assert [(one.name, one.content) for one in arrivals.waiting] == [("checkpoint_1_10.pt", "its digest")]


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
    assert look_into(path, name)[1:] == expected


def test_pauses_grow(tmp_path: Path) -> None:
    one = Arrival(tmp_path / "0000000000000000001.checkpoint_1_10.pt")
    found = []
    for error in (OSError(5, "Input/output error"), OSError(5, "Input/output error"), MemoryError(), DataBinError("x")):
        found.append((one.fail(error), one.problem, one.due - time.monotonic()))
    name = "checkpoint_1_10.pt"
    texts = [f"{name}: Input/output error"] * 2 + [f"{name}: MemoryError: MemoryError", "x"]
    assert [(news, text) for news, text, _ in found] == list(zip((True, False, True, True), texts))
    assert [pause for *_, pause in found] == [pytest.approx(seconds, abs=0.5) for seconds in (1, 4, 15, 60)]
    assert one.fail(MemoryError()) and one.due - time.monotonic() == pytest.approx(60, abs=0.5)
    one.begin_anew()
    assert one.fail(MemoryError()) and one.due - time.monotonic() == pytest.approx(1, abs=0.5)


def caused(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (CheckpointError("cut"), True),
        (caused(CheckpointError("cut"), ValueError("x")), True),
        (caused(CheckpointError("cut"), PermissionError(13, "Permission denied")), False),
        (caused(CheckpointError("cut"), RuntimeError("DefaultCPUAllocator: can't allocate memory")), False),
        (DataBinError("away"), False),
        (OSError(28, "No space left on device"), False),
        (MemoryError(), False),
    ],
)
def test_whose_fault_it_is(error: Exception, own: bool) -> None:
    assert is_own_fault(error) is own


ODD: dict[str, Any] = {
    "a list": [1],
    "a text": "x",
    "updates of words": {"model": {}, "optimizer_history": [{"num_updates": "x"}]},
    "an epoch of words": {"model": {}, "extra_state": {"train_iterator": {"epoch": "x"}}},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_contents(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "checkpoint_1_10.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        look_into(path, path.name)
    assert str(error.value).startswith("checkpoint_1_10.pt: expected ") and is_own_fault(error.value)


def test_what_was_pruned_stays_for_the_next_watch(tmp_path: Path, start: Callable[..., Arrivals]) -> None:
    arrivals = start()
    save(tmp_path / "checkpoint_1_10.pt")
    save(tmp_path / "checkpoint_1_20.pt")
    arrivals.look()
    (tmp_path / "checkpoint_1_10.pt").unlink()
    arrivals.close()
    [kept] = arrivals.leave()
    assert kept.name.endswith(".checkpoint_1_10.pt")
    again = start()
    again.look()
    assert again.inspect() == [] and names(again) == ["checkpoint_1_10.pt", "checkpoint_1_20.pt"]
    assert again.pruned_bytes() == kept.stat().st_size
