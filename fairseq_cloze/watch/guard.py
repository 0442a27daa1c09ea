"""Guard: one watch at a time, and what happens when it is told to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ClozeError


class WatchLock:
    """Only one watch works at a split of a save-dir; the lock goes with its process.

    Args:
        path: the file; it stays, as a removed one could be locked by two
        what: what is watched, for messages
        report: takes a line for people

    Raises:
        ClozeError: another watch has it
    """

    def __init__(self, path: Path, what: str, report: Callable[[str], None]) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            other: dict[str, Any] = {}
            with suppress(ValueError):
                other = json.load(self._file)
            self._file.close()
            raise ClozeError(
                f"{what}: another watch is at work there (process {other.get('pid', '?')} on "
                f"{other.get('host', '?')}); wait for it, or stop it first"
            ) from error
        except OSError as error:
            report(f"{path}: no locks on this file system ({error.strerror}); see to it that only one watch runs")
        self._file.truncate()
        self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        self._file.flush()

    def __enter__(self) -> WatchLock:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


@contextmanager
def signals_raise() -> Iterator[list[int]]:
    """Turn INT, TERM and HUP into :class:`SystemExit`; the list holds what came."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
