"""What a long job tells by mail, without ever waiting for it or failing with it."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ClozeError
from .mailer import Mailer
from .message import Mail
from .settings import MailError, split_address

KINDS = ("start", "success", "failure", "best", "stalled", "chance", "ended")


@dataclass(frozen=True)
class Event:
    """Something worth a mail."""

    kind: str  #: one of :data:`KINDS`
    subject: str  #: without the name of the job
    text: str
    attachments: tuple[Path, ...] = ()  #: read when the mail is made
    picture: Callable[[], bytes | None] | None = None  #: makes a PNG, or None, when the mail is made

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, but is {self.kind!r}")


def _to_stderr(line: str) -> None:
    print(f"fairseq-cloze: {line}", file=sys.stderr, flush=True)


class Notifier:
    """Mails the events of a job: the first at once, later ones together every *interval* seconds, the last at the end.

    A thread of its own makes and sends the mails.  Nothing that goes wrong there reaches the job, only a line *report*.
    Subjects begin with *name*.  Without addresses there are no mails, and no settings are looked up; without a mailer,
    they are the user's.
    """

    def __init__(
        self,
        name: str,
        to: Sequence[str],
        interval: float = 600.0,
        mailer: Mailer | None = None,
        report: Callable[[str], None] = _to_stderr,
    ) -> None:
        self.name, self.interval = name, interval
        self._report_to = report
        self._to = tuple(filter(self._is_usable, to))
        self._mailer = self._usable_mailer(mailer) if self._to else None
        self._pending: list[tuple[float, Event]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._problem = ""  # with the picture, told last
        self._thread: threading.Thread | None = None

    def tell(self, event: Event) -> None:
        """Have an event mailed; returns at once."""
        with self._changed:
            if self._mailer is None or self._closed:
                return
            self._pending.append((time.time(), event))
            if self._thread is None:
                self._thread = self._start(self._work)
            self._changed.notify()

    def close(self, last: Event | None = None, limit: float = 120.0) -> None:
        """Send what is pending and the last event in one mail, or leave it to the spool after *limit* seconds."""
        end = time.monotonic() + limit
        with self._changed:
            if self._mailer is None or self._closed:
                return
            self._closed = True
            if last is not None:
                self._pending.append((time.time(), last))
            self._changed.notify()
        # the last mail is not left to the other thread, which may be waiting for a server
        sender = self._start(self._send, self._pending, end) if self._pending else None
        threads = [thread for thread in (sender, self._thread) if thread is not None]
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self._report(f"mail: not finished within {limit:g} s; what was not sent waits in {self._mailer.spool}")

    def _start(self, *work: Any) -> threading.Thread | None:
        thread = threading.Thread(target=self._guard, args=work, name="notify", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._report(f"mail: {error}")
            return None
        return thread

    def _guard(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:
            self._report(f"mail: {type(error).__name__}: {error}")

    def _work(self) -> None:
        """Send what is told, and what the last mail left in the spool, no more often than every *interval* seconds."""
        next_mail = 0.0
        kept = False
        while True:
            with self._changed:
                if not kept:
                    self._changed.wait_for(lambda: self._closed or self._pending)
                self._changed.wait_for(lambda: self._closed, max(0.0, next_mail - time.monotonic()))
                if self._closed:
                    return
                events, self._pending = self._pending, []
            kept = self._guard(self._send, events) is not False
            next_mail = time.monotonic() + self.interval

    def _send(self, events: Sequence[tuple[float, Event]], end: float | None = None) -> bool:
        """Send events in one mail, or without events what the spool holds; whether something waits there afterwards."""
        assert self._mailer is not None
        mailer = Mailer(self._mailer.settings, self._mailer.spool)  # one per thread: each has its own problems
        if events:
            # a second less, so that the try ends, and is told about, before the time is over
            limit = None if end is None else max(1.0, end - time.monotonic() - 1.0)
            kept = not mailer.send(self._compose(events), limit)
        else:
            kept = mailer.flush().kept > 0
        for problem in mailer.problems:
            self._report(problem)
        return kept

    def _compose(self, events: Sequence[tuple[float, Event]]) -> Mail:
        subject, text = f"{self.name}: {events[-1][1].subject}", events[-1][1].text
        if len(events) > 1:
            subject += f" (and {len(events) - 1} more)"
            text = "\n\n".join(
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}  {event.subject}\n\n{event.text.rstrip()}"
                for when, event in events
            )
        attachments = tuple(dict.fromkeys(path for _, event in events for path in event.attachments))
        draw = next((event.picture for _, event in reversed(events) if event.picture), lambda: None)
        picture = None
        try:
            picture = draw()
        except Exception as error:
            problem = str(error) if isinstance(error, ClozeError) else f"{type(error).__name__}: {error}"
            if problem != self._problem:
                self._problem = problem
                text = f"{text.rstrip()}\n\nThe picture could not be drawn: {problem}"
        return Mail(subject, text, self._to, attachments, picture)

    def _is_usable(self, address: str) -> bool:
        try:
            return bool(split_address(address))
        except MailError as error:
            self._report(f"{error}; no mail to it")
            return False

    def _usable_mailer(self, mailer: Mailer | None) -> Mailer | None:
        try:
            if importlib.util.find_spec("yagmail") is None:
                raise MailError("mail needs yagmail; run: pip install yagmail")
            return mailer or Mailer()
        except Exception as error:
            self._report(f"no mail will be sent: {error}")
            return None

    def _report(self, line: str) -> None:
        with suppress(Exception):  # a terminal that is gone is no reason to end a job
            self._report_to(" ".join(line.split()))
