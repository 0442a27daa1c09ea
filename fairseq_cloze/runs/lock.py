"""Runs: who trains into a save-dir, for those who look on.

A training holds a lock on ``SAVE_DIR/run.json``, which goes with its process, however that ends.
"""

import fcntl
import json
import os
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from ..errors import ClozeError
from ..files import PathLike
from ..secrecy import hide_in_command
from .names import LAST_CHECKPOINT

RUN_FILE = "run.json"

#: Environment variable in which ``fairseq-cloze run`` tells its command where the log is.
LOG_VARIABLE = "FAIRSEQ_CLOZE_LOG"

_ATTEMPTS, _PAUSE = 10, 0.1  # seconds


class RunState(Enum):
    """Whether a save-dir is being trained into."""

    UNKNOWN = "unknown"  #: no training has begun there
    RUNNING = "running"
    REQUEUED = "requeued"  #: it stopped to be started again
    ENDED = "ended"


class RunLock:
    """Says that this process trains into a save-dir, until it ends.

    Args:
        save_dir: folder of the checkpoints, which exists
        **about: what else to record, JSON values by name

    Raises:
        ClozeError: another process trains there
        OSError: the file cannot be written, or cannot be locked on this file system
    """

    def __init__(self, save_dir: PathLike, **about: Any) -> None:
        path = Path(save_dir, RUN_FILE)
        # Opened for good: closing any handle of the file gives up this process's lock.
        self._file = open_lock_file(path)
        hold(self._file, f"--save-dir {save_dir}: another training writes there", ", and each would overwrite the "
             f"other's checkpoints; wait for it, choose another folder, or remove {path} if you are sure that it is "
             "gone")  # fmt: skip
        resumes = Path(save_dir, LAST_CHECKPOINT).exists()
        before: list[str] = _read(self._file).get("logs", []) if resumes else []
        log = os.environ.get(LOG_VARIABLE)
        self._record: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": hide_in_command(sys.argv),
            "logs": [*before, log] if log and log not in before else before,
            **about,
        }
        write_record(self._file, self._record)

    def requeue(self) -> None:
        """Record that the run is going to be started again."""
        self._record["requeued"] = True
        write_record(self._file, self._record)


def open_lock_file(path: Path) -> TextIO:
    """Open a file to lock, made where it is missing; it stays, as a removed one could be locked by two."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")


def hold(file: TextIO, taken: str, advice: str) -> None:
    """Lock a file until it is closed; who only looks holds it for a moment, so one refusal is none.

    Raises:
        ClozeError: another process has it: what is taken, by whom, and what to do
        OSError: it cannot be locked on this file system
    """
    for _ in range(_ATTEMPTS):
        try:
            return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            time.sleep(_PAUSE)
    with file:
        other = _read(file)
    raise ClozeError(f"{taken} (process {other.get('pid', '?')} on {other.get('host', '?')}){advice}")


def write_record(file: TextIO, record: dict[str, Any]) -> None:
    """Put a record in place of what a file holds."""
    file.seek(0)
    file.truncate()
    file.write(json.dumps(record, indent=1) + "\n")
    file.flush()


def run_state(save_dir: PathLike) -> RunState:
    """Whether a save-dir is being trained into, from another process than the training one."""
    try:
        with open(Path(save_dir, RUN_FILE), encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return RunState.RUNNING
            record = _read(file)
    except OSError:
        return RunState.UNKNOWN
    if not record:  # it is just being made
        return RunState.UNKNOWN
    return RunState.REQUEUED if record.get("requeued") else RunState.ENDED


def run_record(save_dir: PathLike) -> dict[str, Any]:
    """What the latest training into a save-dir recorded; empty where there was none.

    Names: ``pid``, ``host``, ``started`` (ISO 8601), ``command``, ``logs`` (paths, also of the trainings it resumed),
    ``data`` (the data-bin).
    """
    try:
        with open(Path(save_dir, RUN_FILE), encoding="utf-8") as file:
            return _read(file)
    except OSError:
        return {}


def _read(file: TextIO) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        record = json.load(file)
        return record if isinstance(record, dict) else {}
    return {}
