"""Follower: what is worth a mail while a command runs and when it has ended.

A training tells of itself in a file of events, see :mod:`fairseq_cloze.runs.events`; another command, by its output,
in which figures are looked for while there are no events.
"""

import glob
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import Exit
from ..mail.message import shown_lines
from ..runs.curves import History, Point
from ..runs.drawing import history_png
from ..runs.events import EventFollower, LineFollower
from ..secrecy import SERVICES_VARIABLE, hide_secrets
from .fairseq_log import read_line

LAST_LINES = 50  #: of the log, in the mail of a failure

_EVERY = 0.5  # seconds between looks
_LAST_BYTES = 1 << 16  # of the log, in which the last lines are looked for
_SPEND, _SPEND_AT_END = 0.05, 5.0  # seconds for a look


class Follower:
    """Follows a log and the events of a training, which may come later or never, and mails what happens."""

    def __init__(
        self,
        log: Path,
        events: Path,
        name: str,
        facts: Mapping[str, str],  # at the head of the log
        emails: Sequence[str],
        mail_start: bool,
        stalled_after: float,  # seconds without output that are worth a mail
        report: Callable[[str], None],  # is told in one line what goes wrong
    ) -> None:
        self._log, self._name, self._facts, self._report = log, name, facts, report
        self._stalled_after = stalled_after
        self._fd = os.open(log, os.O_RDONLY)
        self._start = self._size = os.fstat(self._fd).st_size
        self._grown_at = self._looked_at = time.monotonic()
        self._told_stalled = self._failed = False
        self._events = EventFollower(events)  # before the command starts: what is there is of another one
        self._lines = LineFollower(self._fd, self._size)
        self._told = False  # whether there were events
        self._history = History()
        self._best: dict[str, float] = {}
        self._notifier: Any = None
        if emails or os.environ.get(SERVICES_VARIABLE):
            self._guard(self._open_notifier, emails)
        if mail_start:
            self._guard(self._tell, "start", "started", "")

    def look(self) -> None:
        """Read what is new, if it is time to."""
        now = time.monotonic()
        if now - self._looked_at >= _EVERY:
            self._looked_at = now
            self._guard(self._look, now)

    def read_rest(self) -> None:
        """The command has ended: read what is left."""
        self._guard(self._read, _SPEND_AT_END)

    def last_metrics(self) -> str:
        """The last figures of a validation and of training; empty where there were none."""
        history = self._history
        found = [_figures(subset, points[-1]) for subset, points in history.validations.items()]
        found += [_figures("training", points[-1]) for points in (history.updates or history.epochs,) if points]
        return "; ".join(found)

    def close(self, status: int, size: int, facts: Mapping[str, str]) -> None:
        """Tell the end, and wait until mails have left or are kept for later.

        The log has *size* bytes before its foot, where the *facts* stand.
        """
        if self._notifier:
            self._guard(self._tell_end, status, size, facts)
        self._events.close()
        os.close(self._fd)

    def _look(self, now: float) -> None:
        size = os.fstat(self._fd).st_size
        if size < self._size:
            self._start = 0  # the log was emptied, and with it its head is gone
        if size != self._size:
            self._size, self._grown_at, self._told_stalled = size, now, False
        elif now - self._grown_at >= self._stalled_after and not self._told_stalled:
            self._told_stalled = True
            silence = f"no output for {self._stalled_after / 60:.3g} minutes"
            self._tell("stalled", silence, f"There was {silence}.\n\n", f"\n\n{self._last_lines(size)}")
        self._read(_SPEND)

    def _read(self, seconds: float) -> None:
        for event in self._events.read(seconds):
            if not self._told:
                self._told, self._history = True, History()
            self._history.add(event)
            if event["type"] == "validation":
                self._compare(str(event.get("subset")))
            elif event["type"] == "chance" and self._history.chance:
                notice = self._history.chance[-1]
                lines = [f"{notice.text}. Likely causes, the best evidence first:"]
                lines += [f"  {number}. {cause}" for number, cause in enumerate(notice.causes, 1)]
                self._tell("chance", "at chance", "\n".join(lines) + "\n\n")
        if not self._told:
            for line in self._lines.read(seconds):
                if subset := read_line(line, self._history):
                    self._compare(subset)

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
            self._tell("best", f"new best accuracy {accuracy:.4g} on {subset}", text)

    def _open_notifier(self, emails: Sequence[str]) -> None:
        from ..mail.notify import Notifier

        self._notifier = Notifier(f"{self._name} on {platform.node()}", emails, report=self._report)

    def _tell(self, kind: str, subject: str, text: str, last: str = "") -> None:
        from ..mail.notify import Event

        if self._notifier:
            self._notifier.tell(Event(kind, subject, f"{text}{self._summary({})}{last}"))

    def _tell_end(self, status: int, size: int, facts: Mapping[str, str]) -> None:
        from ..mail.notify import Event

        endings = {0: ("success", "succeeded")}
        endings[Exit.REQUEUE] = "ended", f"stopped, to be started again (status {Exit.REQUEUE}),"
        kind, ending = endings.get(status, ("failure", f"failed with status {facts['status']}"))
        text = self._summary(facts) + (f"\n\nThe last lines:\n\n{self._last_lines(size)}" if status else "")
        picture = partial(history_png, self._history, self._name)
        attached = (place,) if (place := self._place()) else ()
        if not attached:
            text += "\n\nThe log was removed, or moved to another folder, so it is not attached."
        self._notifier.close(Event(kind, f"{ending} after {facts['duration']}", text, attached, picture))

    def _summary(self, foot: Mapping[str, str]) -> str:
        facts = {**self._facts, **foot, "log": str(self._place() or f"{self._log}, which is no longer there")}
        facts.setdefault("last metrics", self.last_metrics())
        return "\n".join(f"{name}: {value}" for name, value in facts.items() if value)

    def _last_lines(self, size: int) -> str:
        begin = max(min(self._start, size), size - _LAST_BYTES)
        text = os.pread(self._fd, size - begin, begin).decode("utf-8", "replace")
        return hide_secrets("\n".join(shown_lines(text)[-LAST_LINES:]))

    def _place(self) -> Path | None:
        """Where the log lies by now, which somebody may have renamed or removed under the command."""
        for path in (self._log, *sorted(self._log.parent.glob(f"*{glob.escape(self._log.stem)}*"))):
            with suppress(OSError):
                if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                    return path
        return None

    def _guard(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Mail and figures never get in the way of the command."""
        try:
            action(*arguments)
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._report(f"mail or figures failed ({type(error).__name__}: {error}); the command goes on")


def _figures(name: str, point: Point) -> str:
    values = [f"{metric} {point.values[metric]:.4g}" for metric in ("loss", "accuracy") if metric in point.values]
    return f"{name} {', '.join(values)} at update {point.update}"
