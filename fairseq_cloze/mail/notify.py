"""What a long job tells by mail and to services, without ever waiting for it or failing with it."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ClozeError
from .mailer import Mailer
from .message import Mail
from .services import Messenger, find_services
from .settings import MailError, split_address

_Mailer = TypeVar("_Mailer", bound=Mailer)

KINDS = ("start", "success", "failure", "best", "stalled", "chance", "ended")


@dataclass(frozen=True)
class Event:
    """Something worth a mail or a message."""

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
    """Tells the events of a job: the first at once, later ones together every *interval* seconds, the last at the end.

    They go by mail to addresses, and through apprise to the services that the environment names; each has threads of
    its own.  Nothing that goes wrong there reaches the job, only a line *report*.  Subjects begin with *name*.  Without
    addresses there are no mails, and no settings are looked up; without a mailer or messenger, they are the user's.
    """

    def __init__(
        self,
        name: str,
        to: Sequence[str],
        interval: float = 600.0,
        mailer: Mailer | None = None,
        report: Callable[[str], None] = _to_stderr,
        messenger: Messenger | None = None,
    ) -> None:
        self.interval = interval
        self._report_to = report
        self._channels: list[_Channel] = []
        addresses = tuple(filter(self._is_usable, to))
        if addresses and (usable := self._usable(lambda: mailer or _own_mailer(), "mail")):
            self._channels.append(_Channel(self, name, addresses, usable))
        if messenger is None and (services := find_services(self.report)):
            messenger = self._usable(lambda: Messenger(services), "message")
        if messenger is not None:
            self._channels.append(_Channel(self, name, (), messenger))

    @property
    def has_receivers(self) -> bool:
        """Whether anybody is told."""
        return bool(self._channels)

    def tell(self, event: Event) -> None:
        """Have an event told; returns at once."""
        for channel in self._channels:
            channel.tell(event)

    def close(self, last: Event | None = None, limit: float = 120.0) -> None:
        """Send what is pending and the last event at once, or leave it to the spool after *limit* seconds."""
        end = time.monotonic() + limit
        for channel in self._channels:
            channel.begin_close(last, end)
        for channel in self._channels:
            channel.finish_close(limit, end)

    def report(self, line: str) -> None:
        """Say something to who looks on."""
        with suppress(Exception):  # a terminal that is gone is no reason to end a job
            self._report_to(" ".join(line.split()))

    def _is_usable(self, address: str) -> bool:
        try:
            return bool(split_address(address))
        except MailError as error:
            self.report(f"{error}; no mail to it")
            return False

    def _usable(self, make: Callable[[], _Mailer], noun: str) -> _Mailer | None:
        try:
            return make()
        except Exception as error:
            self.report(f"no {noun} will be sent: {error}")
            return None


def _own_mailer() -> Mailer:
    if importlib.util.find_spec("yagmail") is None:
        raise MailError("mail needs yagmail; run: pip install yagmail")
    return Mailer()


class _Channel:
    """One way for events to leave: by mail, or to services.  A thread of its own makes and sends the messages."""

    def __init__(self, notifier: Notifier, name: str, to: tuple[str, ...], mailer: Mailer) -> None:
        self._notifier, self._name, self._to, self._mailer = notifier, name, to, mailer
        self._pending: list[tuple[float, Event]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._problem = ""  # with the picture, told last
        self._thread: threading.Thread | None = None
        self._ending: list[threading.Thread] = []

    def tell(self, event: Event) -> None:
        with self._changed:
            if self._closed:
                return
            self._pending.append((time.time(), event))
            if self._thread is None:
                self._thread = self._start(self._work)
            self._changed.notify()

    def begin_close(self, last: Event | None, end: float) -> None:
        """Begin to send the rest, which has to be done at *end*."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            if last is not None:
                self._pending.append((time.time(), last))
            self._changed.notify()
        # the last message is not left to the other thread, which may be waiting for a server
        sender = self._start(self._send, self._pending, end) if self._pending else None
        self._ending = [thread for thread in (sender, self._thread) if thread is not None]

    def finish_close(self, limit: float, end: float) -> None:
        """Wait for it."""
        for thread in self._ending:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._ending):
            noun, spool = self._mailer.noun, self._mailer.spool
            self._notifier.report(f"{noun}: not finished within {limit:g} s; what was not sent waits in {spool}")
        self._ending = []

    def _start(self, *work: Any) -> threading.Thread | None:
        thread = threading.Thread(target=self._guard, args=work, name="notify", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._notifier.report(f"{self._mailer.noun}: {error}")
            return None
        return thread

    def _guard(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:
            self._notifier.report(f"{self._mailer.noun}: {type(error).__name__}: {error}")

    def _work(self) -> None:
        """Send what is told, and what the last message left in the spool, not more often than the notifier says."""
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
            next_mail = time.monotonic() + self._notifier.interval

    def _send(self, events: Sequence[tuple[float, Event]], end: float | None = None) -> bool:
        """Send events in one message, or without events what the spool holds; whether something waits there then."""
        mailer = self._mailer.another()  # one per thread: each has its own problems
        if events:
            # a second less, so that the try ends, and is told about, before the time is over
            limit = None if end is None else max(1.0, end - time.monotonic() - 1.0)
            kept = not mailer.send(self._compose(events), limit)
        else:
            kept = mailer.flush().kept > 0
        for problem in mailer.problems:
            self._notifier.report(problem)
        return kept

    def _compose(self, events: Sequence[tuple[float, Event]]) -> Mail:
        subject, text = f"{self._name}: {events[-1][1].subject}", events[-1][1].text
        if len(events) > 1:
            subject += f" (and {len(events) - 1} more)"
            text = "\n\n".join(
                f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}  {event.subject}\n\n{event.text.rstrip()}"
                for when, event in events
            )
        if not self._to:  # a message has nothing but its text
            return Mail(subject, text)
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
