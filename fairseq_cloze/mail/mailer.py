"""Mail that arrives once, or waits: every message is spooled, sent, and then removed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ..files import PathLike
from .delivery import Outcome, deliver, longest
from .message import Letter, Mail, compose
from .settings import MailError, MailSettings, load_settings, state_path
from .spool import Entry, waiting

ATTEMPTS = 3
PAUSE = 1.0  #: seconds before the second attempt; four times as many before each further one


@dataclass(frozen=True)
class Flushed:
    """What became of the mail in the spool: how much left for somebody, how much waits, a line per problem."""

    sent: int
    kept: int
    problems: list[str]


class Mailer:
    """Sends mail, and keeps what cannot be sent in the folder *spool*.

    ``problems`` is what the last :meth:`send` or :meth:`flush` ran into, a line each.

    Raises:
        MailError: there are no settings, or they do not fit
    """

    noun = "mail"  #: what lines for people call a message

    def __init__(self, settings: MailSettings | None = None, spool: PathLike | None = None) -> None:
        self.settings = settings or load_settings()
        self.spool = Path(spool or state_path())
        self.problems: list[str] = []

    def another(self) -> Self:
        """One with problems of its own, for another thread."""
        return type(self)(self.settings, self.spool)

    def compose(self, mail: Mail) -> Letter:
        """The message of a mail; a MailError where an address is none."""
        return compose(mail, self.settings)

    def longest(self, letter: Letter) -> float:
        """Seconds that one try may take."""
        return longest(letter, self.settings)

    def deliver(self, letter: Letter, limit: float) -> Outcome:
        """One try; takes no longer than *limit* seconds, and raises nothing."""
        return deliver(letter, self.settings, limit)

    def send(self, mail: Mail, limit: float | None = None) -> bool:
        """Spool a mail and deliver it, and then, while there is time left, what the spool holds besides.

        Args:
            mail: what to send; a MailError where an address is none
            limit: seconds that delivery may take; by default as long as :data:`ATTEMPTS` may take

        Returns:
            whether it left for all its addresses
        """
        self.problems = []
        letter = self.compose(mail)
        pauses = [PAUSE * 4**number for number in range(ATTEMPTS - 1)]
        allowed = ATTEMPTS * self.longest(letter) + sum(pauses) if limit is None else limit
        end = time.monotonic() + allowed
        try:
            entry = Entry.create(self.spool, letter)
            fate = f"it waits in {self.spool} for the next {self.noun} or 'fairseq-cloze mail flush'"
        except OSError as error:
            entry = Entry(letter)
            fate = f"it could not be kept in {self.spool} either ({error.strerror or error}) and is lost"
        with entry:
            outcome = self._try(entry, end)
            for pause in pauses:
                if not outcome.again or time.monotonic() + pause >= end:
                    break
                time.sleep(pause)
                outcome = self._try(entry, end)
            if outcome.trouble:
                self.problems.append(f"{self.noun} '{letter.subject}' was not sent: {outcome.trouble}; {fate}")
        if not outcome.server:
            self._flush(end, but=entry.path)
        return not entry.letter.to and not entry.refused

    def flush(self, limit: float = 600.0) -> Flushed:
        """Try once to send what waits and no other process is about to send; none is begun after *limit* seconds."""
        self.problems = []
        return self._flush(time.monotonic() + limit)

    def _flush(self, end: float, but: Path | None = None) -> Flushed:
        sent = kept = 0
        reachable = True
        for path in waiting(self.spool):
            try:
                entry = Entry.claim(path) if path != but else None
            except OSError as error:
                self.problems.append(f"{path}: cannot be read ({error.strerror or error}); look at it, and remove it")
                kept += 1
                continue
            except ValueError as error:
                self.problems.append(f"{path}: is damaged and cannot be sent ({error})")
                continue
            if entry is None:
                continue
            with entry:
                if reachable and time.monotonic() < end:
                    outcome = self._try(entry, end)
                    sent += bool(outcome.served)
                    reachable = not outcome.server
                    if outcome.trouble:
                        self.problems.append(f"{self.noun} '{entry.letter.subject}' was not sent: {outcome.trouble}")
                kept += bool(entry.letter.to)
        return Flushed(sent, kept, self.problems)

    def _try(self, entry: Entry, end: float) -> Outcome:
        letter = entry.letter
        outcome = self.deliver(letter, max(1.0, end - time.monotonic()))
        refused = [address for addresses in outcome.refused.values() for address in addresses]
        remaining = [address for address in letter.to if address not in (*outcome.served, *refused)]
        where = f"; it is kept in {self.spool / 'refused'}" if entry.path else ""
        try:
            entry.settle(refused, remaining)
        except OSError as error:
            where = ""
            self.problems.append(
                f"{entry.path}: cannot be written ({error.strerror or error}); '{letter.subject}' may be sent again"
            )
        for reason, addresses in outcome.refused.items():
            self.problems.append(
                f"{self.noun} '{letter.subject}' is refused for {', '.join(addresses)}: {reason}{where}"
            )
        return outcome


class _Keeper(Mailer):
    """Sends nothing: names what waits, as it lacks something."""

    def __init__(self, noun: str, spool: Path, lacks: str) -> None:
        self.noun, self.spool, self._lacks = noun, spool, lacks

    def deliver(self, letter: Letter, limit: float) -> Outcome:
        return Outcome(trouble=f"it waits for {self._lacks}")


def flush_by(make: Callable[[], Mailer], noun: str, spool: Path, lacks: str) -> Flushed | None:
    """Send what waits in a folder; None where nothing waits, and then no mailer is made.

    Where none can be made, as it *lacks* something, all stays and is named.
    """
    if not waiting(spool):
        return None
    try:
        mailer = make()
    except MailError as error:
        kept = _Keeper(noun, spool, lacks).flush()
        return replace(kept, problems=[str(error), *kept.problems])
    return mailer.flush()


def flush() -> Flushed | None:
    """Send what waits, with the user's own settings; None where nothing waits, and then none are needed."""
    return flush_by(Mailer, Mailer.noun, state_path(), "settings")


def send_test(settings: MailSettings | None = None) -> str:
    """Send a test message to the settings' own address, in one attempt and past the spool; says how it went.

    Raises:
        MailError: it was not taken; the text says what to mend
    """
    settings = settings or load_settings()
    text = (
        "This is the test message of 'fairseq-cloze mail test': mail works. <mask> stands here as it stands in a log."
    )
    letter = compose(Mail("fairseq-cloze: test", text), settings)
    outcome = deliver(letter, settings)
    if outcome.trouble:
        raise MailError(outcome.trouble)
    if outcome.refused:
        raise MailError("; ".join(f"refused for {', '.join(to)}: {reason}" for reason, to in outcome.refused.items()))
    how = {"ssl": "TLS", "starttls": "STARTTLS", "plain": "no encryption"}[settings.security]
    who = f"as {settings.user}" if settings.user else "without log-in"
    return f"sent to {', '.join(letter.to)} by {settings.host}:{settings.port} ({how}, {who})"
