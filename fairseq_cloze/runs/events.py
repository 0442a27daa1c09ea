"""Events: what a training tells of itself, a JSON object per line; docs/formats.md has the fields.

A line is written in one piece and whole lines alone are read, so that a file can be followed while it grows.
"""

import json
import math
import os
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike

EVENTS_FILE = "metrics.jsonl"  #: in a save-dir
EVENTS_SUFFIX = ".events.jsonl"  #: of what ``fairseq-cloze run`` keeps beside a log
EVENTS_VARIABLE = "FAIRSEQ_CLOZE_EVENTS"  #: of the environment, names a second file for the events of a training

#: By field, ``type`` among them.
TrainingEvent = dict[str, Any]

_BLOCK = 1 << 18
_BEHIND = 1 << 23  # bytes of new lines beyond which no more is read than as many
_LONGEST = 1 << 20  # bytes of a line that is worth reading


def new_event(kind: str, **fields: Any) -> TrainingEvent:
    """An event of this moment."""
    return {"type": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}


class EventWriter:
    """Appends events to a file, which is made where it is missing, each line in one piece.

    Raises:
        OSError: it cannot be opened
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path
        # A pipe that nobody reads from stops no training either.
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)

    def write(self, event: TrainingEvent) -> None:
        """Append an event; what is no finite number becomes ``null``.

        Raises:
            OSError: the file cannot be written
        """
        line = json.dumps(_finite(event), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        append_line(self._fd, line)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


def append_line(fd: int, line: bytes) -> None:
    """Write a line in one piece to a file open for appending; one that a crash or a full disk has torn stays alone.

    Raises:
        OSError: the file cannot be written
    """
    found = os.fstat(fd)
    torn = stat.S_ISREG(found.st_mode) and found.st_size > 0 and os.pread(fd, 1, found.st_size - 1) != b"\n"
    data = b"\n" * torn + line + b"\n"
    if os.write(fd, data) < len(data):
        raise OSError("only a part of a line could be written")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def parse_event(line: bytes) -> TrainingEvent | None:
    """The event of a line; ``None`` where it holds none."""
    event = _parse(line)
    return event if event is not None and isinstance(event.get("type"), str) else None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.startswith(b"{") and len(line) <= _LONGEST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_objects(path: PathLike) -> list[dict[str, Any]]:
    """JSON objects of a file, one a line; other lines are passed over, a missing file has none.

    Raises:
        ClozeError: it cannot be read
    """
    try:
        with Path(path).open("rb") as lines:
            return [found for line in lines if (found := _parse(line)) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


def read_events(path: PathLike) -> list[TrainingEvent]:
    """All events of a file, as they were written; see :func:`read_objects`."""
    return [event for event in read_objects(path) if isinstance(event.get("type"), str)]


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
