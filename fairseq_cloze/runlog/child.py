"""Child: a command as a process of its own, told what this process is told."""

import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import Exit

#: Signals that a command is sent when this process is; SLURM announces the end of a job by a USR signal.
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ENDING = FORWARDED[:4]  #: the ones that after the end of the command end this process as well


class Hurry(BaseException):
    """Somebody will not wait for what comes after the command; raised by a signal."""


class Child:
    """A command in a session of its own."""

    def __init__(self) -> None:
        self.status = 0  # of the exit, 128 + n where signal n ended it; known once it has ended
        self.forwarded: list[str] = []  # names of the signals that were passed on
        self.may_hurry = False  # a signal from now on raises Hurry, as the command has ended
        self.wake, self._wake_end = os.pipe()  # can be read when the child may have ended or a signal came
        self._pid: int | None = None
        self._ended = False
        self._early: list[int] = []  # signals that came before the command started
        self._peak, self._least_peak = 0, 0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Pass on signals; what was ignored when this process started, as nohup has it, stays ignored."""
        os.set_blocking(self._wake_end, False)
        before = {number: signal.getsignal(number) for number in FORWARDED}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        # Where SIGCHLD was ignored, there would be no exit status.
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        wake_before = signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        try:
            yield
        finally:
            self.may_hurry = False
            signal.set_wakeup_fd(wake_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self.wake)
            os.close(self._wake_end)

    def start(
        self, command: Sequence[str], environ: Mapping[str, str], file_actions: Sequence[tuple[Any, ...]]
    ) -> str | None:
        """Start the command; returns why that was not possible, and then the child has ended."""
        self._least_peak = _own_peak()
        try:
            self._pid = os.posix_spawnp(
                command[0],
                list(command),
                dict(environ),
                file_actions=list(file_actions),
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
        except (OSError, ValueError) as error:
            self._ended = True
            self.status = Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.NOT_EXECUTABLE
            return f"{command[0]}: {_reason(command[0], error)}"
        while self._early:
            self._on_signal(self._early.pop(0))
        return None

    def has_ended(self) -> bool:
        """Whether the command has ended; what it left in the background does not count."""
        if not self._ended and self._pid is not None:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid:
                self._ended = True
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
                self._peak = usage.ru_maxrss
        return self._ended

    def peak_memory(self) -> str:
        """Memory of the largest process of the command, in words; empty where it never started."""
        if self._pid is None:
            return ""
        # The system counts what a process had before it became the command, which was this process's memory.
        under = "under " if self._peak <= 1.05 * self._least_peak else ""
        size = max(self._peak, self._least_peak) / 1024
        return f"{under}{f'{size / 1024:.2f} GiB' if size >= 1024 else f'{size:.1f} MiB'} (largest process)"

    def _on_signal(self, number: int, frame: Any = None) -> None:
        if self._ended:
            if self.may_hurry and number in ENDING:
                raise Hurry
            return
        if self._pid is None:
            self._early.append(number)
            return
        self.forwarded.append(signal.Signals(number).name)
        with suppress(ProcessLookupError, PermissionError):  # it has just ended, or it runs as another user
            os.killpg(self._pid, number)


def _own_peak() -> int:
    """Largest memory of this process, in the system's unit."""
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:  # without that of the process before this program
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def status_text(status: int) -> str:
    """An exit status, with the signal's name where it stands for one."""
    known = status - 128 in set(signal.Signals)
    return f"{status} ({signal.Signals(status - 128).name})" if known else str(status)


def _reason(program: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        if shutil.which(program):
            return "the interpreter its first line names was not found; check the line that begins with #!"
        return "not found; check its name, and PATH"
    if isinstance(error, PermissionError):
        return f"cannot be run; a script is run by 'bash {program}', or made executable by 'chmod +x {program}'"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return f"is no program; a script without a first line as '#!/bin/sh' is run by 'bash {program}'"
    return f"cannot be run ({error})"
