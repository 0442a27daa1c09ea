"""Events: what a training tells of itself, a JSON object per line; docs/formats.md has the fields.

A file of events can be followed while it grows.
"""

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ..files import PathLike
from .lines import LONGEST as _LONGEST
from .lines import parse_line, read_lines

EVENTS_FILE = "metrics.jsonl"  #: in a save-dir
EVENTS_SUFFIX = ".events.jsonl"  #: of what ``fairseq-cloze run`` keeps beside a log
EVENTS_VARIABLE = "FAIRSEQ_CLOZE_EVENTS"  #: of the environment, names a second file for the events of a training

#: By field, ``type`` among them.
TrainingEvent = dict[str, Any]

_BLOCK = 1 << 18
_BEHIND = 1 << 23  # bytes of new lines beyond which no more is read than as many


def new_event(kind: str, **fields: Any) -> TrainingEvent:
    """An event of this moment."""
    return {"type": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}


def parse_event(line: bytes) -> TrainingEvent | None:
    """The event of a line; ``None`` where it holds none."""
    try:
        event = parse_line(line)
    except ValueError:
        return None
    return None if _misfit(event) else event


def _misfit(event: TrainingEvent) -> str:
    return "" if isinstance(event.get("type"), str) else "expected 'type', a string"


def read_events(path: PathLike, say: Callable[[str], Any] = warnings.warn) -> list[TrainingEvent]:
    """All events of a file, as they were written; *say* takes a sentence for each line that is damaged.

    Raises:
        ClozeError: it cannot be read
    """
    return read_lines(path, say, _misfit)


class LineFollower:
    """Reads whole lines of an open file while it grows, from an offset on; from its start where it was emptied.

    Lines are read at leisure: where more is written than can be read in passing, some of it is left out.
    """

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._offset = fd, offset
        self._rest = b""

    def read(self, seconds: float) -> list[bytes]:
        """What is new, as far as so many seconds allow.

        Raises:
            OSError: the file cannot be read
        """
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        end = os.fstat(self._fd).st_size
        if end < self._offset:
            self._offset, self._rest = 0, b""
        if end - self._offset > _BEHIND:
            self._offset, self._rest = end - _BEHIND, b""
        while self._offset < end and time.monotonic() < deadline:
            block = os.pread(self._fd, min(_BLOCK, end - self._offset), self._offset)
            if not block:
                break
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > _LONGEST:
                self._rest = b""
            found += lines
        return found


class EventFollower:
    """Reads a file of events as :class:`LineFollower` does, from where it ends now; it may come later."""

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._fd: int | None = None
        self._open(at_end=True)

    def read(self, seconds: float) -> list[TrainingEvent]:
        """What is new, as far as so many seconds allow.

        Raises:
            OSError: the file cannot be read
        """
        self._open()
        lines = self._lines.read(seconds) if self._fd is not None else []
        return [event for line in lines if (event := parse_event(line)) is not None]

    def _open(self, at_end: bool = False) -> None:
        # What is read from a pipe is lost to whoever waits at its other end.
        if self._fd is None and os.path.isfile(self._path):
            with suppress(OSError):
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
                self._lines = LineFollower(self._fd, os.fstat(self._fd).st_size if at_end else 0)

    def close(self) -> None:
        """Give the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
