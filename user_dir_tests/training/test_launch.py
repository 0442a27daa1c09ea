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
from fairseq_cloze.training.launch import requeued_by_signals, run_training, watching


@pytest.mark.parametrize("status", [0, 1, 2, 4, 5, 75])
def test_the_exit_status_passes(status: int) -> None:
    assert run_training(["python", "-c", f"raise SystemExit({status})"]) == status


def test_who_dies_from_a_signal() -> None:
    assert run_training(["python", "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ClozeError) as error:
        run_training(["fairseq-nix", "data"])
    assert str(error.value) == (f"fairseq-nix: not found beside {sys.executable} nor on PATH; install fairseq there")


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
            raise SystemExit(run_training(["python", "-c", code.format(int(number), status), str(path)]))
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
        with pytest.raises(ClozeError) as error, watching(tmp_path, tmp_path, "cpu"):
            raise AssertionError
        other.communicate(b"\n")
    assert str(error.value) == f"{tmp_path}: another training writes there; wait for it, or choose another --out"
