from __future__ import annotations

import base64
import fcntl
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from fairseq_cloze.cli import main
from fairseq_cloze.mail import mailer as mail_module
from fairseq_cloze.mail import spool as mail_spool
from fairseq_cloze.mail.mailer import Flushed, Mailer, flush, send_test
from fairseq_cloze.mail.message import Mail
from fairseq_cloze.mail.settings import MailError, MailSettings
from fairseq_cloze.mail.spool import Entry, waiting

from ..support.commands import environment, free_port
from ..support.mail_server import DROP, HANG, LATE, TAKEN, Server, Silent, fresh_home, until

pytestmark = [
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS"),
    pytest.mark.filterwarnings("ignore:Session.login_data is deprecated"),
]

USER, PASSWORD = "me", "s3cret"


@dataclass
class Authority:
    """Who is trusted, and certificates of it."""

    file: Path
    good: trustme.LeafCert
    other_name: trustme.LeafCert
    expired: trustme.LeafCert


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    from datetime import datetime

    ca = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return Authority(
        file,
        ca.issue_cert("127.0.0.1", "localhost"),
        ca.issue_cert("mail.example.org"),
        ca.issue_cert("127.0.0.1", not_before=datetime(2001, 1, 1), not_after=datetime(2002, 1, 1)),
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mail_module, "PAUSE", 0.05)
    return fresh_home(tmp_path, monkeypatch)


def settings_for(server: Any, **values: Any) -> MailSettings:
    """Plain, without log-in, from me to you, unless told otherwise."""
    defaults: dict[str, Any] = {"security": "plain", "sender": "me@example.org", "to": ("you@example.org",)}
    return MailSettings("127.0.0.1", server.port, **{**defaults, "timeout": 20.0, **values})


def spooled(spool: Path) -> list[list[str]]:
    """To whom each waiting message has to go."""
    return [json.loads(path.read_bytes().split(b"\n", 1)[0])["to"] for path in waiting(spool)]


def mailer_for(server: Any, tmp_path: Path, **values: Any) -> Mailer:
    return Mailer(settings_for(server, **values), tmp_path / "spool")


# -- it arrives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, USER])
@pytest.mark.parametrize("security", ["ssl", "starttls", "plain"])
def test_it_arrives(authority: Authority, tmp_path: Path, security: str, user: str) -> None:
    """Over every kind of connection, with log-in and without; and not a word but over TLS where there is some."""
    certificate = None if security == "plain" else authority.good
    with Server(security, {USER: PASSWORD} if user else {}, certificate) as server:
        password = PASSWORD if user else None
        values = {"security": security, "user": user, "password": password, "ca_file": str(authority.file)}
        mailer = mailer_for(server, tmp_path, **values)
        assert mailer.send(Mail("subject", "a <mask>", ("you@example.org", "Zoë <zoe@example.org>")))
    (got,) = server.received
    assert (got.sender, got.to, got.user) == ("me@example.org", ["you@example.org", "zoe@example.org"], user)
    assert (got.subject, got.text, got.tls) == ("subject", "a <mask>\n", security != "plain")
    tls = security != "plain"
    assert server.commands == [*([("AUTH", tls)] if user else []), ("MAIL", tls), ("DATA", tls)]
    assert (mailer.problems, waiting(mailer.spool)) == ([], [])


def test_a_name_without_at_sign_is_not_made_one_at_gmail(tmp_path: Path) -> None:
    with Server(users={"jdoe": "x"}) as server:
        assert mailer_for(server, tmp_path, user="jdoe", password="x").send(Mail("s", "t"))
    assert [got.user for got in server.received] == ["jdoe"]


def test_large_messages_arrive_whole(authority: Authority, tmp_path: Path) -> None:
    """Ten megabytes, with lines of dots."""
    log = tmp_path / "weights.bin"
    log.write_bytes(os.urandom(7_000_000))
    with Server("ssl", {}, authority.good) as server:
        mailer = mailer_for(server, tmp_path, security="ssl", ca_file=str(authority.file))
        assert mailer.send(Mail("s", "a\n.\n..b\n.\r\n", attachments=(log,)))
    (part,) = server.received[0].message.iter_attachments()
    assert gzip.decompress(part.get_payload(decode=True)) == log.read_bytes()
    assert server.received[0].text == "a\n.\n..b\n.\n"


# -- it does not, and why ----------------------------------------------------------------------------------------------


def failing(server: Any, tmp_path: Path, attempts: int, **values: Any) -> str:
    """The reason why a mail is kept after so many attempts; in the spool there is nothing secret."""
    mailer = mailer_for(server, tmp_path, **values)
    tries = 0
    try_once = mail_module.deliver

    def counted(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        return try_once(*args)

    mail_module.deliver = counted
    try:
        assert not mailer.send(Mail("subject", "text"))
    finally:
        mail_module.deliver = try_once
    assert tries == attempts
    (path,) = waiting(mailer.spool)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(mailer.spool.stat().st_mode) == 0o700
    assert PASSWORD.encode() not in path.read_bytes()
    (problem,) = mailer.problems
    assert PASSWORD not in problem and "\n" not in problem
    start = "mail 'subject' was not sent: "
    end = f"; it waits in {mailer.spool} for the next mail or 'fairseq-cloze mail flush'"
    assert problem.startswith(start) and problem.endswith(end)
    return problem[len(start) : -len(end)]


def test_nobody_listens(home: Path, tmp_path: Path) -> None:
    server = Server(port=free_port())
    assert failing(server, tmp_path, 3) == (
        f"127.0.0.1:{server.port} refuses connections: nobody listens there, or a firewall forbids it, as on compute "
        f"nodes; mend host and port in {home / 'mail.toml'}"
    )


def test_unknown_host(home: Path, tmp_path: Path) -> None:
    """Of a domain that never exists (RFC 2606); without any network even that is only temporary."""
    mailer = Mailer(MailSettings("mail.invalid", 25, "plain", sender="a@b.org", to=("a@b.org",)), tmp_path / "spool")
    assert not mailer.send(Mail("s", "t"))
    assert mailer.problems[0].startswith("mail 's' was not sent: host mail.invalid is not known (")
    assert f"mend host in {home / 'mail.toml'}" in mailer.problems[0]


def test_wrong_password(home: Path, authority: Authority, tmp_path: Path) -> None:
    """One attempt: wrong passwords lock accounts."""
    with Server("ssl", {USER: "other"}, authority.good) as server:
        values = {"security": "ssl", "user": USER, "password": PASSWORD, "ca_file": str(authority.file)}
        reason = failing(server, tmp_path, 1, **values)
    assert reason == (
        f"127.0.0.1:{server.port} does not let me in: 535 5.7.8 Authentication credentials invalid; mend user and "
        f"password in {home / 'mail.toml'}"
    )
    assert server.received == []


def test_wrong_password_at_gmail(home: Path) -> None:
    """What Gmail answers, from here."""
    from smtplib import SMTPAuthenticationError

    from fairseq_cloze.mail.delivery import _explain

    settings = MailSettings(user="me@gmail.com", password="abcd", sender="me@gmail.com")
    reply = b"5.7.8 Username and Password not accepted. For more information, go to\n5.7.8  https://support abcd"
    assert _explain(SMTPAuthenticationError(535, reply), settings, False) == (
        "smtp.gmail.com:465 does not let me@gmail.com in: 535 5.7.8 Username and Password not accepted. For more "
        "information, go to 5.7.8 https://support ***; Gmail wants an app password (16 letters), not the account's: "
        "turn on 2-step verification, make one at https://myaccount.google.com/apppasswords and write it as password "
        f"in {home / 'mail.toml'}",
        False,
    )


def test_log_in_wanted(home: Path, tmp_path: Path) -> None:
    with Server(users={USER: PASSWORD}) as server:
        assert failing(server, tmp_path, 1) == (
            f"127.0.0.1:{server.port} says 530 5.7.0 Authentication required to mail from me@example.org; write user "
            f"and password in {home / 'mail.toml'}"
        )


def test_no_log_in_offered(tmp_path: Path) -> None:
    with Server() as server:
        assert failing(server, tmp_path, 1, user=USER, password=PASSWORD) == (
            f"127.0.0.1:{server.port} offers no log-in as things stand; leave out user and password, or try another "
            "port"
        )


@pytest.mark.parametrize("security", ["ssl", "starttls"])
@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ("good", False, "unable to get local issuer certificate"),
        ("other_name", True, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("expired", True, "certificate has expired"),
    ],
)
def test_certificates_are_checked(
    home: Path, authority: Authority, tmp_path: Path, security: str, certificate: str, trusted: bool, reason: str
) -> None:
    """And neither password nor mail goes out where they are not good."""
    with Server(security, {USER: PASSWORD}, getattr(authority, certificate)) as server:
        values = {"user": USER, "password": PASSWORD, "ca_file": str(authority.file) if trusted else None}
        assert failing(server, tmp_path, 1, security=security, **values) == (
            f"127.0.0.1:{server.port} shows a certificate that is not trusted ({reason}); is host the name in the "
            f"certificate? Of an authority of your own, write the file as ca_file in {home / 'mail.toml'}"
        )
    assert (server.received, server.commands) == ([], [])


def test_tls_at_a_port_without(home: Path, tmp_path: Path) -> None:
    with Server(users={USER: PASSWORD}) as server:
        assert failing(server, tmp_path, 1, security="ssl", user=USER, password=PASSWORD) == (
            f'127.0.0.1:{server.port} answers, but not in TLS; write security = "starttls" in {home / "mail.toml"}'
        )


@pytest.mark.parametrize("security", ["starttls", "plain"])
def test_no_tls_at_a_port_with(home: Path, authority: Authority, tmp_path: Path, security: str) -> None:
    """Both sides wait for the other."""
    with Server("ssl", {}, authority.good) as server:
        assert failing(server, tmp_path, 3, security=security, timeout=0.3) == (
            f"127.0.0.1:{server.port} did not answer within 0.3 s; if port {server.port} speaks TLS from the first "
            f'byte, write security = "ssl" in {home / "mail.toml"}'
        )


def test_starttls_is_never_left_out(tmp_path: Path) -> None:
    """A server, or somebody on the way, that offers no STARTTLS gets neither password nor mail."""
    with Server(users={USER: PASSWORD}) as server:
        reason = failing(server, tmp_path, 1, security="starttls", user=USER, password=PASSWORD)
        assert reason == (
            f'127.0.0.1:{server.port} offers no STARTTLS; write security = "ssl" (port 465), or ask who runs it'
        )
    assert (server.received, server.commands) == ([], [])


def test_no_file_of_certificates(home: Path, tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    for reason in ("No such file or directory", "[X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found"):
        told = failing(Server(port=1), tmp_path, 1, security="ssl", ca_file=str(missing))
        start = f"mail: {missing} is no file of certificates ({reason}"
        assert told.startswith(start) and told.endswith(f"mend ca_file in {home / 'mail.toml'}")
        missing.write_text("")
        waiting(tmp_path / "spool")[0].unlink()


HINT = 'if port {port} speaks TLS from the first byte, write security = "ssl" in {file}'


@pytest.mark.parametrize(
    ("moment", "reply", "reason"),
    [
        ("GREETING", "421 busy", "says 421 busy"),
        ("GREETING", DROP, "dropped the connection; " + HINT),
        ("GREETING", HANG, "did not answer within 1 s; " + HINT),
        ("MAIL", "451 later", "says 451 later to mail from me@example.org"),
        ("DATA", "451 later", "says 451 later"),
        ("BODY", DROP, "dropped the connection"),
        ("END", "452 no room", "says 452 no room"),
        pytest.param("MAIL", HANG, "did not answer within 1 s", marks=pytest.mark.slow),
        pytest.param("BODY", HANG, "did not answer within 1 s", marks=pytest.mark.slow),
        pytest.param("END", HANG, "did not answer within 1 s", marks=pytest.mark.slow),
    ],
)
def test_trouble_that_passes(home: Path, tmp_path: Path, moment: str, reply: str, reason: str) -> None:
    """Three attempts, then kept; and after a bad answer or two the next attempt succeeds."""
    with Server(replies={moment: [reply] * 3}) as server:
        told = failing(server, tmp_path, 3, timeout=1.0)
        hint = reason.format(port=server.port, file=home / "mail.toml")
        assert told == f"127.0.0.1:{server.port} {hint}"
        assert server.received == []
        mailer = mailer_for(server, tmp_path)
        assert mailer.flush() == Flushed(1, 0, [])
        server.replies[moment] = [reply] * (1 if reply == HANG else 2)
        mailer = mailer_for(server, tmp_path, timeout=1.0)
        assert mailer.send(Mail("second", "text"))
        assert ([got.subject for got in server.received], mailer.problems) == (["subject", "second"], [])


def test_temporary_trouble_with_the_log_in(tmp_path: Path) -> None:
    with Server(users={USER: PASSWORD}, replies={"AUTH": ["454 later"] * 20}) as server:
        reason = failing(server, tmp_path, 3, user=USER, password=PASSWORD)
        assert reason == f"127.0.0.1:{server.port} does not let me in: 454 later"


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\x00\x1b[2J\n", b"hello\r\n"])
def test_a_server_that_speaks_something_else(home: Path, tmp_path: Path, said: bytes) -> None:
    with Silent(said, 0.05) as server:
        mailer = mailer_for(server, tmp_path, timeout=1.0)
        assert not mailer.send(Mail("s", "t"), limit=1.0)
    assert mailer.problems == [
        f"mail 's' was not sent: 127.0.0.1:{server.port} answers, but not as a mail server; mend host and port in "
        f"{home / 'mail.toml'}; it waits in {mailer.spool} for the next mail or 'fairseq-cloze mail flush'"
    ]


@pytest.mark.parametrize("form", ["{}", "AUTH {}"])
def test_a_server_that_repeats_the_password(tmp_path: Path, form: str) -> None:
    """Plain or as it is sent; the rest of what it says is shown, without control characters."""
    sent = [PASSWORD, *(base64.b64encode(one.encode()).decode() for one in (PASSWORD, f"\0{USER}\0{PASSWORD}"))]
    said = f"554 \x1b[2J{form.format(' '.join(sent))}\r\n".encode()
    with Silent(said, 0.05) as server:
        mailer = mailer_for(server, tmp_path, timeout=1.0, user=USER, password=PASSWORD)
        assert not mailer.send(Mail("s", "t"), limit=1.0)
    assert f"says 554 {form.format('*** *** ***')}" in mailer.problems[0]


def test_a_server_that_trickles(tmp_path: Path) -> None:
    """Each byte comes in time, the line never ends: an attempt takes no more than twice the time-out."""
    with Silent(b"2", 0.05) as server:
        started = time.monotonic()
        mailer = mailer_for(server, tmp_path, timeout=1.5)
        assert not mailer.send(Mail("s", "t"))
        assert time.monotonic() - started < 60
        assert f"127.0.0.1:{server.port} did not come to an end within " in mailer.problems[0]
        assert (server.connections >= 1, len(waiting(mailer.spool))) == (True, 1)


@pytest.mark.parametrize("line", [b"220-hello\r\n", b"220-" + b"x" * 8000 + b"\r\n"])
def test_a_server_that_talks_without_an_end(home: Path, tmp_path: Path, line: bytes) -> None:
    """Its lines are not kept for as long as they come: it is left after a megabyte, long before the time is over."""
    with Silent(line * (200_000 // len(line)), 0.0) as server:
        started = time.monotonic()
        mailer = mailer_for(server, tmp_path, timeout=600.0)
        assert not mailer.send(Mail("s", "t"))
        assert time.monotonic() - started < 60
    assert mailer.problems == [
        f"mail 's' was not sent: 127.0.0.1:{server.port} talks without an end, as no mail server does; mend host and "
        f"port in {home / 'mail.toml'}; it waits in {mailer.spool} for the next mail or 'fairseq-cloze mail flush'"
    ]


def test_the_whole_takes_no_longer_than_allowed(tmp_path: Path) -> None:
    with Silent() as server:
        mailer = mailer_for(server, tmp_path, timeout=600.0)
        started = time.monotonic()
        assert not mailer.send(Mail("s", "t"), limit=1.0)
        assert time.monotonic() - started < 30
        assert (server.connections, len(waiting(mailer.spool))) == (1, 1)


def test_what_was_given_up_is_not_sent_after_all(tmp_path: Path) -> None:
    """The server wakes up when the time is over; the message waits in the spool, and may not go as well."""
    with Server(replies={"GREETING": [LATE]}) as server:
        mailer = mailer_for(server, tmp_path, timeout=600.0)
        assert not mailer.send(Mail("s", "t"), limit=0.5)
        until(lambda: not any(thread.name == "mail" for thread in threading.enumerate()))
        assert (server.received, server.commands) == ([], [])
        assert mailer.flush() == Flushed(1, 0, [])


def test_a_server_that_does_not_say_goodbye(tmp_path: Path) -> None:
    with Server(replies={"QUIT": [HANG]}) as server:
        mailer = mailer_for(server, tmp_path, timeout=600.0)
        assert mailer.send(Mail("s", "t"))
    assert (len(server.received), mailer.problems) == (1, [])


def test_a_server_that_goes_after_it_took_the_message(tmp_path: Path) -> None:
    """It cannot be known that it did; the second copy has the same Message-ID and every other byte."""
    with Server(replies={"END": [TAKEN]}) as server:
        assert mailer_for(server, tmp_path).send(Mail("s", "t"))
    first, second = server.received
    assert first.raw == second.raw and first.message["Message-ID"]


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "reply", "said"),
    [
        ("RCPT", "550 no such user", "550 no such user"),
        ("MAIL", "553 not yours", "553 not yours to mail from me@example.org"),
        ("END", "554 spam", "554 spam"),
        ("DATA", "552 too\n large", "552 too"),
    ],
)
def test_refused_for_good(tmp_path: Path, moment: str, reply: str, said: str) -> None:
    """One attempt; kept aside, and never tried again."""
    with Server(replies={moment: [reply]}) as server:
        mailer = mailer_for(server, tmp_path)
        assert not mailer.send(Mail("subject", "text"))
        aside = mailer.spool / "refused"
        assert mailer.problems == [
            f"mail 'subject' is refused for you@example.org: 127.0.0.1:{server.port} says {said}; it is kept in {aside}"
        ]
        assert (waiting(mailer.spool), spooled(aside)) == ([], [["you@example.org"]])
        assert mailer.flush() == Flushed(0, 0, [])
        assert mailer.send(Mail("next", "text"))
        # and back, once the reason is gone
        (path,) = waiting(aside)
        path.rename(mailer.spool / path.name)
        assert mailer.flush() == Flushed(1, 0, [])
    assert [got.subject for got in server.received] == ["next", "subject"]


def test_refused_for_some(tmp_path: Path) -> None:
    """Whoever is served is served once; whoever may be later, later; whoever never will be, is named."""
    replies = {"later@x.org": ["451 greylisted"] * 3, "never@x.org": ["550 unknown"] * 9}
    with Server(replies=replies) as server:
        mailer = mailer_for(server, tmp_path)
        assert not mailer.send(Mail("subject", "text", ("a@x.org", "later@x.org", "never@x.org", "b@x.org")))
        aside = mailer.spool / "refused"
        place = f"127.0.0.1:{server.port}"
        assert mailer.problems == [
            f"mail 'subject' is refused for never@x.org: {place} says 550 unknown; it is kept in {aside}",
            f"mail 'subject' was not sent: later@x.org: {place} says 451 greylisted; it waits in {mailer.spool} for "
            "the next mail or 'fairseq-cloze mail flush'",
        ]
        assert (spooled(mailer.spool), spooled(aside)) == ([["later@x.org"]], [["never@x.org"]])
        assert mailer.flush() == Flushed(1, 0, [])
        assert [got.to for got in server.received] == [["a@x.org", "b@x.org"], ["later@x.org"]]
        assert len({got.message["Message-ID"] for got in server.received}) == 1
        assert (len(replies["never@x.org"]), waiting(mailer.spool)) == (8, [])


def test_a_server_that_leaves_amid_the_addresses(tmp_path: Path) -> None:
    with Server(replies={"b@x.org": ["421 closing"], "a@x.org": ["550 unknown"]}) as server:
        mailer = mailer_for(server, tmp_path)
        assert not mailer.send(Mail("subject", "text", ("a@x.org", "b@x.org", "c@x.org")))
        assert [got.to for got in server.received] == [["b@x.org", "c@x.org"]]
        assert (waiting(mailer.spool), spooled(mailer.spool / "refused")) == ([], [["a@x.org"]])


# -- the spool ---------------------------------------------------------------------------------------------------------


def test_what_waits_goes_with_the_next_mail(tmp_path: Path) -> None:
    port = free_port()
    mailer = mailer_for(Server(port=port), tmp_path)
    for number in range(3):
        assert not mailer.send(Mail(f"mail {number}", "text"))
    with Server(port=port) as server:
        assert mailer.send(Mail("now", "text"))
        assert sorted(got.subject for got in server.received) == ["mail 0", "mail 1", "mail 2", "now"]
        assert server.received[0].subject == "now"
    assert (waiting(mailer.spool), mailer.problems) == ([], [])


def test_one_message_that_cannot_pass_holds_up_no_other(tmp_path: Path) -> None:
    port = free_port()
    mailer = mailer_for(Server(port=port), tmp_path)
    for name in ("bad", "good"):
        mailer.send(Mail(name, "text", (f"{name}@x.org",)))
    with Server(port=port, replies={"bad@x.org": ["451 later"]}) as server:
        trouble = f"mail 'bad' was not sent: bad@x.org: 127.0.0.1:{port} says 451 later"
        assert mailer.flush() == Flushed(1, 1, [trouble])
        assert [got.subject for got in server.received] == ["good"]


def test_a_server_that_is_gone_is_asked_once(tmp_path: Path) -> None:
    port = free_port()
    mailer = mailer_for(Server(port=port), tmp_path)
    for number in range(5):
        mailer.send(Mail(f"mail {number}", "text"))
    flushed = mailer.flush()
    assert (flushed.sent, flushed.kept, len(flushed.problems)) == (0, 5, 1)


def test_nothing_but_the_message_is_kept_of_a_killed_writer(tmp_path: Path) -> None:
    mailer = mailer_for(Server(port=free_port()), tmp_path)
    mailer.spool.mkdir()
    new, old = mailer.spool / "1.mail.tmp", mailer.spool / "2.mail.tmp"
    for path in (new, old):
        path.write_text("half a mess")
    os.utime(old, (time.time() - 7200,) * 2)
    assert mailer.flush() == Flushed(0, 0, [])
    assert new.exists() and not old.exists()


def damaged_copies(content: bytes) -> dict[str, bytes]:
    """A spool file that was cut, and some with another byte."""
    header, message = content.split(b"\n", 1)
    return {
        "cut": content[:-1],
        "flipped in the message": header + b"\n" + message[:50] + bytes([message[50] ^ 1]) + message[51:],
        "flipped in an address": header.replace(b"you@", b"yot@") + b"\n" + message,
        "flipped in a key": header.replace(b'"to"', b'"tn"') + b"\n" + message,
        "half a header": header[:40],
        "empty": b"",
        "not UTF-8": b"\xff\xfe\n",
        "no fields": b"{}\n",
        "a list": b"[]\nx",
        "a number": b'{"subject":"s","sender":"a@b.org","to":3}\n',
        "no address": b'{"subject":"s","sender":"a@b.org","to":["you\\r\\nBcc: x@y.org"]}\nx',
        "without an end": b'{"subject":"s","sender":"a@b.org","to":["a@b.org"]}',
    }


@pytest.mark.parametrize("kind", damaged_copies(b"\n" + b"x" * 60))
def test_a_file_that_is_no_message(tmp_path: Path, kind: str) -> None:
    """Is named and set aside as it is; the others go."""
    port = free_port()
    mailer = mailer_for(Server(port=port), tmp_path)
    mailer.send(Mail("good", "text"))
    [path] = waiting(mailer.spool)
    bad, content = mailer.spool / "1.mail", damaged_copies(path.read_bytes())[kind]
    bad.write_bytes(content)
    with Server(port=port) as server:
        flushed = mailer.flush()
        reason = (
            "the message is not what was written"
            if kind in ("cut", "flipped in the message")
            else ("its first line is no envelope")
        )
        aside = mailer.spool / "damaged"
        assert flushed == Flushed(1, 0, [f"{bad}: is damaged and cannot be sent ({reason}; it is kept in {aside})"])
        assert [got.to for got in server.received] == [["you@example.org"]]
        assert mailer.flush() == Flushed(0, 0, [])
    assert (aside / "1.mail").read_bytes() == content and not bad.exists()


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with Server() as server:
        mailer = mailer_for(server, tmp_path)
        mailer.spool.mkdir()
        os.mkfifo(mailer.spool / "1.mail")
        (mailer.spool / "2.mail").mkdir()
        flushed = mailer.flush()
    end = "; look at it, and remove it"
    assert flushed == Flushed(0, 2, [
        f"{mailer.spool / '1.mail'}: cannot be read (it is a pipe or a device){end}",
        f"{mailer.spool / '2.mail'}: cannot be read (Is a directory){end}",
    ])  # fmt: skip


def test_a_message_of_an_earlier_version_goes(tmp_path: Path) -> None:
    """Without checksums."""
    with Server() as server:
        mailer = mailer_for(server, tmp_path)
        mailer.spool.mkdir()
        letter = mail_module.compose(Mail("s", "t"), mailer.settings)
        header = json.dumps({"subject": "s", "sender": "me@example.org", "to": ["you@example.org"]}).encode()
        (mailer.spool / "1.mail").write_bytes(header + b"   \n" + letter.message)
        assert mailer.flush() == Flushed(1, 0, [])
        assert [got.subject for got in server.received] == ["s"]


def test_a_clock_that_jumps_takes_nothing_from_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "1.mail.tmp"
    path.write_text("half a mess")
    os.utime(path, (0, 0))
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert waiting(tmp_path) == [] and path.exists()
    assert waiting(tmp_path) == [] and not path.exists()


def test_a_message_that_another_process_sends_is_left_to_it(tmp_path: Path) -> None:
    port = free_port()
    mailer = mailer_for(Server(port=port), tmp_path)
    mailer.send(Mail("s", "text"))
    (path,) = waiting(mailer.spool)
    with Server(port=port) as server:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert mailer.flush() == Flushed(0, 0, [])
            assert server.received == []
        assert mailer.flush() == Flushed(1, 0, [])


def test_a_message_that_is_sent_while_it_is_being_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the file between our opening and our locking it."""
    with Server() as server:
        mailer = mailer_for(server, tmp_path)
        Entry.create(mailer.spool, mail_module.compose(Mail("s", "t"), mailer.settings)).close()
        (path,) = waiting(mailer.spool)
        lock = mail_spool._lock
        monkeypatch.setattr(mail_spool, "_lock", lambda descriptor: (path.unlink(), lock(descriptor))[1])
        assert mailer.flush() == Flushed(0, 0, [])
        assert server.received == []


def test_a_message_is_ours_from_the_start(tmp_path: Path) -> None:
    """Between its making and its sending nobody else takes it."""
    with Server(replies={"GREETING": [HANG]}) as server:
        mailer = mailer_for(server, tmp_path, timeout=2.0)
        thread = threading.Thread(target=mailer.send, args=(Mail("s", "t"),))
        thread.start()
        until(lambda: waiting(mailer.spool))
        assert mailer_for(server, tmp_path).flush() == Flushed(0, 0, [])
        thread.join()
        assert len(server.received) == 1


def test_the_message_of_a_process_killed_before_it_removed_the_file(tmp_path: Path) -> None:
    """Its file says that it has to go to nobody any more."""
    with Server() as server:
        mailer = mailer_for(server, tmp_path)
        with Entry.create(mailer.spool, mail_module.compose(Mail("s", "t"), mailer.settings)) as entry:
            entry._note([])
        assert mailer.flush() == Flushed(0, 0, [])
        assert (server.received, waiting(mailer.spool)) == ([], [])


# -- no room -----------------------------------------------------------------------------------------------------------


SEND = """
import resource, sys
from fairseq_cloze.mail import mailer as mail
mail.PAUSE = 0.05
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
settings = mail.MailSettings("127.0.0.1", int(sys.argv[1]), "plain", sender="me@example.org", to=("you@example.org",))
mailer = mail.Mailer(settings)
print(mailer.send(mail.Mail("subject", "text " * 1000)))
print(*mailer.problems, sep="\\n", end="")
"""


def send_with_room(port: int, room: int) -> str:
    """Send in a process whose files cannot grow beyond *room* bytes: beyond it the kernel refuses to write."""
    command = [sys.executable, "-c", SEND, str(port), str(room)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("room", [0, 20, 3000])
def test_a_full_disk(home: Path, tmp_path: Path, room: int) -> None:
    """The mail goes from memory, and only where that fails too there is something to tell; no torn file stays."""
    spool = tmp_path / "state" / "fairseq-cloze" / "mail"
    with Server() as server:
        assert send_with_room(server.port, room) == "True\n"
        assert len(server.received) == 1 and server.received[0].text == "text " * 1000 + "\n"
        assert list(spool.iterdir()) == []
    assert send_with_room(server.port, room) == (
        f"False\nmail 'subject' was not sent: 127.0.0.1:{server.port} refuses connections: nobody listens there, or a "
        f"firewall forbids it, as on compute nodes; mend host and port in {home / 'mail.toml'}; it could not be kept "
        f"in {spool} either (File too large) and is lost"
    )
    assert list(spool.iterdir()) == []


def test_a_spool_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with Server() as server:
        mailer = mailer_for(server, tmp_path)
        assert mailer.send(Mail("s", "t"))
        assert (len(server.received), mailer.problems) == (1, [])
        mailer = Mailer(mailer.settings, tmp_path / "spool" / "below")
        assert mailer.send(Mail("s", "t"))
        assert (len(server.received), mailer.problems) == (2, [])


def test_refused_and_no_room_to_keep_it(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with Server(replies={"RCPT": ["550 unknown"]}) as server:
        mailer = mailer_for(server, tmp_path)
        assert not mailer.send(Mail("s", "t"))
        place = f"127.0.0.1:{server.port}"
        assert mailer.problems == [f"mail 's' is refused for you@example.org: {place} says 550 unknown"]


def test_no_room_for_the_refused(tmp_path: Path) -> None:
    """Who was served is not served again all the same."""
    with Server(replies={"never@x.org": ["550 unknown"], "later@x.org": ["451 later"] * 4}) as server:
        mailer = mailer_for(server, tmp_path)
        mailer.spool.mkdir()
        (mailer.spool / "refused").write_text("a file")
        assert not mailer.send(Mail("s", "t", ("a@x.org", "never@x.org", "later@x.org")))
        assert "cannot be written (File exists)" in mailer.problems[0]
        assert [got.to for got in server.received] == [["a@x.org"]]
        assert [set(to) for to in spooled(mailer.spool)] == [{"later@x.org"}]


# -- several processes -------------------------------------------------------------------------------------------------


FLUSH = ("-c", "from fairseq_cloze.cli import main; main()", "mail", "flush")


def in_environment(server: Server, monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    values = {"HOST": "127.0.0.1", "PORT": str(server.port), "SECURITY": "plain", "FROM": "me@example.org", **values}
    for key, value in values.items():
        monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{key}", value)


def flushing() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *FLUSH], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def fill(number: int) -> None:
    """Messages in the default spool."""
    spool = mail_module.state_path()
    settings = MailSettings("127.0.0.1", 1, "plain", sender="me@example.org", to=("you@example.org",))
    for index in range(number):
        Entry.create(spool, mail_module.compose(Mail(f"mail {index}", "text"), settings)).close()


def test_several_processes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message once, whoever sends it."""
    fill(40)
    with Server() as server:
        in_environment(server, monkeypatch)
        processes = [flushing() for _ in range(4)]
        said = [process.communicate()[0] for process in processes]
        sent = [int(line.split()[1].rstrip(",")) for line in said if line.startswith("sent")]
        assert sorted(got.subject for got in server.received) == sorted(f"mail {index}" for index in range(40)), said
        assert sum(sent) == 40
        assert [process.returncode for process in processes] == [0] * 4
    assert waiting(mail_module.state_path()) == []


@pytest.mark.parametrize("moment", ["GREETING", "BODY", "END"])
def test_killed_amid_sending(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """kill -9 while the third message goes; the next flush sends it and the others, each once."""
    fill(5)
    with Server() as server:
        in_environment(server, monkeypatch)
        server.replies[moment] = ["", "", HANG]
        process = flushing()
        until(lambda: not server.replies[moment])
        assert len(server.received) == 2 and len(waiting(mail_module.state_path())) == 3
        assert flush() == Flushed(2, 0, [])  # the third is the other's
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert flush() == Flushed(1, 0, [])
        assert sorted(got.subject for got in server.received) == [f"mail {index}" for index in range(5)]
    assert waiting(mail_module.state_path()) == []


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["mail", *arguments])


def test_command_test(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server("starttls", {USER: PASSWORD}, authority.good) as server:
        extra = {"USER": USER, "PASSWORD": PASSWORD, "SECURITY": "starttls", "CA_FILE": str(authority.file)}
        in_environment(server, monkeypatch, TO="you@example.org,me@example.org", **extra)
        ran = command("test")
        assert (ran.exit_code, ran.output) == (
            0,
            f"sent to you@example.org, me@example.org by 127.0.0.1:{server.port} (STARTTLS, as me)\n",
        )
        (got,) = server.received
        assert (got.subject, got.to) == ("fairseq-cloze: test", ["you@example.org", "me@example.org"])
        assert got.text == (
            "This is the test message of 'fairseq-cloze mail test': mail works. <mask> stands here as it stands in a "
            "log.\n"
        )


def test_command_test_says_what_is_wrong(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, after one attempt, and with nothing in the spool."""
    with Server(replies={"RCPT": ["550 unknown"], "GREETING": ["", "554 no"]}) as server:
        in_environment(server, monkeypatch, PORT=str(server.port))
        ran = command("test")
        place = f"127.0.0.1:{server.port}"
        assert (ran.exit_code, ran.output) == (1, f"Error: refused for me@example.org: {place} says 550 unknown\n")
        ran = command("test")
        assert (ran.exit_code, ran.output) == (1, f"Error: {place} says 554 no\n")
    monkeypatch.delenv("FAIRSEQ_CLOZE_MAIL_FROM")
    assert command("test").output.startswith(f"Error: {home / 'mail.toml'}: no from; expected an address")
    assert not mail_module.state_path().exists()


def test_command_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything to send no settings are needed."""
    ran = command("flush")
    assert (ran.exit_code, ran.output) == (0, "nothing waits to be sent\n")
    fill(2)
    ran = command("flush")
    counts, error, *named = ran.output.splitlines()
    assert (ran.exit_code, counts) == (1, "sent 0, kept 2") and error.startswith("no mail settings: write ")
    assert named == [f"mail 'mail {number}' was not sent: it waits for settings" for number in range(2)]
    port = free_port()
    in_environment(Server(port=port), monkeypatch)
    ran = command("flush")
    assert ran.exit_code == 1 and len(ran.output.splitlines()) == 2
    assert ran.output.startswith("sent 0, kept 2\nmail 'mail ")
    with Server(port=port) as server:
        ran = command("flush")
        assert (ran.exit_code, ran.output, len(server.received)) == (0, "sent 2, kept 0\n", 2)


def test_yagmail_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yagmail", None)
    settings = replace(settings_for(Server(port=1)))
    with pytest.raises(MailError, match="mail needs yagmail, which cannot be imported .*; run: pip install yagmail"):
        send_test(settings)


def test_imports_nothing_slow() -> None:
    """A job starts with this; and smtplib is yagmail's business."""
    code = "import sys, fairseq_cloze.mail.notify; "
    code += "print(*sorted({'torch', 'numpy', 'yagmail', 'smtplib'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"
