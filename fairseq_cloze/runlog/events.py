"""Run events: what is worth a mail while a command runs and when it has ended."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Exit
from ..runs.history import TRAIN_TAGS, ChanceLine, LogReader, Point

if TYPE_CHECKING:
    from ..mail.notify import Event, Notifier

#: Lines of the log in the mail of a failure.
LAST_LINES = 50

_EVERY = 0.5  # seconds between looks
_BLOCK = 1 << 18
_BEHIND = 1 << 23  # bytes of new output beyond which no more is read than as many
_LONGEST = 1 << 16  # bytes of a line that may be a line of figures
_SPEND = 0.05  # seconds for a look


class Events:
    """Follows a log and mails what happens.

    Figures are looked for at leisure: where more is written than can be read in passing, some of it is left out.

    Args:
        log: path of the log
        name: of the run
        facts: what stands at the head of the log
        emails: addresses; none for no mail
        mail_start: tell the start
        stalled_after: seconds without output that are worth a mail
        report: is told in one line what goes wrong
    """

    def __init__(
        self,
        log: Path,
        name: str,
        facts: Mapping[str, str],
        emails: Sequence[str],
        mail_start: bool,
        stalled_after: float,
        report: Callable[[str], None],
    ) -> None:
        self._log, self._name, self._facts, self._report = log, name, facts, report
        self._stalled_after = stalled_after
        self._fd = os.open(log, os.O_RDONLY)
        self._start = self._offset = self._size = os.fstat(self._fd).st_size
        self._grown_at = self._looked_at = time.monotonic()
        self._told_stalled = False
        self._rest = b""
        self._reader = LogReader()
        self._chance_open = False
        self._best: dict[str, float] = {}
        self._failed = False
        self._notifier: Notifier | None = self._guard(lambda: self._make_notifier(emails)) if emails else None
        if mail_start:
            self._guard(lambda: self._tell("start", "started", self._summary({})))

    def look(self) -> None:
        """Read what is new, if it is time to."""
        now = time.monotonic()
        if now - self._looked_at >= _EVERY:
            self._looked_at = now
            self._guard(lambda: self._look(now))

    def read_rest(self, size: int) -> None:
        """The command has ended with *size* bytes of log: read what is left."""
        self._guard(lambda: self._read(size, seconds=5.0))
        self._guard(self._end_chance)

    def last_metrics(self) -> str:
        """The last figures of a validation and of training; empty where there were none."""
        latest = {point.tag: point for point in self._reader.history.points}
        order = sorted(latest, key=lambda tag: tag in TRAIN_TAGS)
        return "; ".join(_figures(latest[tag]) for tag in order if tag != "train" or "train_inner" not in latest)

    def close(self, status: int, size: int, facts: Mapping[str, str]) -> None:
        """Tell the end, and wait until mails have left or are kept for later.

        Args:
            status: exit status
            size: bytes of the log before its foot
            facts: what stands at the foot of the log
        """
        if self._notifier:
            self._guard(lambda: self._close(status, size, facts))
        os.close(self._fd)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        size = os.fstat(self._fd).st_size
        if size != self._size:
            self._size, self._grown_at, self._told_stalled = size, now, False
        elif now - self._grown_at >= self._stalled_after and not self._told_stalled:
            self._told_stalled = True
            minutes = self._stalled_after / 60
            text = f"There was no output for {minutes:.3g} minutes.\n\n{self._summary({})}\n\n{self._last_lines(size)}"
            self._tell("stalled", f"no output for {minutes:.3g} minutes", text)
        if size == self._offset:
            self._end_chance()
        self._read(size, _SPEND)

    def _read(self, end: int, seconds: float) -> None:
        if end - self._offset > _BEHIND:
            self._offset, self._rest = end - _BEHIND, b""
        deadline = time.monotonic() + seconds
        while self._offset < end and time.monotonic() < deadline:
            block = os.pread(self._fd, min(_BLOCK, end - self._offset), self._offset)
            if not block:
                break
            self._offset += len(block)
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > _LONGEST:
                self._rest = b""
            for line in lines:
                if self._chance_open or b" | " in line or line.startswith(b"[2"):
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if self._chance_open and not line.startswith(b"  "):
            self._end_chance()
        if len(line) > _LONGEST:
            return
        found = self._reader.feed(line.decode("utf-8", "replace"))
        if isinstance(found, ChanceLine):
            self._chance_open = True
        elif found is not None and found.tag not in TRAIN_TAGS and "accuracy" in found.values:
            accuracy, before = found.values["accuracy"], self._best.get(found.tag)
            if before is None or accuracy > before:
                self._best[found.tag] = accuracy
            if before is not None and accuracy > before:
                subject = f"new best accuracy {accuracy:g} on {found.tag}"
                text = f"Accuracy on {found.tag} rose to {accuracy:g} from {before:g} at update {found.update}.\n\n"
                self._tell("best", subject, text + self._summary({}))

    def _end_chance(self) -> None:
        if self._chance_open:
            self._chance_open = False
            self._tell("chance", "at chance", f"{self._reader.history.chance[-1]}\n\n{self._summary({})}")

    # -- telling -------------------------------------------------------------------------------------------------------

    def _make_notifier(self, emails: Sequence[str]) -> Notifier:
        from ..mail.notify import Notifier

        return Notifier(f"{self._name} on {platform.node()}", list(emails), report=self._report)

    def _tell(self, kind: str, subject: str, text: str) -> None:
        if self._notifier:
            self._notifier.tell(self._event(kind, subject, text))

    def _event(self, kind: Any, subject: str, text: str, **fields: Any) -> Event:
        from ..mail.notify import Event

        return Event(kind, subject, text, **fields)

    def _close(self, status: int, size: int, facts: Mapping[str, str]) -> None:
        assert self._notifier is not None
        text = self._summary(facts)
        if status:
            text += f"\n\nThe last lines:\n\n{self._last_lines(size)}"
        kind, ending = "failure", f"failed with status {facts['status']}"
        if status == 0:
            kind, ending = "success", "succeeded"
        elif status == Exit.REQUEUE:
            kind, ending = "ended", f"stopped, to be started again (status {Exit.REQUEUE}),"
        event = self._event(
            kind,
            f"{ending} after {facts['duration']}",
            text,
            attachments=(self._log,),
            picture=self._picture,
        )
        self._notifier.close(event)

    def _picture(self) -> bytes | None:
        from ..runs.drawing import history_png

        return history_png(self._reader.history, self._name)

    def _summary(self, more: Mapping[str, str]) -> str:
        facts = {**self._facts, **more, "log": str(self._log)}
        if not more and self.last_metrics():
            facts["last metrics"] = self.last_metrics()
        return "\n".join(f"{name}: {value}" for name, value in facts.items() if value)

    def _last_lines(self, size: int) -> str:
        begin = max(self._start, size - _LONGEST)
        text = os.pread(self._fd, size - begin, begin).decode("utf-8", "replace")
        lines: list[str] = [line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")]
        return "\n".join(lines[-LAST_LINES:])

    def _guard(self, action: Callable[[], Any]) -> Any:
        """Mail and figures never get in the way of the command."""
        try:
            return action()
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._report(f"mail or figures failed ({type(error).__name__}: {error}); the command goes on")
            return None


def _figures(point: Point) -> str:
    values = ", ".join(f"{name} {point.values[name]:g}" for name in ("loss", "accuracy") if name in point.values)
    return f"{point.tag} {values} at update {point.update}"
