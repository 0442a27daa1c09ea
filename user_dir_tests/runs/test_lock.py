from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.runs.lock import RunLock, RunState, run_record, run_state

from ..support.commands import ROOT

HOLD = """
import sys, subprocess, time
from fairseq_cloze.runs.lock import RunLock
lock = RunLock(sys.argv[1], data="bin")
if "requeue" in sys.argv:
    lock.requeue()
if "child" in sys.argv:
    subprocess.Popen(["sleep", "60"])
print("held", flush=True)
time.sleep(60)
"""


def hold(folder: Path, *words: str, log: str = "/logs/a.log") -> subprocess.Popen[str]:
    environment = {**os.environ, "FAIRSEQ_CLOZE_LOG": log}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_from_unknown_to_ended(tmp_path: Path) -> None:
    """Killed with a child that lives on, as a loader of data may."""
    assert run_state(tmp_path) is RunState.UNKNOWN and run_record(tmp_path) == {}
    process = hold(tmp_path, "child")
    assert run_state(tmp_path) is RunState.RUNNING
    assert run_state(tmp_path) is RunState.RUNNING  # looking does not take the lock away
    record = run_record(tmp_path)
    assert record.pop("started").startswith("20") and record.pop("command")[0] == "-c"
    assert record == {"pid": process.pid, "host": socket.gethostname(), "logs": ["/logs/a.log"], "data": "bin"}
    kill(process)
    assert run_state(tmp_path) is RunState.ENDED
    os.killpg(process.pid, signal.SIGKILL)


def test_requeued_until_it_starts_again(tmp_path: Path) -> None:
    process = hold(tmp_path, "requeue")
    assert run_state(tmp_path) is RunState.RUNNING
    kill(process)
    assert run_state(tmp_path) is RunState.REQUEUED
    process = hold(tmp_path)
    assert run_state(tmp_path) is RunState.RUNNING
    kill(process)
    assert run_state(tmp_path) is RunState.ENDED


def test_a_second_training_is_refused(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(ClozeError) as error:
        RunLock(tmp_path)
    assert str(error.value) == (
        f"--save-dir {tmp_path}: another training writes there (process {process.pid} on {socket.gethostname()}), and "
        "each would overwrite the other's checkpoints; wait for it, choose another folder, or remove "
        f"{tmp_path / 'run.json'} if you are sure that it is gone"
    )
    assert run_record(tmp_path)["pid"] == process.pid
    kill(process)


def test_logs_of_what_is_resumed_are_kept(tmp_path: Path) -> None:
    for log in ("/logs/a.log", "/logs/b.log"):  # nothing was saved, so nothing is resumed
        kill(hold(tmp_path, log=log))
    assert run_record(tmp_path)["logs"] == ["/logs/b.log"]
    (tmp_path / "checkpoint_last.pt").touch()
    for log in ("/logs/b.log", "/logs/c.log"):
        kill(hold(tmp_path, log=log))
    assert run_record(tmp_path)["logs"] == ["/logs/b.log", "/logs/c.log"]


def test_those_who_look_keep_no_training_away(tmp_path: Path) -> None:
    kill(hold(tmp_path))
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1]); fcntl.lockf(file, fcntl.LOCK_SH); "
        "print('looks', flush=True); time.sleep(0.3)"
    )
    looker = subprocess.Popen([sys.executable, "-c", script, tmp_path / "run.json"], stdout=subprocess.PIPE)
    assert looker.stdout is not None and looker.stdout.readline() == b"looks\n"
    kill(hold(tmp_path))
    looker.wait()


DAMAGED = [
    b"{",
    b"[]",
    b'{"pid":1',
    b"\xff",
    b'{"host":3}',
    b'{"logs":"ab"}',
    b'{"logs":[1]}',
    b'{"pid":1,"pid":2}',
    b"[" * 9999,
]


@pytest.mark.parametrize("content", [b"", *DAMAGED])
def test_a_record_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    """It may just be being made."""
    (tmp_path / "run.json").write_bytes(content)
    assert run_state(tmp_path) is RunState.UNKNOWN and run_record(tmp_path) == {}


def test_what_is_no_file(tmp_path: Path) -> None:
    """Nobody waits for a pipe."""
    (tmp_path / "a" / "run.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "run.json")
    for folder in (tmp_path, tmp_path / "a"):
        assert run_state(folder) is RunState.UNKNOWN and run_record(folder) == {}
    with pytest.raises(ClozeError, match="run.json: expected a file, found a pipe or a device; move it away"):
        RunLock(tmp_path)


def test_a_damaged_record_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And named; the new one is whole, at one go, as often as it is written."""
    path = tmp_path / "run.json"
    path.write_bytes(b'{"logs": ["/logs/a.log"' + b" " * 2000)
    lock = RunLock(tmp_path)
    assert caplog.messages == [f"{path}: was damaged; what it held is in run.json.damaged, the run begins a new one"]
    assert (tmp_path / "run.json.damaged").read_bytes().rstrip() == b'{"logs": ["/logs/a.log"'
    for _ in range(3):
        lock.requeue()
    assert json.loads(path.read_bytes()) == lock._record and path.stat().st_size < 2050
    lock._file.close()


def test_a_shorter_record_replaces_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"requeued": True, "note": "x" * 5000}))
    kill(hold(tmp_path))
    assert "note" not in run_record(tmp_path) and run_state(tmp_path) is RunState.ENDED
