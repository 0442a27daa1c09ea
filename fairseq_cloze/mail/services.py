"""Services: chats and phones that are told of a job through apprise, each once, or the message waits as mail does.

A service is called by its kind and a digest of its URL, such as ``slack-3fa9c1d2@notify``: URLs hold tokens, so they
stand in no message, in no spool and in no line for people.
"""

import hashlib
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from ..files import PathLike
from ..secrecy import HIDDEN, SERVICES_VARIABLE, hide_secrets
from .delivery import Outcome
from .mailer import Flushed, Mailer, flush_by
from .message import Letter, Mail, clean, one_line
from .settings import MailError, MailSettings, state_path

LIMIT = 30.0  #: seconds that one try may take; apprise itself gives up after four without an answer
MOST_TEXT = 3000  #: characters of a message; a service may take fewer

_SENDER = "job@notify"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]*)://\S+")
_BETWEEN = re.compile(r"[\s,;]+(?=[A-Za-z][A-Za-z0-9]*://)")
_STATUS = re.compile(r"error=(\d{3})")
_SHORTEST = 4  # characters of a part of a URL that is looked for in what apprise says
_AGAIN = (408, 425, 429)  # statuses below 500 after which another try soon makes sense


@dataclass(frozen=True)
class Service:
    """One URL of apprise."""

    url: str = field(repr=False)  #: never shown

    @property
    def kind(self) -> str:
        """Such as ``slack``."""
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """What people and the spool call it."""
        return f"{self.kind}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}@notify"


def find_services(
    report: Callable[[str], Any] = lambda line: None, environ: Mapping[str, str] = os.environ
) -> list[Service]:
    """What :data:`SERVICES_VARIABLE` names; *report* takes a line for each that cannot be used."""
    text = environ.get(SERVICES_VARIABLE, "").strip()
    found: dict[str, Service] = {}
    for number, url in enumerate(_BETWEEN.split(text) if text else [], 1):
        service = Service(url)
        if not _SCHEME.fullmatch(url):
            report(f"{SERVICES_VARIABLE}: expected URLs such as slack://..., found something else in place {number}")
        elif service.kind.startswith("mailto"):
            report(f"{SERVICES_VARIABLE}: mail does not go by place {number}, a mailto URL; give --email ADDRESS")
        else:
            found[service.name] = service
    return [*found.values()]


class Messenger(Mailer):
    """Tells services, and keeps what cannot be told in the folder *spool*.

    Raises:
        MailError: apprise is not installed
    """

    noun = "message"

    def __init__(self, services: Sequence[Service], spool: PathLike | None = None) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise MailError(f"{SERVICES_VARIABLE} needs apprise; run: pip install apprise")
        super().__init__(MailSettings(sender=_SENDER), spool or services_path())
        self.services = tuple(services)

    def another(self) -> Self:
        """One with problems of its own, for another thread."""
        return type(self)(self.services, self.spool)

    def compose(self, mail: Mail) -> Letter:
        """The message, which is its text; attachments stay where they are."""
        text = "\n".join(line.rstrip() for line in clean(mail.text).strip().splitlines())
        to = mail.to or tuple(service.name for service in self.services)
        return Letter(one_line(mail.subject)[:200] or "(no subject)", _SENDER, to, text.encode())

    def longest(self, letter: Letter) -> float:
        """Seconds that one try may take."""
        return LIMIT

    def deliver(self, letter: Letter, limit: float) -> Outcome:
        """Tell all services of a message at the same time; takes no longer than *limit* seconds, and raises nothing."""
        work = [_Work(letter, address, self._service(address)) for address in letter.to]
        end = time.monotonic() + min(limit, LIMIT)
        for one in work:
            one.start()
        for one in work:
            one.join(max(0.0, end - time.monotonic()))
        missed = [one for one in work if one.trouble != ""]
        trouble = "; ".join(one.trouble or f"{one.address} did not answer in time" for one in missed) or None
        served = tuple(one.address for one in work if one not in missed)
        return Outcome(served, trouble=trouble, again=any(one.again for one in missed), server=not served)

    def _service(self, address: str) -> Service | None:
        """The service of a name; where that is gone, as after its token was changed, the only one of its kind."""
        alike = [service for service in self.services if service.kind == address.rpartition("-")[0]]
        return next((service for service in alike if service.name == address), alike[0] if len(alike) == 1 else None)


class _Work(threading.Thread):
    """Tells one service; ``trouble`` is empty once it was told, and ``None`` until it is known."""

    def __init__(self, letter: Letter, address: str, service: Service | None) -> None:
        super().__init__(daemon=True, name="tell")
        self.letter, self.address, self.service = letter, address, service
        self.trouble: str | None = None
        self.again = False

    def run(self) -> None:
        try:
            self.trouble, self.again = self._tell()
        except Exception as error:  # whatever a plugin of apprise raises; its text may hold the URL
            self.trouble = f"{self.address}: apprise fails ({type(error).__name__})"

    def _tell(self) -> tuple[str, bool]:
        if self.service is None:
            return f"{self.address} is not in {SERVICES_VARIABLE}", False
        import apprise

        with _Said() as said:
            service: Any = apprise.Apprise.instantiate(self.service.url)
            if service is None:
                return f"{self.address}: apprise does not take the URL; mend it in {SERVICES_VARIABLE}", False
            if len(service) > 1:  # if one of them failed, a second try would tell the others twice
                return f"{self.address} has {len(service)} receivers; write one URL for each of them", False
            text = self.letter.message.decode("utf-8", "replace")
            most = min(MOST_TEXT, service.body_maxlen - len(self.letter.subject) - 2)
            if service.notify(_cut(text, most), self.letter.subject, body_format=apprise.NotifyFormat.TEXT):
                return "", False
        words = _hide(said.first or "apprise says no more", self.service.url)
        status = _STATUS.search(said.first)
        again = status is None or int(status[1]) >= 500 or int(status[1]) in _AGAIN
        return f"{self.address}: {words}" + ("" if again else f"; mend {SERVICES_VARIABLE}"), again


class _Said(logging.Handler):
    """What apprise logs in this thread, and nobody else hears of: it may hold what must not be shown."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        self._thread = threading.get_ident()
        self._logger = logging.getLogger("apprise")

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.first = self.first or record.getMessage()

    def __enter__(self) -> Self:
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def _hide(text: str, url: str) -> str:
    """One line of what apprise says, without any part of the URL."""
    text = one_line(text)
    both = f"{url} {unquote(url)}".partition("://")[2]
    for part in sorted(set(re.split(r"[/:@?&=#\s]+", both)), key=len, reverse=True):
        if len(part) >= _SHORTEST:
            text = text.replace(part, HIDDEN)
    return hide_secrets(text)[:300]


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a text of more than *most* characters."""
    if len(text) <= most:
        return text
    note = "\n[...]\n"
    half = max(0, most - len(note)) // 2
    return f"{text[:half]}{note}{text[len(text) - half :]}"


def services_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder where messages wait that services were not told."""
    return state_path(environ).with_name("notify")


def flush() -> Flushed | None:
    """Tell what waits to the services of now; None where nothing waits."""
    return flush_by(lambda: Messenger(find_services()), Messenger.noun, services_path(), "apprise")


def send_test() -> str:
    """Tell all services a test message, in one attempt and past the spool; empty where there are none.

    Raises:
        MailError: one of them was not told; the text says what to mend
    """
    problems: list[str] = []
    services = find_services(problems.append)
    if problems:
        raise MailError("; ".join(problems))
    if not services:
        return ""
    messenger = Messenger(services)
    letter = messenger.compose(Mail("fairseq-cloze: test", "This is the test message of 'fairseq-cloze mail test'."))
    outcome = messenger.deliver(letter, LIMIT)
    if outcome.trouble:
        raise MailError(outcome.trouble)
    return f"told {', '.join(outcome.served)}"
