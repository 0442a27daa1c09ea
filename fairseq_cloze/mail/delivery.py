"""One try to hand a message to the server, in bounded time, through yagmail's connection; and what went wrong.

yagmail's own ``send`` is not used: it composes anew for every try, sleeps, and attaches strings that are paths.
"""

import base64
import math
import re
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .message import Letter, clean
from .settings import GMAIL, MailError, MailSettings, settings_path

SLOWEST = 50_000  #: bytes per second that a connection carries at least
MOST_SAID = 1 << 20  #: bytes that a server may say in a connection; an answer to an address has some 50

_LOG_IN = (530, 534, 535, 538)  # replies that ask for another log-in rather than for another message
#: What OpenSSL says of answers that are not TLS, depending on its release.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNKNOWN_PROTOCOL|HTTP_REQUEST")


@dataclass(frozen=True)
class Outcome:
    """What became of one try."""

    served: tuple[str, ...] = ()  #: addresses for which the server took the message
    refused: dict[str, list[str]] = field(default_factory=dict)  #: why the server never will → addresses
    trouble: str | None = None  #: why the other addresses were not served, in one line
    again: bool = False  #: whether another try soon makes sense
    server: bool = False  #: whether the next message would fare alike


def deliver(letter: Letter, settings: MailSettings, limit: float = math.inf) -> Outcome:
    """Try once to deliver; takes no longer than *limit* seconds, and raises nothing.

    The network is another thread's business, as neither the search for names nor a slow server can be told to stop.
    Where the time is over, that thread is told not to send, and its connection is cut.
    """
    limit = min(limit, longest(letter, settings))
    work = _Work(letter, settings)
    work.start()
    late = not work.done.wait(limit)
    if late:
        work.give_up()
    if work.done.wait(1.0):
        work.join(2.0)  # the server is told goodbye; whether it answers does not matter
    if work.outcome is None or (late and work.outcome.trouble):
        trouble = f"{_place(settings)} did not come to an end within {limit:.0f} s"
        return Outcome(trouble=trouble, again=True, server=True)
    return work.outcome


def longest(letter: Letter, settings: MailSettings) -> float:
    """Seconds that one try may take: the server may use its time twice, and the line be slow."""
    return 2 * settings.timeout + len(letter.message) / SLOWEST


class _Work(threading.Thread):
    """Connects, logs in, sends, leaves."""

    def __init__(self, letter: Letter, settings: MailSettings) -> None:
        super().__init__(daemon=True, name="mail")
        self.letter, self.settings = letter, settings
        self.client: Any = None
        self.done = threading.Event()
        self.outcome: Outcome | None = None
        self.given_up = self.logged_in = False

    def run(self) -> None:
        try:
            self.client = _client(self.settings)
            self.client.login()
            self.logged_in = True
            if not self.given_up:
                message = self.letter.message
                # Python counts the time-out over the whole of a message, not from byte to byte
                self.client.smtp.sock.settimeout(self.settings.timeout + len(message) / SLOWEST)
                answers = self.client.smtp.sendmail(self.letter.sender, list(self.letter.to), message)
                self.outcome = _sorted_out(self.letter.to, answers, self.settings)
        except Exception as error:
            self.outcome = _outcome(error, self.letter, self.settings, self.logged_in)
        finally:
            self.done.set()
            self._leave()

    def give_up(self) -> None:
        self.given_up = True
        with suppress(AttributeError, OSError):  # where there is no connection, or none any more
            # not sock.shutdown: that of a TLS socket forgets its key first, and what comes next would go plain
            socket.socket.shutdown(self.client.smtp.sock, socket.SHUT_RDWR)

    def _leave(self) -> None:
        with suppress(Exception):
            self.client.is_closed = True  # or its __del__ would say goodbye again, and complain on the terminal
            smtp = self.client.smtp
            with suppress(Exception):
                smtp.sock.settimeout(2.0)
                smtp.quit()
            smtp.close()


def _client(settings: MailSettings) -> Any:
    try:
        import yagmail
    except ImportError as error:
        raise MailError(f"mail needs yagmail, which cannot be imported ({error}); run: pip install yagmail") from error
    options: dict[str, Any] = {}
    if settings.security != "plain":
        try:
            options["context"] = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise MailError(
                f"mail: {settings.ca_file} is no file of certificates ({error.strerror or error}); mend ca_file in "
                f"{settings_path()}"
            ) from error
        if settings.security == "starttls":
            options = {"smtp_starttls": options}

    class Client(yagmail.SMTP):
        @property
        def connection(self) -> Any:
            return _bounded(super().connection, _place(settings))

    # What to say in EHLO; asking the network for it, as smtplib does, may take half a minute
    name = socket.gethostname()
    client = Client(
        user=settings.user or "nobody@localhost",
        password=settings.password or "",
        host=settings.host,
        port=settings.port,
        smtp_ssl=settings.security == "ssl",
        smtp_skip_login=settings.user is None,
        soft_email_validation=False,
        timeout=settings.timeout,
        local_hostname=name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]",
        **{"smtp_starttls": False, **options},
    )
    client.user = settings.user  # yagmail makes NAME@gmail.com of a name without "@"
    client.set_logging(None)
    return client


class _Lines:
    """What a server says; smtplib itself keeps the lines of a reply for as long as they come."""

    def __init__(self, file: BinaryIO, place: str) -> None:
        self._file, self._place, self._left = file, place, MOST_SAID
        self.close = file.close

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise MailError(
                f"{self._place} talks without an end, as no mail server does; mend host and port in {settings_path()}"
            )
        return line


def _bounded(connection: Any, place: str) -> Any:
    """A class of smtplib's whose objects read :class:`_Lines`."""

    class Bounded(connection):
        file: Any

        def getreply(self) -> tuple[int, bytes]:
            if self.file is None:
                self.file = _Lines(self.sock.makefile("rb"), place)
            return super().getreply()

    return Bounded


def _sorted_out(to: tuple[str, ...], answers: dict[str, tuple[int, bytes]], settings: MailSettings) -> Outcome:
    """The outcome for the addresses *to*, of which those in *answers* were not accepted."""
    refused: dict[str, list[str]] = {}
    trouble = None
    for address, (code, reply) in answers.items():
        said = _said(code, reply, settings)
        if _for_good(code):
            refused.setdefault(said, []).append(address)
        else:
            trouble = trouble or f"{address}: {said}"
    served = tuple(address for address in to if address not in answers)
    return Outcome(served, refused, trouble, again=trouble is not None)


def _outcome(error: Exception, letter: Letter, settings: MailSettings, logged_in: bool) -> Outcome:
    """The outcome of a try that ended in an error."""
    import smtplib

    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return _sorted_out((), error.recipients, settings)
    if isinstance(error, (smtplib.SMTPSenderRefused, smtplib.SMTPDataError)):
        code, said = error.smtp_code, _said(error.smtp_code, error.smtp_error, settings)
        if isinstance(error, smtplib.SMTPSenderRefused):
            said += f" to mail from {letter.sender}"
        if _for_good(code):
            return Outcome((), {said: list(letter.to)})
        return Outcome(trouble=said + (f"; {_log_in_hint(settings)}" if code in _LOG_IN else ""), again=code < 500)
    trouble, again = _explain(error, settings, logged_in)
    return Outcome(trouble=trouble, again=again, server=not logged_in)


def _explain(error: Exception, settings: MailSettings, logged_in: bool) -> tuple[str, bool]:
    """What went wrong and how to mend it, in one line; and whether another try soon makes sense."""
    import smtplib

    place, port, file, words = _place(settings), settings.port, settings_path(), _hide(str(error), settings)
    silent = not logged_in and settings.security != "ssl"
    hint = f'; if port {port} speaks TLS from the first byte, write security = "ssl" in {file}' if silent else ""
    if isinstance(error, MailError):
        return str(error), False
    if isinstance(error, smtplib.SMTPAuthenticationError):
        said = f"{place} does not let {settings.user} in: {_reply(error.smtp_code, error.smtp_error, settings)}"
        return (said, True) if error.smtp_code < 500 else (f"{said}; {_log_in_hint(settings)}", False)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        if "STARTTLS" in str(error):
            return f'{place} offers no STARTTLS; write security = "ssl" (port 465), or ask who runs it', False
        return f"{place} offers no log-in as things stand; leave out user and password, or try another port", False
    if isinstance(error, smtplib.SMTPResponseException):
        return _said(error.smtp_code, error.smtp_error, settings), error.smtp_code < 500
    certificate = _cause(error, ssl.SSLCertVerificationError)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        reason = _hide(certificate.verify_message.rstrip("."), settings)
        return (
            f"{place} shows a certificate that is not trusted ({reason}); is host the name in the certificate? Of an "
            f"authority of your own, write the file as ca_file in {file}"
        ), False
    failure = _cause(error, ssl.SSLError)
    if _NO_TLS.search(str(failure)):
        other = 'security = "starttls"' if port != 465 else "another port"
        return f"{place} answers, but not in TLS; write {other} in {file}", False
    if failure is not None:
        return f"{place}: TLS failed ({words})", True
    if isinstance(error, socket.gaierror):
        again = error.errno == socket.EAI_AGAIN
        return f"host {settings.host} is not known ({error.strerror}); mend host in {file}", again
    if _cause(error, TimeoutError) is not None:
        return f"{place} did not answer within {settings.timeout:g} s{hint}", True
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{place} refuses connections: nobody listens there, or a firewall forbids it, as on compute nodes; mend "
            f"host and port in {file}"
        ), True
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return f"{place} dropped the connection{hint}", True
    if isinstance(error, smtplib.SMTPException):
        return f"{place}: {words}", False
    if isinstance(error, OSError):
        return f"{place} cannot be reached ({_hide(error.strerror or str(error), settings)})", True
    return f"{place}: {type(error).__name__}: {words}", False


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


def _for_good(code: int) -> bool:
    return code >= 500 and code not in _LOG_IN


def _place(settings: MailSettings) -> str:
    return f"{settings.host}:{settings.port}"


def _said(code: int, reply: bytes | str, settings: MailSettings) -> str:
    if code < 0:
        return f"{_place(settings)} answers, but not as a mail server; mend host and port in {settings_path()}"
    return f"{_place(settings)} says {_reply(code, reply, settings)}"


def _reply(code: int, reply: bytes | str, settings: MailSettings) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return f"{code} {_hide(text, settings)}".strip()


def _hide(text: str, settings: MailSettings) -> str:
    """One line of a server's words, without the password should it repeat it, plain or as it is sent."""
    text = " ".join(clean(text).split())
    if settings.password:
        sent = (settings.password, f"\0{settings.user}\0{settings.password}")
        for secret in (settings.password, *(base64.b64encode(one.encode()).decode() for one in sent)):
            text = text.replace(secret, "***")
    return text[:300]


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of *kind* that led to *error*; smtplib wraps some."""
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error
