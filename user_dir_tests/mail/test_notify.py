from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import SetupError
from fairseq_cloze.mail import mailer as mail_module
from fairseq_cloze.mail.mailer import Flushed, Mailer
from fairseq_cloze.mail.notify import Event, Notifier
from fairseq_cloze.mail.settings import MailSettings
from fairseq_cloze.mail.spool import waiting

from ..support.commands import environment, free_port
from ..support.mail_server import HANG, Server, Silent, fresh_home, until
from ..support.pictures import png

YOU = ("you@example.org",)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mail_module, "PAUSE", 0.05)
    return fresh_home(tmp_path, monkeypatch)


def mailer_for(server: Any, tmp_path: Path, timeout: float = 20.0) -> Mailer:
    settings = MailSettings("127.0.0.1", server.port, "plain", sender="me@example.org", timeout=timeout)
    return Mailer(settings, tmp_path / "spool")


def notifier_for(server: Any, tmp_path: Path, reports: list[str], timeout: float = 20.0, **values: Any) -> Notifier:
    return Notifier("run", YOU, mailer=mailer_for(server, tmp_path, timeout), report=reports.append, **values)


def event(subject: str, kind: str = "best", **fields: Any) -> Event:
    return Event(kind, subject, f"This is {subject}.\n", **fields)


TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def test_first_at_once_the_others_together(tmp_path: Path) -> None:
    """Ten events are three mails: the first, what came within the interval, and the end with what came last."""
    reports: list[str] = []
    with Server() as server:
        notifier = notifier_for(server, tmp_path, reports, interval=3.0)
        notifier.tell(event("start", "start"))
        server.wait(1)
        notifier.tell(event("best 0"))
        time.sleep(0.5)
        assert len(server.received) == 1
        for number in range(1, 6):
            notifier.tell(event(f"best {number}"))
        server.wait(2)
        notifier.tell(event("best 6"))
        notifier.tell(event("stalled", "stalled"))
        notifier.close(event("finished", "success"))
        assert [(got.subject, got.to) for got in server.received] == [
            ("run: start", ["you@example.org"]),
            ("run: best 5 (and 5 more)", ["you@example.org"]),
            ("run: finished (and 2 more)", ["you@example.org"]),
        ]
        assert server.received[0].text == "This is start.\n"
        parts = "\n\n".join(rf"{TIME}  best {number}\n\nThis is best {number}\." for number in range(6))
        assert re.fullmatch(parts + "\n", server.received[1].text)
        assert re.fullmatch(
            rf"{TIME}  best 6\n\nThis is best 6\.\n\n{TIME}  stalled\n\nThis is stalled\.\n\n"
            rf"{TIME}  finished\n\nThis is finished\.\n",
            server.received[2].text,
        )
    assert (reports, waiting(tmp_path / "spool")) == ([], [])


def test_only_the_end(tmp_path: Path) -> None:
    with Server() as server:
        notifier = notifier_for(server, tmp_path, [])
        notifier.close(event("failed", "failure"))
        assert [(got.subject, got.text) for got in server.received] == [("run: failed", "This is failed.\n")]
        notifier.close(event("again", "failure"))
        notifier.tell(event("too late"))
        assert len(server.received) == 1 and len(threads()) == 0


def test_an_end_without_anything_to_say(tmp_path: Path) -> None:
    with Server() as server:
        notifier = notifier_for(server, tmp_path, [], interval=0.0)
        notifier.close()
        other = notifier_for(server, tmp_path, [])
        other.tell(event("start"))
        server.wait(1)
        other.tell(event("best"))
        other.close()
        assert [got.subject for got in server.received] == ["run: start", "run: best"]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("notify", "mail")]


def test_no_addresses(home: Path, tmp_path: Path) -> None:
    """Nothing is looked up, not even settings that do not fit; nothing is sent."""
    (home / "mail.toml").write_text("nonsense")
    reports: list[str] = []
    notifier = Notifier("run", (), report=reports.append)
    notifier.tell(event("start"))
    notifier.close(event("end"))
    with Server() as server:
        other = Notifier("run", [], mailer=mailer_for(server, tmp_path), report=reports.append)
        other.tell(event("start"))
        other.close(event("end"))
        assert server.received == []
    assert (reports, threads()) == ([], [])


def test_addresses_without_settings(home: Path) -> None:
    """Told once, at the start."""
    reports: list[str] = []
    notifier = Notifier("run", YOU, report=reports.append)
    notifier.tell(event("start"))
    notifier.close(event("end"))
    assert reports == [
        f"no mail will be sent: no mail settings: write {home / 'mail.toml'} (mode 0600) with host, port, security, "
        "user, password, from and to, or set FAIRSEQ_CLOZE_MAIL_HOST and so on; for Gmail user and password, an app "
        "password, are enough"
    ]
    assert threads() == []


def test_an_address_that_is_none(tmp_path: Path) -> None:
    reports: list[str] = []
    with Server() as server:
        to = ["you", "a@example.org"]
        Notifier("run", to, mailer=mailer_for(server, tmp_path), report=reports.append).close(event("end"))
        assert [got.to for got in server.received] == [["a@example.org"]]
    assert len(reports) == 1 and reports[0].endswith("found 'you'; no mail to it")


def test_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And reports go to standard error."""
    port = free_port()
    for key, value in {"HOST": "127.0.0.1", "PORT": str(port), "SECURITY": "plain", "FROM": "me@example.org"}.items():
        monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{key}", value)
    Notifier("run", YOU).close(event("end"))
    with Server(port=port) as server:
        Notifier("run", YOU).close(event("second"))
        assert [got.subject for got in server.received] == ["run: second", "run: end"]
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert err.startswith(f"fairseq-cloze: mail 'run: end' was not sent: 127.0.0.1:{port} refuses connections")


# -- servers that do not serve -----------------------------------------------------------------------------------------


def test_a_server_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """While the first mail hangs, telling returns, closing ends in time, and every event arrives in the end, once."""
    reports: list[str] = []
    with Silent() as silent:
        notifier = notifier_for(silent, tmp_path, reports, timeout=600.0)
        notifier.tell(event("start"))
        until(lambda: silent.connections == 1)
        for number in range(1000):
            notifier.tell(event(f"best {number}"))
        started = time.monotonic()
        notifier.close(event("end"), limit=3.0)
        assert time.monotonic() - started < 30
        assert len(waiting(tmp_path / "spool")) == 2
    assert 1 <= len(reports) <= 2 and all(str(tmp_path / "spool") in line for line in reports)
    until(lambda: not threads())
    with Server() as server:
        assert mailer_for(server, tmp_path).flush() == Flushed(2, 0, [])
        assert sorted(got.subject for got in server.received) == ["run: end (and 1000 more)", "run: start"]


JOB = """
import sys, time
from fairseq_cloze.mail.mailer import Mailer
from fairseq_cloze.mail.settings import MailSettings
from fairseq_cloze.mail.notify import Event, Notifier
settings = MailSettings("127.0.0.1", int(sys.argv[1]), "plain", sender="me@example.org", timeout=600)
notifier = Notifier("run", ["you@example.org"], mailer=Mailer(settings))
notifier.tell(Event("start", "start", "text"))
time.sleep(1)  # while this one hangs
notifier.tell(Event("best", "best", "text"))
notifier.close(Event("success", "end", "text"), limit=2.0)
print("done")
sys.exit(7)
"""


def test_a_job_ends_though_the_server_hangs() -> None:
    """With its own status, its own output, and no traceback of threads that were left behind."""
    with Silent() as silent:
        command = [sys.executable, "-c", JOB, str(silent.port)]
        ran = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout) == (7, "done\n")
        lines = ran.stderr.splitlines()
        assert 1 <= len(lines) <= 2 and all(line.startswith("fairseq-cloze: mail") for line in lines), ran.stderr
    with Server() as server:
        mailer = Mailer(MailSettings("127.0.0.1", server.port, "plain", sender="me@example.org"))
        flushed = mailer.flush()
        assert (flushed.kept, flushed.problems, flushed.sent) == (0, [], len(server.received))
        assert sorted(got.subject for got in server.received) == ["run: end (and 1 more)", "run: start"]


def test_what_was_kept_is_sent_without_another_event(tmp_path: Path) -> None:
    """A server that was away for a moment: the mail goes after the interval, and once."""
    reports: list[str] = []
    with Server(replies={"MAIL": ["451 later"] * 3}) as server:
        notifier = notifier_for(server, tmp_path, reports, interval=0.5)
        notifier.tell(event("start"))
        server.wait(1)
        notifier.close()
        assert [got.subject for got in server.received] == ["run: start"]
    place = f"127.0.0.1:{server.port}"
    assert reports == [
        f"mail 'run: start' was not sent: {place} says 451 later to mail from me@example.org; it waits in "
        f"{tmp_path / 'spool'} for the next mail or 'fairseq-cloze mail flush'"
    ]


def test_the_end_does_not_wait_for_the_start(tmp_path: Path) -> None:
    """One mail hangs; the last one arrives, and then the first, once."""
    with Server(replies={"END": [HANG]}) as server:
        notifier = notifier_for(server, tmp_path, [], timeout=3.0)
        notifier.tell(event("start"))
        until(lambda: not server.replies["END"])
        notifier.close(event("end"), limit=60.0)
        assert [got.subject for got in server.received] == ["run: end", "run: start"]
    assert waiting(tmp_path / "spool") == []


# -- events that do not behave -----------------------------------------------------------------------------------------


def test_attachments_and_picture(tmp_path: Path) -> None:
    """Each file once, as it is when the mail is made; the latest picture."""
    log, other = tmp_path / "run.log", tmp_path / "other.log"
    for path in (log, other):
        path.write_text("text")
    with Server() as server:
        notifier = notifier_for(server, tmp_path, [])
        notifier.tell(event("start"))
        server.wait(1)
        notifier.tell(event("a", attachments=(log,), picture=lambda: png(1, 1)))
        notifier.tell(event("b", attachments=(other, log), picture=lambda: png(2, 2)))
        log.write_text("later text")
        notifier.close(event("end"))
        message = server.received[1].message
        assert [part.get_filename() for part in message.iter_attachments()] == ["run.log", "other.log"]
        assert [part.get_payload(decode=True) for part in message.iter_attachments()] == [b"later text", b"text"]
        pictures = [part for part in message.walk() if part.get_content_type() == "image/png"]
        assert [part.get_payload(decode=True) for part in pictures] == [png(2, 2)]


def test_a_picture_that_cannot_be_drawn(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise ValueError("no points <mask>")

    with Server() as server:
        notifier_for(server, tmp_path, []).close(event("end", picture=broken))
        assert server.received[0].text == (
            "This is end.\n\nThe picture could not be drawn: ValueError: no points <mask>\n"
        )
        notifier_for(server, tmp_path, []).close(event("end", picture=lambda: None))
        assert server.received[1].text == "This is end.\n"


def test_what_pictures_lack_is_said_once(tmp_path: Path) -> None:
    def missing() -> bytes:
        raise SetupError("pictures need a package")

    with Server() as server:
        notifier = notifier_for(server, tmp_path, [])
        notifier.tell(event("start", picture=missing))
        server.wait(1)
        notifier.close(event("end", picture=missing))
        assert [received.text for received in server.received] == [
            "This is start.\n\nThe picture could not be drawn: pictures need a package\n",
            "This is end.\n",
        ]


def test_an_event_that_cannot_be_mailed(tmp_path: Path) -> None:
    """Is told, and the next one is mailed all the same."""
    reports: list[str] = []
    with Server() as server:
        notifier = notifier_for(server, tmp_path, reports, interval=0.0)
        notifier.tell(Event("best", "bad", 3))  # type: ignore[arg-type]
        until(lambda: reports)
        notifier.tell(event("good"))
        server.wait(1)
        notifier.close(Event("best", "bad", 3))  # type: ignore[arg-type]
        assert [got.subject for got in server.received] == ["run: good"]
    assert len(reports) == 2 and all(line.startswith("mail: ") and "\n" not in line for line in reports)


def test_a_report_that_fails(tmp_path: Path) -> None:
    def report(line: str) -> None:
        raise OSError("no terminal any more")

    notifier = Notifier("run", ["bad", *YOU], mailer=mailer_for(Server(port=1), tmp_path), report=report)
    notifier.tell(event("start"))
    notifier.close(event("end"))
    assert 1 <= len(waiting(tmp_path / "spool")) <= 2


def test_kinds() -> None:
    with pytest.raises(ValueError, match="kind must be one of start, success, failure, best, stalled, chance, ended"):
        Event("won", "s", "t")


def test_many_threads(tmp_path: Path) -> None:
    """No event is lost or told twice."""
    with Server() as server:
        notifier = notifier_for(server, tmp_path, [], interval=0.05)
        workers = [
            threading.Thread(target=lambda n=n: [notifier.tell(event(f"e{n}-{i}.")) for i in range(50)])
            for n in range(8)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        notifier.close(event("end."))
        text = "\n".join(got.text for got in server.received)
        told = re.findall(r"This is (\S+)\.\.", text)
        assert sorted(told) == sorted(["end", *(f"e{n}-{i}" for n in range(8) for i in range(50))])
