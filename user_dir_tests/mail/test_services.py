"""Chats and the like, told by apprise: at once, once, later if need be, and without a secret anywhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from fairseq_cloze.cli.mail import command
from fairseq_cloze.mail import mailer as mail_module
from fairseq_cloze.mail import services as services_module
from fairseq_cloze.mail.mailer import Flushed
from fairseq_cloze.mail.message import Letter, Mail, compose
from fairseq_cloze.mail.notify import Event, Notifier
from fairseq_cloze.mail.services import Messenger, Service, find_services
from fairseq_cloze.mail.settings import MailError, MailSettings, state_path
from fairseq_cloze.mail.spool import Entry, waiting

from ..support.commands import free_port, run
from ..support.mail_server import Server, fresh_home
from ..support.service_server import ServiceServer

SECRET = "me:hunter22"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mail_module, "PAUSE", 0.05)
    return fresh_home(tmp_path / "home", monkeypatch)


def messenger(tmp_path: Path, *urls: str) -> Messenger:
    return Messenger([Service(url) for url in urls], tmp_path / "spool")


def spooled(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*.mail"))


def test_told_once(tmp_path: Path) -> None:
    with ServiceServer() as server:
        to = messenger(tmp_path, server.url("a", SECRET), server.url("b"))
        assert to.send(Mail("a job: done", "\x1b[1mYes\x1b[0m  \r\n<mask> & co\n", attachments=(Path("/nowhere"),)))
        assert sorted(server.received) == [
            ("/a", "a job: done", "Yes\n<mask> & co"),
            ("/b", "a job: done", "Yes\n<mask> & co"),
        ]
    assert to.problems == [] and waiting(to.spool) == []


def test_nobody_listens(tmp_path: Path) -> None:
    """Three attempts; the message waits and is told later, to those alone that were not told; no secret is anywhere."""
    port = free_port()
    with ServiceServer() as other:
        to = messenger(tmp_path, f"json://{SECRET}@127.0.0.1:{port}/token-token", other.url("other"))
        name = to.services[0].name
        assert not to.send(Mail("one", "first"))
        assert len(other.received) == 1
        assert to.problems == [
            f"message 'one' was not sent: {name}: A Connection error occurred sending JSON notification to ***.; it "
            f"waits in {to.spool} for the next message or 'fairseq-cloze mail flush'"
        ]
        assert not any(word in spooled(to.spool) for word in (b"hunter", b"token-token", b"127.0.0.1"))
        assert f"{waiting(to.spool)[0].stat().st_mode & 0o777:o}" == "600"
        with ServiceServer(port=port) as server:
            assert to.send(Mail("two", "second"))
            assert sorted(server.received) == [("/token-token", "one", "first"), ("/token-token", "two", "second")]
        assert other.received == [("/other", "one", "first"), ("/other", "two", "second")]
    assert waiting(to.spool) == []


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (404, 1), (401, 1)])
def test_a_service_that_refuses(tmp_path: Path, status: int, tries: int) -> None:
    """What only the user can mend is not tried again at once; it waits all the same."""
    with ServiceServer(statuses={"/secret-path": [status] * 9}) as server:
        to = messenger(tmp_path, server.url("secret-path", SECRET))
        assert not to.send(Mail("one", "first"))
        assert server.asked == ["/secret-path"] * tries
        [problem] = to.problems
        assert f"error={status}." in problem and (tries == 3 or "; mend FAIRSEQ_CLOZE_NOTIFY; it waits" in problem)
        assert "secret" not in problem and "hunter" not in problem
        server.statuses.clear()
        assert to.flush() == Flushed(1, 0, [])
        assert server.received == [("/secret-path", "one", "first")]


def test_a_url_that_was_changed(tmp_path: Path) -> None:
    """The only one of its kind takes what waited for the old one; where there are two, none is guessed."""
    with ServiceServer(statuses={"/old": [404]}) as server:
        assert not messenger(tmp_path, server.url("old")).send(Mail("one", "first"))
        two = messenger(tmp_path, server.url("new"), server.url("newer"))
        name = Service(server.url("old")).name
        assert two.flush() == Flushed(0, 1, [f"message 'one' was not sent: {name} is not in FAIRSEQ_CLOZE_NOTIFY"])
        none = Messenger([], tmp_path / "spool")
        assert none.flush().problems == [f"message 'one' was not sent: {name} is not in FAIRSEQ_CLOZE_NOTIFY"]
        assert messenger(tmp_path, server.url("new")).flush() == Flushed(1, 0, [])
        assert server.received == [("/new", "one", "first")]


def test_a_service_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "LIMIT", 0.5)
    with ServiceServer(statuses={"/slow": [-30]}) as server:
        to = messenger(tmp_path, server.url("slow"), server.url("quick"))
        assert not to.send(Mail("one", "first"))
        assert to.problems[0].startswith(
            f"message 'one' was not sent: {to.services[0].name} did not answer in time; it"
        )
        assert server.received == [("/quick", "one", "first")]


def test_urls_that_cannot_be_used(tmp_path: Path) -> None:
    said: list[str] = []
    text = "json://a/b, slack://x; mailto://me:hunter22@gmail.com\n ftp: json://a/b"
    found = find_services(said.append, {"FAIRSEQ_CLOZE_NOTIFY": text})
    assert [service.url for service in found] == ["json://a/b", "slack://x"]
    assert said == [
        "FAIRSEQ_CLOZE_NOTIFY: expected URLs such as slack://..., found something else in place 3",
    ]
    said.clear()
    assert find_services(said.append, {"FAIRSEQ_CLOZE_NOTIFY": "mailtos://me:hunter22@gmail.com"}) == []
    assert said == ["FAIRSEQ_CLOZE_NOTIFY: mail does not go by place 1, a mailto URL; give --email ADDRESS"]
    assert find_services(said.append, {"FAIRSEQ_CLOZE_NOTIFY": " "}) == []
    assert repr(Service("json://hunter22")) == "Service()"
    to = messenger(tmp_path, "nosuchkind://hunter22", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#a/#b")
    assert not to.send(Mail("one", "first"))
    names = [service.name for service in to.services]
    assert to.problems == [
        f"message 'one' was not sent: {names[0]}: apprise does not take the URL; mend it in FAIRSEQ_CLOZE_NOTIFY; "
        f"{names[1]} has 2 receivers; write one URL for each of them; it waits in {to.spool} for the next message or "
        "'fairseq-cloze mail flush'"
    ]


def test_what_apprise_logs_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may log whole URLs."""
    root: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            root.append(record.getMessage())

    listener = Listener()
    logging.getLogger().addHandler(listener)
    try:
        messenger(tmp_path, "nosuchkind://hunter22/x").send(Mail("one", "first"))
    finally:
        logging.getLogger().removeHandler(listener)
    assert not [line for line in root if "hunter" in line or "nosuchkind" in line]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    with ServiceServer() as server:
        assert messenger(tmp_path, server.url()).send(Mail("s" * 500, "a" * 4000 + "z" * 4000))
        [(_, title, text)] = server.received
    assert title == "s" * 200
    assert text == "a" * 1496 + "\n[...]\n" + "z" * 1496


def test_events_of_a_job_by_mail_and_by_message(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both from one notifier; that one of them fails does not touch the other."""
    (tmp_path / "log.txt").write_text("log")
    with Server() as mail, ServiceServer(statuses={"/x": [404]}) as server:
        monkeypatch.setenv("FAIRSEQ_CLOZE_NOTIFY", server.url("x", SECRET))
        (home / "mail.toml").write_text(
            f'host = "127.0.0.1"\nport = {mail.port}\nsecurity = "plain"\nfrom = "me@test.org"\n'
        )
        (home / "mail.toml").chmod(0o600)
        said: list[str] = []
        notifier = Notifier("job", ["me@test.org"], 60.0, report=said.append)
        assert notifier.has_receivers
        notifier.tell(Event("start", "started", "at noon"))
        mail.wait()
        notifier.tell(Event("best", "new best", "71%", (tmp_path / "log.txt",)))
        notifier.close(Event("success", "done", "in 3 h"))
        assert [one.subject for one in mail.received] == ["job: started", "job: done (and 1 more)"]
        assert [title for _, title, _ in server.received] == ["job: done (and 1 more)", "job: started"]
        assert "new best\n\n71%" in server.received[0][2]
        assert len(said) == 1 and "error=404" in said[0] and "hunter" not in said[0]
        unused = Notifier("job", [], report=said.append, messenger=None)
        assert unused.has_receivers
    monkeypatch.delenv("FAIRSEQ_CLOZE_NOTIFY")
    assert not Notifier("job", [], report=said.append).has_receivers


def test_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSEQ_CLOZE_NOTIFY", "json://a")
    monkeypatch.setattr(services_module.importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    notifier = Notifier("job", [], report=said.append)
    assert said == ["no message will be sent: FAIRSEQ_CLOZE_NOTIFY needs apprise; run: pip install apprise"]
    assert not notifier.has_receivers
    with pytest.raises(MailError, match="needs apprise"):
        services_module.send_test()
    spool = services_module.services_path()
    Entry.create(spool, Letter("best", "job@notify", ("slack-01234567@notify",), b"71%")).close()
    assert services_module.flush() == Flushed(
        0,
        1,
        [
            "FAIRSEQ_CLOZE_NOTIFY needs apprise; run: pip install apprise",
            "message 'best' was not sent: it waits for apprise",
        ],
    )


def test_run_tells_the_end(tmp_path: Path) -> None:
    """Without an address; what is told of the command has no secret."""
    with ServiceServer() as server:
        url = server.url("token-token", SECRET)
        command = ("sh", "-c", "exit 0", f"FAIRSEQ_CLOZE_NOTIFY={url}")
        env = {"FAIRSEQ_CLOZE_NOTIFY": url}
        done = run("fairseq-cloze", "run", "--log-dir", tmp_path / "logs", "--name", "x", "--", *command, env=env)
        [(_, title, text)] = server.received
    assert title.startswith("x on ") and " succeeded after " in title
    assert "FAIRSEQ_CLOZE_NOTIFY=***" in text
    assert not any("hunter" in found for found in (title, text, done.text))


def test_the_commands_of_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    """``mail test`` and ``mail flush`` serve messages, too, and need no settings for mail then."""
    port = free_port()
    url = f"json://{SECRET}@127.0.0.1:{port}/token-token"
    name = Service(url).name
    monkeypatch.setenv("FAIRSEQ_CLOZE_NOTIFY", url)
    said: list[str] = []
    Notifier("job", [], report=said.append).close(Event("best", "new best", "71%"))
    assert len(said) == 1 and "it waits in" in said[0]

    def ask(word: str) -> tuple[int, str]:
        done = CliRunner().invoke(command, [word])
        return done.exit_code, str(done.exception) if isinstance(done.exception, MailError) else done.output

    refusal = f"{name}: A Connection error occurred sending JSON notification to ***."
    assert ask("test") == (1, refusal)
    assert ask("flush") == (1, f"sent 0, kept 1\nmessage 'job: new best' was not sent: {refusal}\n")
    with ServiceServer(port=port) as server:
        assert ask("test") == (0, f"told {name}\n")
        assert ask("flush") == (0, "sent 1, kept 0\n")
        assert ask("flush") == (0, "nothing waits to be sent\n")
    assert [received[1:] for received in server.received] == [
        ("fairseq-cloze: test", "This is the test message of 'fairseq-cloze mail test'."),
        ("job: new best", "71%"),
    ]
    Notifier("job", [], report=said.append).close(Event("best", "another", "72%"))
    settings = MailSettings("127.0.0.1", 1, "plain", sender="me@example.org")
    Entry.create(state_path(), compose(Mail("for Jane", "text", ("jane@example.org",)), settings)).close()
    with ServiceServer(port=port) as server:  # mail whose settings are gone does not hold them up
        code, text = ask("flush")
    counts, error, named = text.splitlines()
    assert (code, counts, named) == (1, "sent 1, kept 1", "mail 'for Jane' was not sent: it waits for settings")
    assert error.startswith("no mail settings: write ") and len(server.received) == 1
    assert len(waiting(state_path())) == 1 and waiting(services_module.services_path()) == []
    monkeypatch.setenv("FAIRSEQ_CLOZE_NOTIFY", "x")
    assert ask("test") == (
        1,
        "FAIRSEQ_CLOZE_NOTIFY: expected URLs such as slack://..., found something else in place 1",
    )
