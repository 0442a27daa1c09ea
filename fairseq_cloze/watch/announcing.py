"""Announcing: what people hear of a watch, as lines, mails, a table and a picture."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from ..files import write_bytes
from ..mail.notify import Event, Notifier
from . import records
from .records import AT_CHANCE, RECORDS, STALL, Record

#: Takes a line for people.
Report = Callable[[str], None]

_PICTURE_EVERY = 30.0  # seconds, while checkpoints wait

# A running training is silent when nothing came for so many seconds and for so many times the longest pause.
_SILENT, _SILENT_TIMES = 1800.0, 5.0


class Announcer:
    """Tells of the watch of one save-dir, by lines and to addresses."""

    def __init__(self, folder: Path, emails: Sequence[str], report: Report) -> None:
        self._folder, self._report = folder, report
        self._notifier = Notifier(f"watch {folder.resolve().name}", emails, report=report)
        self._changed, self._pictured = False, -math.inf
        self._said: set[str] = set()

    def say_once(self, text: str) -> None:
        """Report a line that was not reported before."""
        if text not in self._said:
            self._said.add(text)
            self._report(text)

    def records(self) -> list[Record]:
        """What was found out so far; that some of it cannot be read is reported once."""
        try:
            return records.read_validation(self._folder / RECORDS, self.say_once)
        except ClozeError as error:
            self.say_once(str(error))
            return []

    def note_change(self) -> None:
        """There is a new record; show it if the picture is old."""
        self._changed = True
        if time.monotonic() - self._pictured > _PICTURE_EVERY:
            self.publish()

    def publish(self) -> None:
        """Write table and picture if there is anything new; not being able to does not stop a watch."""
        if not self._changed or not self._folder.is_dir():  # which may have been removed
            return
        self._changed, self._pictured = False, time.monotonic()
        try:
            found = self.records()
            records.write_table(self._folder, found)
            picture = records.draw(found, str(self._folder))
            if picture:
                write_bytes(self._folder / records.PICTURE, picture)
        except Exception as error:  # matplotlib raises many kinds
            self.say_once(f"table or picture could not be written ({error})")

    def tell(self, kind: str, text: str) -> None:
        """Tell an event by mail and as a line."""
        self._report(text)
        self._mail(self._notifier.tell, kind, text)

    def tell_score(self, scores: Sequence[Record], previous: Record | None, waiting: str) -> None:
        """Tell the latest of a split's scores, what it means after the *previous* best one, and what is *waiting*."""
        score = scores[-1]
        words = [f"accuracy {score['accuracy']:.2f}%", f"chance {score['chance']:.2f}%", f"{score['seconds']:.1f} s"]
        if score["updates"] is not None:
            words.insert(0, f"{score['updates']:,} updates")
        if score["best"]:
            words.insert(2, "best so far")
        also = f"also {', '.join(score['aliases'])}" if score["aliases"] else ""
        self._report("; ".join(filter(None, (f"{score['checkpoint']}: {', '.join(words)}", also, waiting))))
        if score["best"] and previous is not None:
            gain = f"{score['accuracy']:.2f}% after {previous['accuracy']:.2f}%"
            self._mail(self._notifier.tell, "best", f"{score['checkpoint']} is the best so far, {gain}")
        best = records.best_of(scores)
        if best is not None and records.has_stalled(scores):
            self.tell("stalled", f"no new best in {STALL} checkpoints; it is {best['checkpoint']}")
        if records.fell_to_chance(scores):
            self.tell("chance", f"{AT_CHANCE} checkpoints in a row are no better than guessing; see docs/chance.md")
        self.note_change()

    def end(self, text: str) -> None:
        """Show the whole table and tell the end."""
        self.publish()
        for line in records.table(self.records()).splitlines():
            self._report(line)
        self._report(text)
        self._mail(self._notifier.close, "ended", text)

    def fail(self, error: BaseException) -> None:
        """Tell those who do not see it that the watch itself failed."""
        self._mail(self._notifier.close, "failure", f"the watch itself failed ({error})")

    def stop(self) -> None:
        """The watch was told to stop: send what waits, without a word more."""
        self._notifier.close(None, 10.0)

    def _mail(self, send: Callable[[Event], Any], kind: str, text: str) -> None:
        if self._notifier.has_receivers:
            found = self.records()
            body = f"{self._folder.resolve()}: {text}.\n\n{records.table(found)}"
            send(Event(kind, text, body, picture=lambda: records.draw(found, str(self._folder))))


class Silence:
    """Says once when a running training has written nothing for longer than it ever did, on the monotonic clock."""

    def __init__(self, start: float) -> None:
        self._last, self._longest, self._told = start, 0.0, False

    def begins(self, last: float, running: bool) -> bool:
        """Whether it is time to say so: nothing has come since *last*, and the training is running."""
        if last != self._last:
            self._longest, self._last, self._told = max(self._longest, last - self._last), last, False
        quiet = time.monotonic() - last > max(_SILENT, _SILENT_TIMES * self._longest)
        begins = quiet and running and not self._told
        self._told = self._told or begins
        return begins
