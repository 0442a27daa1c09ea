"""Follower: what is worth a mail while a command runs and when it has ended.

A training tells of itself in a file of events (see :mod:`fairseq_cloze.runs.events`); of any other command there is its
output alone.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Exit
from ..runs.curves import History, Point
from ..runs.events import EventFollower

if TYPE_CHECKING:
    from ..mail.notify import Event, Notifier

#: Lines of the log in the mail of a failure.
LAST_LINES = 50

_EVERY = 0.5  # seconds between looks
_LAST_BYTES = 1 << 16  # of the log, in which the last lines are looked for
_SPEND = 0.05  # seconds for a look
_SPEND_AT_END = 5.0


class Follower:
    """Follows a log and the events of a training, and mails what happens.

    Args:
        log: path of the log
        events: path of the events, which may come later or never
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
        events: Path,
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
        self._start = self._size = os.fstat(self._fd).st_size
        self._grown_at = self._looked_at = time.monotonic()
        self._told_stalled = False
        self._events = EventFollower(events)  # before the command starts: what is there is of another one
        self._history = History()
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

    def read_rest(self) -> None:
        """The command has ended: read what is left."""
        self._guard(lambda: self._read(_SPEND_AT_END))

    def last_metrics(self) -> str:
        """The last figures of a validation and of training; empty where there were none."""
        history = self._history
        found = [_figures(subset, points[-1]) for subset, points in history.validations.items()]
        found += [_figures("training", points[-1]) for points in (history.updates or history.epochs,) if points]
        return "; ".join(found)

    def close(self, status: int, size: int, facts: Mapping[str, str]) -> None:
        """Tell the end, and wait until mails have left or are kept for later.

        Args:
            status: exit status
            size: bytes of the log before its foot
            facts: what stands at the foot of the log
        """
        if self._notifier:
            self._guard(lambda: self._close(status, size, facts))
        self._events.close()
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
        self._read(_SPEND)

    def _read(self, seconds: float) -> None:
        for event in self._events.read(seconds):
            self._history.add(event)
            match event["type"]:
                case "validation":
                    self._compare(str(event.get("subset")))
                case "chance":
                    self._tell_chance()

    def _compare(self, subset: str) -> None:
        """Tell a new best, but not the first validation."""
        points = self._history.validations.get(subset)
        accuracy = points[-1].values.get("accuracy") if points else None
        if points is None or accuracy is None:
            return
        before = self._best.get(subset)
        self._best[subset] = accuracy if before is None else max(accuracy, before)
        if before is not None and accuracy > before:
            text = f"Accuracy on {subset} rose to {accuracy:.4g} from {before:.4g} at update {points[-1].update}.\n\n"
            self._tell("best", f"new best accuracy {accuracy:.4g} on {subset}", text + self._summary({}))

    def _tell_chance(self) -> None:
        if not self._history.chance:
            return
        notice = self._history.chance[-1]
        lines = [f"{notice.text}. Likely causes, the best evidence first:"]
        lines += [f"  {number}. {cause}" for number, cause in enumerate(notice.causes, 1)]
        self._tell("chance", "at chance", "\n".join(lines) + f"\n\n{self._summary({})}")

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

        return history_png(self._history, self._name)

    def _summary(self, more: Mapping[str, str]) -> str:
        facts = {**self._facts, **more, "log": str(self._log)}
        if not more and self.last_metrics():
            facts["last metrics"] = self.last_metrics()
        return "\n".join(f"{name}: {value}" for name, value in facts.items() if value)

    def _last_lines(self, size: int) -> str:
        begin = max(self._start, size - _LAST_BYTES)
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


def _figures(name: str, point: Point) -> str:
    values = ", ".join(
        f"{metric} {point.values[metric]:.4g}" for metric in ("loss", "accuracy") if metric in point.values
    )
    return f"{name} {values} at update {point.update}"
