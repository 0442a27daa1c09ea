"""Run log: any command under a log, with its exit status, its signals and its terminal as without.

Where standard output is no terminal, the command writes straight into the log, and this process follows the file and
copies what is new.  So a log is complete whatever becomes of this process, and neither a reader who is slow nor a
process left in the background can hold anything up.  For a terminal see :mod:`fairseq_cloze.runlog.terminal`.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike
from ..runs.events import EVENTS_SUFFIX, EVENTS_VARIABLE
from ..runs.lock import LOG_VARIABLE
from .child import Child, Hurry, status_text
from .follower import Follower
from .surroundings import one_line, surroundings
from .terminal import Terminal, write_whole

STALLED_AFTER = 1800.0

_BLOCK = 1 << 20
_GLANCE = 0.5  # seconds between looks at the log
_SHORTEST, _LONGEST = 0.02, 0.2  # seconds between looks for output to copy
_NAME_LENGTH = 50
_INTERPRETERS = re.compile(r"(ba|da|z|k)?sh|python[\d.]*|env|nohup|nice|time|srun|torchrun")


def run(
    command: Sequence[str],
    log_dir: PathLike = "logs",
    name: str | None = None,
    emails: Sequence[str] = (),
    mail_start: bool = False,
    stalled_after: float = STALLED_AFTER,
) -> int:
    """Run a command under a log, to its end.  To be called in the main thread.

    Args:
        command: program and arguments
        log_dir: folder for the log, made where it is missing
        name: part of the name of the log; made from the command where it is not given
        emails: addresses that are told how the command fares
        mail_start: tell them that it starts, too
        stalled_after: seconds without output that are worth a mail

    Returns:
        the exit status of the command; 128 + n if signal n ended it, 127 if it was not found, 126 if it cannot be run

    Raises:
        ClozeError: the log cannot be written
    """
    _open_standard_files()
    name = safe_name(name if name is not None else name_of(command))
    log = Log(Path(log_dir).absolute(), name)
    _say(f"log in {log.path}")
    facts = {**surroundings(command), "started": _clock()}
    log.write_facts(facts)
    child = Child()
    with child.signals():
        begun = time.monotonic()
        events = os.environ.get(EVENTS_VARIABLE) or str(log.path.with_suffix(EVENTS_SUFFIX))
        environ = {"PYTHONUNBUFFERED": "1", **os.environ, LOG_VARIABLE: str(log.path), EVENTS_VARIABLE: events}
        follower = Follower(log.path, Path(events), name, facts, emails, mail_start, stalled_after, _say)
        if os.isatty(1):
            copier = None
            _run_in_terminal(child, command, environ, log, follower)
        else:
            copier = _run_beside(child, command, environ, log, follower)
        size = log.size()
        follower.read_rest()
        facts = {
            "ended": _clock(),
            "duration": duration(time.monotonic() - begun),
            "status": status_text(child.status),
            "peak memory": child.peak_memory(),
            "forwarded": ", ".join(child.forwarded),
            "last metrics": follower.last_metrics(),
        }
        log.write_facts(facts)
        log.close()
        try:
            child.may_hurry = True
            follower.close(child.status, size, facts)
            if copier:
                copier.join()
        except Hurry:
            pass
    return child.status


def _run_beside(
    child: Child, command: Sequence[str], environ: Mapping[str, str], log: Log, follower: Follower
) -> _Copier:
    copier = _Copier(log)
    problem = child.start(command, environ, [(os.POSIX_SPAWN_DUP2, log.fd, number) for number in (1, 2)])
    copier.start()
    if problem:
        _tell_problem(problem, log)
    while not child.has_ended():
        _rest(child, [], [])
        follower.look()
    copier.end_at(log.size())
    return copier


def _run_in_terminal(
    child: Child, command: Sequence[str], environ: Mapping[str, str], log: Log, follower: Follower
) -> None:
    with _terminal(log) as terminal:
        problem = child.start(command, environ, terminal.file_actions())
        while not child.has_ended():
            terminal.handle(*_rest(child, *terminal.waits_for()))
            follower.look()
    if problem:
        _tell_problem(problem, log)


def _rest(child: Child, readers: list[int], writers: list[int]) -> tuple[list[int], list[int]]:
    """Wait for a moment, or until there is something to do."""
    readable, writable, _ = select.select([child.wake, *readers], writers, [], _GLANCE)
    if child.wake in readable:
        os.read(child.wake, 4096)
    return readable, writable


@contextmanager
def _terminal(log: Log) -> Iterator[Terminal]:
    """A terminal that follows the size of the outer one, and has its keys whenever it is in the foreground."""
    terminal = Terminal(log.write)
    followed = {signal.SIGWINCH: terminal.resize, signal.SIGCONT: terminal.take_keys}
    before = {}
    for number, action in followed.items():

        def handler(number: int, frame: Any, action: Any = action) -> None:
            action()

        before[number] = signal.signal(number, handler)
    try:
        yield terminal
    finally:
        for number, former in before.items():
            signal.signal(number, former)
        terminal.close()


def _tell_problem(problem: str, log: Log) -> None:
    log.write(f"{problem}\n".encode(errors="surrogateescape"))
    _say(problem)


# -- the log ---------------------------------------------------------------------------------------------------------


class Log:
    """A new file ``MMDD_HHMMSS-NAME.log``, written without delay.

    Args:
        folder: absolute path, made where it is missing
        name: safe for a file

    Raises:
        ClozeError: it cannot be made
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._complained = False
        stem = f"{time.strftime('%m%d_%H%M%S')}-{name}"
        number = 1
        while True:
            self.path = folder / (f"{stem}-{number}.log" if number > 1 else f"{stem}.log")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
                return
            except FileExistsError as error:
                if not folder.is_dir():
                    raise _no_log(folder, error) from error
                number += 1
            except OSError as error:
                raise _no_log(folder, error) from error

    def write(self, data: bytes) -> None:
        """Append bytes; where that fails, say so once and go on without."""
        try:
            write_whole(self.fd, data)
        except OSError as error:
            if not self._complained:
                self._complained = True
                _say(f"{self.path}: cannot be written ({error.strerror}); the command goes on, some of its log is lost")

    def write_facts(self, facts: Mapping[str, str]) -> None:
        """Append a line ``# NAME: VALUE`` for each fact that is known, on lines of their own."""
        size = self.size()
        new_line = size > 0 and os.pread(self.fd, 1, size - 1) != b"\n"
        lines = "".join(f"# {name}: {value}\n" for name, value in facts.items() if value)
        self.write(b"\n" * new_line + lines.encode(errors="surrogateescape"))

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Give the file back."""
        os.close(self.fd)


def _no_log(folder: Path, error: OSError) -> ClozeError:
    return ClozeError(
        f"{folder}: no log can be written there ({error.strerror or error}); choose another folder with --log-dir"
    )


class _Copier(threading.Thread):
    """Copies a log to standard output while it grows, from where it is now.

    It is a thread, as standard output may keep it waiting.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(daemon=True)
        self._offset = log.size()
        self._fd = os.open(log.path, os.O_RDONLY)
        self._end: int | None = None
        self._ended = threading.Event()

    def end_at(self, size: int) -> None:
        """The log is of that size, and no more is to be copied."""
        self._end = size
        self._ended.set()

    def run(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        pause = _SHORTEST
        while True:
            ended = self._ended.is_set()
            number = os.preadv(self._fd, [buffer], self._offset)
            if self._end is not None:  # by now, and only then is there more behind it
                number = min(number, self._end - self._offset)
            if number > 0:
                pause = _SHORTEST
                self._offset += number
                try:
                    write_whole(1, buffer[:number])
                except OSError:
                    break  # nobody reads it any more
            elif ended:
                break
            else:
                self._ended.wait(pause)
                pause = min(2 * pause, _LONGEST)
        os.close(self._fd)


# -- words -----------------------------------------------------------------------------------------------------------


def name_of(command: Sequence[str]) -> str:
    """A name for a run: its program, or the script or module that an interpreter is given, without its ending."""
    words = [word for word in command if not word.startswith("-") and "=" not in word] or list(command)
    names = [os.path.basename(word) for word in words]
    name = next((name for name in names if not _INTERPRETERS.fullmatch(name)), names[0])
    return re.sub(r"\.(sh|py)$", "", name)


def safe_name(name: str) -> str:
    """The name with nothing in it that a file name or a shell would take amiss."""
    return re.sub(r"[^\w.+-]+", "_", name)[:_NAME_LENGTH].strip("._-") or "run"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _clock() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


def _say(text: str) -> None:
    try:
        write_whole(2, f"fairseq-cloze run: {one_line(text)}\n".encode(errors="surrogateescape"))
    except OSError:
        pass  # nobody can be told


def _open_standard_files() -> None:
    """Without standard files, the log would become one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
