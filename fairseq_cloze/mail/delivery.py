"""One try to hand a message to the server, through yagmail, in bounded time; and in one line what went wrong.

yagmail's own ``send`` is not used: it composes anew for every try, sleeps and calls that return False, attaches strings
that are paths and checks no certificate.  Its connection, TLS, log-in and sending are.
"""

from __future__ import annotations

import importlib
import math
import re
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .message import Letter, clean
from .settings import GMAIL, PORTS, MailError, MailSettings, settings_path

#: Bytes per second that a connection carries at least.
SLOWEST = 50_000

#: Replies that ask for another log-in rather than for another message.
_LOG_IN = (530, 534, 535, 538)

#: What OpenSSL says of answers that are not TLS, depending on its release.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNKNOWN_PROTOCOL|HTTP_REQUEST")


@dataclass(frozen=True)
class Outcome:
    """What became of one try.

    Attributes:
        served: addresses for which the server took the message
        refused: address → why the server never will
        trouble: why the other addresses were not served, in one line, or None
        again: whether another try soon makes sense
        server: whether the next message would fare alike
    """

    served: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    trouble: str | None = None
    again: bool = False
    server: bool = False

    def refusals(self) -> list[tuple[str, str]]:
        """Each reason why addresses are refused, and these addresses as text."""
        reasons = dict.fromkeys(self.refused.values())
        return [(reason, ", ".join(to for to, why in self.refused.items() if why == reason)) for reason in reasons]


def deliver(letter: Letter, settings: MailSettings, limit: float = math.inf) -> Outcome:
    """Try once to deliver; takes no longer than *limit* seconds, and raises nothing.

    The network is another thread's business: names are looked up, and slow servers are listened to, for as long as they
    like, and neither can be told to stop.  Where the time is over, that thread is told not to send, and its connection
    is cut.
    """
    try:
        client = _client(settings)
    except Exception as error:
        trouble = (
            str(error) if isinstance(error, MailError) else f"{type(error).__name__}: {_hide(str(error), settings)}"
        )
        return Outcome(trouble=trouble, server=True)
    limit = min(limit, longest(letter, settings))
    work = _Work(client, letter, settings)
    work.start()
    work.done.wait(limit)
    late = not work.done.is_set()
    if late:
        work.give_up()
        work.done.wait(1.0)
    if work.done.is_set():
        work.join(2.0)  # the server is told goodbye; whether it answers does not matter
    if work.outcome is None or (late and work.outcome.trouble):
        return Outcome(
            trouble=f"{_place(settings)} did not come to an end within {limit:.0f} s", again=True, server=True
        )
    return work.outcome


def longest(letter: Letter, settings: MailSettings) -> float:
    """Seconds that one try may take: the server may use its time twice, and the line be slow."""
    return 2 * settings.timeout + len(letter.message) / SLOWEST


class _Work(threading.Thread):
    """Connects, logs in, sends, leaves."""

    def __init__(self, client: Any, letter: Letter, settings: MailSettings) -> None:
        super().__init__(daemon=True, name="mail")
        self.client, self.letter, self.settings = client, letter, settings
        self.done = threading.Event()
        self.outcome: Outcome | None = None
        self.given_up = False

    def run(self) -> None:
        logged_in = False
        try:
            self.client.login()
            logged_in = True
            if not self.given_up:
                message = self.letter.message
                # Python counts the time-out over the whole of a message, not from byte to byte
                self.client.smtp.sock.settimeout(self.settings.timeout + len(message) / SLOWEST)
                answers = self.client.smtp.sendmail(self.letter.sender, list(self.letter.to), message)
                self.outcome = _sorted_out(self.letter.to, answers, self.settings)
        except Exception as error:
            self.outcome = _outcome(error, self.letter, self.settings, logged_in)
        finally:
            self.done.set()
            self._leave()

    def give_up(self) -> None:
        self.given_up = True
        sock = getattr(self.client.smtp, "sock", None)
        if sock is not None:
            with suppress(OSError):
                # not sock.shutdown: that of a TLS socket forgets its key first, and what comes next would go plain
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _leave(self) -> None:
        smtp = self.client.smtp
        self.client.is_closed = True  # or its __del__ would say goodbye again, and complain on the terminal
        with suppress(Exception):
            smtp.sock.settimeout(2.0)
            smtp.quit()
        with suppress(Exception):
            smtp.close()


def _client(settings: MailSettings) -> Any:
    try:
        yagmail = importlib.import_module("yagmail")
    except ImportError as error:
        raise MailError(f"mail needs yagmail, which cannot be imported ({error}); run: pip install yagmail") from error
    starttls: Any = False
    options: dict[str, Any] = {"timeout": settings.timeout, "local_hostname": _own_name()}
    if settings.security != "plain":
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise MailError(
                f"mail: {settings.ca_file} is no file of certificates ({error.strerror or error}); mend ca_file in "
                f"{settings_path()}"
            ) from error
        if settings.security == "ssl":
            options["context"] = context
        else:
            starttls = {"context": context}
    client = yagmail.SMTP(
        user=settings.user or "nobody@localhost",
        password=settings.password or "",
        host=settings.host,
        port=settings.port,
        smtp_starttls=starttls,
        smtp_ssl=settings.security == "ssl",
        smtp_skip_login=settings.user is None,
        soft_email_validation=False,
        **options,
    )
    client.user = settings.user  # yagmail makes NAME@gmail.com of a name without "@"
    client.set_logging(None)
    return client


def _own_name() -> str:
    """What to say in EHLO; asking the network for it, as smtplib does, may take half a minute."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"


# -- what went wrong ---------------------------------------------------------------------------------------------------


def _sorted_out(to: Sequence[str], answers: dict[str, tuple[int, bytes]], settings: MailSettings) -> Outcome:
    """The outcome for the addresses *to*, of which those in *answers* were not accepted."""
    refused, waiting = {}, {}
    for address, (code, reply) in answers.items():
        said = f"{_place(settings)} says {_said(code, reply, settings)}"
        if code >= 500 and code not in _LOG_IN:
            refused[address] = said
        else:
            waiting[address] = said
    served = tuple(address for address in to if address not in answers)
    trouble = None
    if waiting:
        address, said = next(iter(waiting.items()))
        trouble = f"{address}: {said}"
    return Outcome(served, refused, trouble, again=bool(waiting))


def _outcome(error: Exception, letter: Letter, settings: MailSettings, logged_in: bool) -> Outcome:
    """The outcome of a try that ended in an error."""
    from smtplib import SMTPDataError, SMTPRecipientsRefused, SMTPSenderRefused

    if isinstance(error, SMTPRecipientsRefused):
        return _sorted_out(tuple(error.recipients), error.recipients, settings)
    if isinstance(error, (SMTPSenderRefused, SMTPDataError)):
        code = error.smtp_code
        said = f"{_place(settings)} says {_said(code, error.smtp_error, settings)}"
        if isinstance(error, SMTPSenderRefused):
            said += f" to mail from {letter.sender}"
        if code >= 500 and code not in _LOG_IN:
            return Outcome((), {address: said for address in letter.to})
        return Outcome(trouble=said + (f"; {_log_in_hint(settings)}" if code in _LOG_IN else ""), again=code < 500)
    trouble, again = _explain(error, settings, logged_in)
    return Outcome(trouble=trouble, again=again, server=not logged_in)


def _explain(error: Exception, settings: MailSettings, logged_in: bool) -> tuple[str, bool]:
    """What went wrong and how to mend it, in one line; and whether another try soon makes sense."""
    from smtplib import (
        SMTPAuthenticationError,
        SMTPException,
        SMTPNotSupportedError,
        SMTPResponseException,
        SMTPServerDisconnected,
    )

    place, port, file = _place(settings), settings.port, settings_path()
    silent = not logged_in and settings.security != "ssl"
    hint = f'; if port {port} speaks TLS from the first byte, write security = "ssl" in {file}' if silent else ""
    if isinstance(error, SMTPAuthenticationError):
        said = f"{place} does not let {settings.user} in: {_said(error.smtp_code, error.smtp_error, settings)}"
        return (said, True) if error.smtp_code < 500 else (f"{said}; {_log_in_hint(settings)}", False)
    if isinstance(error, SMTPNotSupportedError):
        if "STARTTLS" in str(error):
            return f'{place} offers no STARTTLS; write security = "ssl" (port 465), or ask who runs it', False
        return f"{place} offers no log-in as things stand; leave out user and password, or try another port", False
    if isinstance(error, SMTPResponseException):
        return f"{place} says {_said(error.smtp_code, error.smtp_error, settings)}", error.smtp_code < 500
    certificate = _cause(error, ssl.SSLCertVerificationError)
    if certificate is not None:
        reason = (getattr(certificate, "verify_message", "") or str(certificate)).rstrip(".")
        return (
            f"{place} shows a certificate that is not trusted ({_hide(reason, settings)}); is host the name in the "
            f"certificate? Of an authority of your own, write the file as ca_file in {file}"
        ), False
    if _NO_TLS.search(str(_cause(error, ssl.SSLError))):
        other = 'security = "starttls"' if port != PORTS["ssl"] else "another port"
        return f"{place} answers, but not in TLS; write {other} in {file}", False
    if _cause(error, ssl.SSLError) is not None:
        return f"{place}: TLS failed ({_hide(str(error), settings)})", True
    if isinstance(error, socket.gaierror):
        again = error.errno == socket.EAI_AGAIN
        return f"host {settings.host} is not known ({error.strerror}); mend host in {file}", again
    if _cause(error, socket.timeout) is not None:
        return f"{place} did not answer within {settings.timeout:g} s{hint}", True
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{place} refuses connections: nobody listens there, or a firewall forbids it, as on compute nodes; mend "
            f"host and port in {file}"
        ), True
    if isinstance(error, SMTPServerDisconnected):
        return f"{place} dropped the connection{hint}", True
    if isinstance(error, SMTPException):
        return f"{place}: {_hide(str(error), settings)}", False
    if isinstance(error, OSError):
        return f"{place} cannot be reached ({_hide(error.strerror or str(error), settings)})", True
    return f"{place}: {type(error).__name__}: {_hide(str(error), settings)}", False


def _log_in_hint(settings: MailSettings) -> str:
    file = settings_path()
    if settings.user is None:
        return f"write user and password in {file}"
    if settings.host == GMAIL:
        return (
            "Gmail wants an app password (16 letters), not the account's: turn on 2-step verification, make one at "
            f"https://myaccount.google.com/apppasswords and write it as password in {file}"
        )
    return f"mend user and password in {file}"


def _place(settings: MailSettings) -> str:
    return f"{settings.host}:{settings.port}"


def _said(code: int, reply: Any, settings: MailSettings) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return f"{code} {_hide(text, settings)}".strip()


def _hide(text: str, settings: MailSettings) -> str:
    """One line of a server's words, without the password should it repeat it."""
    text = " ".join(clean(text).split())[:300]
    return text.replace(settings.password, "***") if settings.password else text


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of *kind* that led to *error*; smtplib wraps some."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error
