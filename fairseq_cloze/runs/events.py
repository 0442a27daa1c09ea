"""Events: what a training tells of itself, a JSON object per line; docs/formats.md has the fields.

A training of this package appends them to ``metrics.jsonl`` in its save-dir, and to the file that the variable
``FAIRSEQ_CLOZE_EVENTS`` names.  A line is written in one piece and whole lines alone are read, so that a file can be
followed while it grows; what a crash has torn is passed over.
"""

from __future__ import annotations

import json
import math
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import PathLike

EVENTS_FILE = "metrics.jsonl"

#: Ending of the events that ``fairseq-cloze run`` keeps beside a log.
EVENTS_SUFFIX = ".events.jsonl"

#: Environment variable that names a second file for the events of a training.
EVENTS_VARIABLE = "FAIRSEQ_CLOZE_EVENTS"

#: By field, ``type`` among them.
TrainingEvent = dict[str, Any]

_BLOCK = 1 << 18
_BEHIND = 1 << 23  # bytes of new lines beyond which no more is read than as many
_LONGEST = 1 << 20  # bytes of a line that is worth reading


def new_event(kind: str, **fields: Any) -> TrainingEvent:
    """An event of this moment."""
    return {"type": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}


class EventWriter:
    """Appends events to a file, each line in one piece.

    Args:
        path: of the file, made where it is missing

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
        data = b"\n" * is_torn(self._fd) + line + b"\n"
        if os.write(self._fd, data) < len(data):
            raise OSError("only a part of a line could be written")

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)


def is_torn(fd: int) -> bool:
    """Whether a file ends within a line, as a crash or a full disk leaves it."""
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and found.st_size > 0 and os.pread(fd, 1, found.st_size - 1) != b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def parse_event(line: bytes) -> TrainingEvent | None:
    """The event of a line; ``None`` where it holds none."""
    if not line.startswith(b"{"):
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def read_events(path: PathLike) -> list[TrainingEvent]:
    """All events of a file, as they were written; other lines are passed over, a missing file has none.

    Raises:
        ClozeError: it cannot be read
    """
    try:
        with Path(path).open("rb") as lines:
            return [event for line in lines if len(line) <= _LONGEST and (event := parse_event(line)) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error


class EventFollower:
    """Reads a file of events while it grows, from where it ends now; it may come later.

    Events are read at leisure: where more is written than can be read in passing, some of it is left out.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._fd: int | None = None
        self._rest = b""
        self._offset = 0
        self._open()
        if self._fd is not None:
            self._offset = os.fstat(self._fd).st_size

    def read(self, seconds: float) -> list[TrainingEvent]:
        """What is new, as far as so many seconds allow.

        Raises:
            OSError: the file cannot be read
        """
        self._open()
        if self._fd is None:
            return []
        found: list[TrainingEvent] = []
        deadline = time.monotonic() + seconds
        end = os.fstat(self._fd).st_size
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
            found += [event for line in lines if (event := parse_event(line)) is not None]
        return found

    def _open(self) -> None:
        if self._fd is None:
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:  # not there so far
                return
            if stat.S_ISREG(os.fstat(fd).st_mode):
                self._fd = fd
            else:  # what is read from a pipe is lost to whoever waits at its other end
                os.close(fd)

    def close(self) -> None:
        """Give the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
