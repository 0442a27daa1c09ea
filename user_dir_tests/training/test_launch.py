"""How a training is started, and what it says with its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.training.launch import claim_save_dir, requeued_by_signals, run_training
from fairseq_cloze.training.progress import LOG, Progress


def launch(folder: Path, *command: str) -> int:
    """Run a command as a training; returns its exit status."""
    with Progress(folder / "checkpoints", 10) as progress:
        return run_training(command, progress)


@pytest.mark.parametrize("status", [0, 1, 2, 4, 5, 75])
def test_the_exit_status_passes(status: int, tmp_path: Path) -> None:
    assert launch(tmp_path, "python", "-c", f"raise SystemExit({status})") == status


def test_who_dies_from_a_signal(tmp_path: Path) -> None:
    assert launch(tmp_path, "python", "-c", "import os; os.kill(os.getpid(), 9)") == 137


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClozeError) as error:
        launch(tmp_path, "fairseq-nix", "data")
    assert str(error.value) == (f"fairseq-nix: not found beside {sys.executable} nor on PATH; install fairseq there")


def test_what_it_prints_is_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At once, behind what an earlier one printed, and its log is the one that a run records."""
    code = "import os, sys; print(os.environ['FAIRSEQ_CLOZE_LOG']); print('2026-11-24 03:17:26 | INFO | x | quiet')"
    for _ in range(2):
        assert launch(tmp_path, "python", "-c", f"{code}; print('loud', file=sys.stderr)") == 0
    printed = f"{tmp_path / LOG}\n2026-11-24 03:17:26 | INFO | x | quiet\nloud\n"
    assert (tmp_path / LOG).read_text() == 2 * printed
    assert capfd.readouterr().out == ""


def _tell_later(number: int, path: Path) -> threading.Thread:
    def tell() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_reach_the_training(number: int, tmp_path: Path) -> None:
    """Which decides how it ends; who was done before it heard is started again all the same."""
    code = (
        "import pathlib, signal, sys; signal.signal({0}, lambda *_: sys.exit({1}));"
        "pathlib.Path(sys.argv[1]).touch(); signal.pause()"
    )
    for status in (75, 0):
        path = tmp_path / str(status)
        teller = _tell_later(number, path)
        with pytest.raises(SystemExit) as end:
            raise SystemExit(launch(tmp_path, "python", "-c", code.format(int(number), status), str(path)))
        teller.join()
        assert end.value.code == 75


def test_signals_before_and_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as end, requeued_by_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
    assert end.value.code == 75 and signal.getsignal(signal.SIGUSR1) is before
    assert capsys.readouterr().err == (
        "Stopped, as it was told to: start the same command again to go on (exit status 75)\n"
    )


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """Also where what started the other one is dead."""
    code = "import sys; from fairseq_cloze.runs.lock import RunLock; lock = RunLock(sys.argv[1]); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE) as other:
        while not (tmp_path / "run.json").exists() or not (tmp_path / "run.json").stat().st_size:
            time.sleep(0.01)
        with pytest.raises(ClozeError) as error:
            claim_save_dir(tmp_path)
        other.communicate(b"\n")
    assert str(error.value) == f"{tmp_path}: another training writes there; wait for it, or choose another --out"
