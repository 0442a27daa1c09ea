"""Runs: who trains into a save-dir, for those who look on.

A training holds a lock on ``SAVE_DIR/run.json``, which goes with its process, however that ends.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import stat
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ClozeError
from ..files import PathLike, open_regular
from ..jsontext import parse_json
from ..secrecy import hide_in_command
from .lines import LONGEST
from .names import LAST_CHECKPOINT

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
DAMAGED = ".damaged"  #: behind the name of a file under which a copy of what it held is kept

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
        content, record = _read(self._file)
        if content and not record:
            with suppress(OSError):
                path.with_name(RUN_FILE + DAMAGED).write_bytes(content)
            logger.warning(
                "%s: was damaged; what it held is in %s%s, the run begins a new one", path, RUN_FILE, DAMAGED
            )
        before: list[str] = record.get("logs", []) if resumes else []
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


def open_lock_file(path: Path) -> BinaryIO:
    """Open a file to lock, made where it is missing; it stays, as a removed one could be locked by two.

    Raises:
        ClozeError: something else is in its place
        OSError: it cannot be opened
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ClozeError(f"{path}: expected a file, found a pipe or a device; move it away")
    return file


def hold(file: BinaryIO, taken: str, advice: str) -> None:
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
        _, other = _read(file)
    raise ClozeError(f"{taken} (process {other.get('pid', '?')} on {other.get('host', '?')}){advice}")


def write_record(file: BinaryIO, record: dict[str, Any]) -> None:
    """Put a record in place of what a file holds, at one go: behind a shorter one there is white space.

    Raises:
        OSError: it cannot be written
    """
    content = json.dumps(record, indent=1).encode().ljust(os.fstat(file.fileno()).st_size - 1) + b"\n"
    if os.pwrite(file.fileno(), content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_state(save_dir: PathLike) -> RunState:
    """Whether a save-dir is being trained into, from another process than the training one."""
    try:
        with open_regular(Path(save_dir, RUN_FILE)) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return RunState.RUNNING
            _, record = _read(file)
    except OSError:
        return RunState.UNKNOWN
    if not record:  # it is just being made, or damaged
        return RunState.UNKNOWN
    return RunState.REQUEUED if record.get("requeued") else RunState.ENDED


def run_record(save_dir: PathLike) -> dict[str, Any]:
    """What the latest training into a save-dir recorded; empty where there was none, or where that is damaged.

    Names: ``pid``, ``host``, ``started`` (ISO 8601), ``command``, ``logs`` (paths, also of the trainings it resumed),
    ``data`` (the data-bin).
    """
    try:
        with open_regular(Path(save_dir, RUN_FILE)) as file:
            return _read(file)[1]
    except OSError:
        return {}


_TEXTS = ("host", "started", "data")
_LISTS = ("command", "logs")


def _read(file: BinaryIO) -> tuple[bytes, dict[str, Any]]:
    """What a file holds, and the record in it: empty where there is none, or where a part of it has another type."""
    content = os.pread(file.fileno(), LONGEST, 0)
    return content, parse_record(content)


def parse_record(content: bytes) -> dict[str, Any]:
    """The record of a ``run.json``; empty where it is damaged."""
    try:
        record = parse_json(content)
    except ValueError:
        return {}
    fits = isinstance(record, dict) and all(
        isinstance(value, str)
        if name in _TEXTS
        else isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        if name in _LISTS
        else True
        for name, value in record.items()
    )
    return record if fits else {}
