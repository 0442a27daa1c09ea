"""Run log: any command under a log, with its exit status, its signals and its terminal as without.

Where standard output is no terminal, the command writes straight into the log, and what is new there is copied: so the
log is complete whatever becomes of this process, and neither a slow reader nor a process in the background holds it up.
"""

import os
import re
import select
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, Self

from ..errors import ClozeError
from ..files import PathLike
from ..runs.events import EVENTS_SUFFIX, EVENTS_VARIABLE
from ..runs.lock import LOG_VARIABLE
from ..secrecy import hide_in_command
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

    The name of the log is made from the command where none is given.  The addresses are mailed how it fares, also when
    it starts if *mail_start*, and when nothing came for *stalled_after* seconds.

    Returns:
        the exit status of the command; 128 + n if signal n ended it, 127 if it was not found, 126 if it cannot be run

    Raises:
        ClozeError: the log cannot be written
    """
    name = safe_name(name if name is not None else name_of(hide_in_command(command)))
    log = Log(Path(log_dir), name)
    _say(f"log in {log.path}")
    facts = {**surroundings(command), "started": _clock()}
    log.write_facts(facts)
    child = Child()
    with child.signals():
        begun = time.monotonic()
        events = os.environ.get(EVENTS_VARIABLE) or str(log.path.with_suffix(EVENTS_SUFFIX))
        environ = {"PYTHONUNBUFFERED": "1", **os.environ, LOG_VARIABLE: str(log.path), EVENTS_VARIABLE: events}
        follower = Follower(log.path, Path(events), name, facts, emails, mail_start, stalled_after, _say)
        with Terminal(log.write) if os.isatty(1) else _Copier(log) as screen:
            problem = child.start(command, environ, screen.file_actions())
            if problem:
                log.write(f"{problem}\n".encode(errors="surrogateescape"))
            while not child.has_ended():
                readers, writers = screen.waits_for()
                readable, writable, _ = select.select([child.wake, *readers], writers, [], _GLANCE)
                if child.wake in readable:
                    os.read(child.wake, 4096)
                screen.handle(readable, writable)
                follower.look()
        if problem:
            _say(problem)
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
        os.close(log.fd)
        with suppress(Hurry):
            child.may_hurry = True
            follower.close(child.status, size, facts)
            if isinstance(screen, _Copier):
                screen.join()
    return child.status


class Log:
    """A new file ``MMDD_HHMMSS-NAME.log`` in a folder, written without delay; a :class:`ClozeError` if it cannot be."""

    def __init__(self, folder: Path, name: str) -> None:
        self._complained = False
        try:
            folder = folder.absolute()
            folder.mkdir(parents=True, exist_ok=True)
            for suffix in chain([""], map("-{}".format, count(2))):
                self.path = folder / f"{time.strftime('%m%d_%H%M%S')}-{name}{suffix}.log"
                with suppress(FileExistsError):
                    self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
                    return
        except OSError as error:
            reason = error.strerror or error
            raise ClozeError(
                f"{folder}: no log can be written there ({reason}); choose another folder with --log-dir"
            ) from error

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


class _Copier(threading.Thread):
    """Copies a log to standard output while it grows in this context, in a thread, as that may keep it waiting."""

    def __init__(self, log: Log) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._offset = log.size()
        self._fd = os.open(log.path, os.O_RDONLY)
        self._end: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._log.size()
        self._ended.set()

    def file_actions(self) -> list[tuple[Any, ...]]:
        return [(os.POSIX_SPAWN_DUP2, self._log.fd, number) for number in (1, 2)]

    def waits_for(self) -> tuple[list[int], list[int]]:
        return [], []

    def handle(self, readable: list[int], writable: list[int]) -> None:
        pass

    def run(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        pause = _SHORTEST
        while True:
            ended = self._ended.is_set()
            size = os.fstat(self._fd).st_size if self._end is None else self._end  # by now more may be behind it
            if size < self._offset:
                self._offset = 0  # the log was emptied
            number = min(os.preadv(self._fd, [buffer], self._offset), size - self._offset)
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
    with suppress(OSError):  # nobody can be told
        write_whole(2, f"fairseq-cloze run: {one_line(text)}\n".encode(errors="surrogateescape"))
