"""Guard: one watch at a time, and what happens when it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runs.lock import hold, open_lock_file, write_record


@contextmanager
def watch_lock(path: Path, what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Only one watch works at a split of a save-dir, *what* in messages; the lock goes with its process.

    Raises:
        ClozeError: another watch has it
    """
    with open_lock_file(path) as file:
        try:
            hold(file, f"{what}: another watch is at work there", "; wait for it, or stop it first")
        except OSError as error:
            report(f"{path}: no locks on this file system ({error.strerror}); see to it that only one watch runs")
        write_record(file, {"pid": os.getpid(), "host": socket.gethostname()})
        yield


@contextmanager
def signals_raise() -> Iterator[list[int]]:
    """Turn INT, TERM and HUP into :class:`SystemExit`; the list holds what came."""
    stopped: list[int] = []
    before: dict[int, Any] = {}

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
