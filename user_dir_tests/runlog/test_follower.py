"""Mails of ``fairseq-cloze run``, to a real server, and the figures in the log's last lines.

What a training would tell as events, commands write here themselves.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.commands import FINETUNE, ROOT, TRAIN_OPTIONS, environment, run
from ..support.mail_server import HANG, Server, fresh_home
from ..support.running import LIMIT, Wrapped, python, shell, until


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mail server, and settings for it."""
    (tmp_path / "home").mkdir()
    fresh_home(tmp_path / "home", monkeypatch)
    with Server() as server:
        settings = {"HOST": "127.0.0.1", "PORT": str(server.port), "SECURITY": "plain", "FROM": "job@example.org"}
        for key, value in settings.items():
            monkeypatch.setenv(f"FAIRSEQ_CLOZE_MAIL_{key}", value)
        yield server


TO = ("--email", "a@example.org", "--email", "b@example.org")
HOST = subprocess.run(["uname", "-n"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def valid(update: int, accuracy: float) -> str:
    """The event of a validation."""
    return json.dumps(
        {"type": "validation", "update": update, "epoch": 1, "subset": "valid", "loss": 1.25, "accuracy": accuracy}
    )


INNER = json.dumps({"type": "update", "update": 20, "epoch": 1, "loss": 1.3862943, "accuracy": 31.5, "lr": 1e-05})
CHANCE = json.dumps(
    {
        **{"type": "chance", "update": 200, "epoch": 1, "text": "updates 1 to 200 are at chance: accuracy is 25.1%"},
        "causes": [{"kind": "high_rate", "text": "the rate"}, {"kind": "vocabulary", "text": "the dictionary"}],
    }
)
CHANCE_TEXT = (
    "updates 1 to 200 are at chance: accuracy is 25.1%. Likely causes, the best evidence first:\n"
    "  1. the rate\n  2. the dictionary"
)
SAY = 'printf "%s\\n" "$@" >> "$FAIRSEQ_CLOZE_EVENTS"'


def test_failure(tmp_path: Path, server: Server) -> None:
    """The last 50 lines in the text, the log as attachment, to everybody."""
    ran = Wrapped(tmp_path, shell("seq 1 60; exit 3"), *TO, "--name", "finetune").end(3)
    [mail] = server.received
    assert mail.to == ["a@example.org", "b@example.org"]
    assert re.fullmatch(rf"finetune on {re.escape(HOST)}: failed with status 3 after 0:00:\d\d", mail.subject)
    text = mail.text.replace("\r\n", "\n")
    head, _, last = text.partition("\n\nThe last lines:\n\n")
    assert last.split()[:50] == [str(number) for number in range(11, 61)]
    assert f"command: sh -c 'seq 1 60; exit 3'\nfolder: {tmp_path}\n" in head
    assert "\nstatus: 3\n" in head and f"log: {ran.log}" in head
    [attached] = [part for part in mail.message.iter_attachments() if part.get_filename() == ran.log.name]
    content: Any = attached.get_content()
    content = content if isinstance(content, bytes) else content.encode()
    assert content.replace(b"\r\n", b"\n").strip() == ran.log.read_bytes().strip()


def test_last_lines_as_a_terminal_shows_them(tmp_path: Path, server: Server) -> None:
    """Lines with returns at their ends, progress bars, colours, bytes that are no text."""
    code = (
        r"printf 'loading\r\nTraceback: disk quota\r\r\n 1%%\r50%%\r99%%\n\033[31mred\033[0m \377\000end\r\n'; exit 3"
    )
    Wrapped(tmp_path, shell(code), *TO).end(3)
    last = server.received[0].text.replace("\r\n", "\n").partition("The last lines:\n\n")[2]
    assert last.split("\n")[:4] == ["loading", "Traceback: disk quota", "99%", "red \ufffdend"]


@pytest.mark.parametrize("gone", [False, True])
def test_a_log_that_is_moved_or_removed(tmp_path: Path, server: Server, gone: bool) -> None:
    """The mail has the log by its new name, or says that it is no longer there; standard output goes on."""
    move = "rm" if gone else 'f() { mv "$1" "$1.1"; }; f'
    ran = Wrapped(tmp_path, shell(f'echo one; {move} "$FAIRSEQ_CLOZE_LOG"; echo two; exit 3'), *TO, "--name", "x")
    ran.out, ran.err = ran.process.communicate(timeout=LIMIT)
    [mail] = server.received
    attached = [part.get_filename() for part in mail.message.iter_attachments()]
    assert ran.process.returncode == 3 and ran.out == b"one\ntwo\n" and "one\ntwo" in mail.text.replace("\r", "")
    if gone:
        assert attached == [] and "The log was removed, or moved to another folder" in mail.text
    else:
        [log] = (tmp_path / "logs").iterdir()
        assert attached == [log.name] and log.name.endswith("-x.log.1") and "# status: 3" in log.read_text()
        assert f"log: {log}" in mail.text


def test_addresses_with_names(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSEQ_CLOZE_EMAIL", 'Jane Doe <jane@example.org>, "Doe, Joe" <joe@example.org>')
    Wrapped(tmp_path, ["true"]).end(0)
    Wrapped(tmp_path, ["true"], "--email", "Jane Doe <jane@example.org>", "--name", "x").process.wait()
    assert [mail.to for mail in server.received] == [["jane@example.org", "joe@example.org"], ["jane@example.org"]]
    assert server.received[1].message["To"] == "Jane Doe <jane@example.org>"


def test_stopped_to_be_started_again(tmp_path: Path, server: Server) -> None:
    Wrapped(tmp_path, shell("exit 75"), *TO, "--name", "x").end(75)
    [mail] = server.received
    assert mail.subject.startswith(f"x on {HOST}: stopped, to be started again (status 75), after 0:00:")


def test_success_with_figures(tmp_path: Path, server: Server) -> None:
    """The last figures, and the learning curves as a picture; nothing of the command's lines in the text."""
    command = ["sh", "-c", SAY, "sh", INNER, valid(20, 27.512345)]
    ran = Wrapped(tmp_path, command, *TO, "--name", "x").end(0)
    figures = "valid loss 1.25, accuracy 27.51 at update 20; training loss 1.386, accuracy 31.5 at update 20"
    assert ran.facts()["last metrics"] == figures
    [mail] = server.received
    assert mail.subject.startswith(f"x on {HOST}: succeeded after 0:00:")
    assert f"last metrics: {figures}" in mail.text and "The last lines" not in mail.text
    pictures = [part for part in mail.message.walk() if part.get_content_type() == "image/png"]
    assert len(pictures) == 1 and len(pictures[0].get_content()) > 5000


def test_start(tmp_path: Path, server: Server) -> None:
    ran = Wrapped(tmp_path, shell("while [ ! -e go ]; do sleep 0.05; done"), *TO, "--mail-start", "--name", "x")
    [mail] = server.wait()
    assert mail.subject == f"x on {HOST}: started" and f"folder: {tmp_path}" in mail.text
    (tmp_path / "go").touch()
    ran.end(0)
    assert len(server.received) == 2


def _texts(server: Server) -> str:
    return "\n".join(mail.text.replace("\r\n", "\n") for mail in server.received)


def test_what_happens_on_the_way(tmp_path: Path, server: Server) -> None:
    """A new best, but not the first validation; chance with its causes; no output, once per silence."""
    code = f"""
import os, time
from pathlib import Path
def say(*lines): print(*lines, sep="\\n", flush=True)
def tell(*events):
    with open(os.environ["FAIRSEQ_CLOZE_EVENTS"], "a") as file: file.writelines(event + "\\n" for event in events)
def wait(name):
    while not Path(name).exists(): say("."); time.sleep(0.2)
tell({valid(20, 30.0)!r}, {valid(40, 29.0)!r}, {valid(60, 30.0)!r}, {valid(80, 40.5)!r})
wait("one")
tell({CHANCE!r})
say("something else")
time.sleep(3.5)
say("more")
time.sleep(3.5)
"""
    words = [*python(code)]
    starter = (
        "import sys; from fairseq_cloze.runlog.command import run; "
        f"sys.exit(run({words!r}, name='x', emails=['a@example.org'], stalled_after=2.0))"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], cwd=tmp_path, env=environment())
    [mail] = server.wait()
    assert mail.subject == f"x on {HOST}: new best accuracy 40.5 on valid"
    assert mail.text.startswith("Accuracy on valid rose to 40.5 from 30 at update 80.")
    (tmp_path / "one").touch()
    assert process.wait(LIMIT) == 0
    assert len(server.received) == 2
    text = _texts(server)
    assert text.count("rose to") == 1
    told = "  at chance\n\n" + CHANCE_TEXT + "\n\ncommand: "
    assert text.count(told) == text.count("  at chance\n") == 1
    assert text.count("There was no output for 0.0333 minutes.") == 2


def test_chance_is_told_at_once(tmp_path: Path, server: Server) -> None:
    """Even where nothing follows."""
    ran = Wrapped(tmp_path, ["sh", "-c", SAY + "; while [ ! -e go ]; do sleep 0.05; done", "sh", CHANCE], *TO)
    [mail] = server.wait()
    assert mail.subject.endswith(": at chance")
    assert mail.text.replace("\r\n", "\n").startswith(CHANCE_TEXT + "\n\n")
    (tmp_path / "go").touch()
    ran.end(0)


def test_mail_never_changes_the_status(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without settings, nor with a server that is not there, nor with a wrong address."""

    def problem(*options: str) -> list[str]:
        ran = Wrapped(tmp_path, shell("echo out; exit 5"), *options).end(5)
        assert ran.out == ran.output() == b"out\n"
        ran.log.unlink()
        return [line for line in ran.err.decode().splitlines() if "log in" not in line]

    monkeypatch.setenv("FAIRSEQ_CLOZE_MAIL_PORT", "1")
    said = problem("--email", "a@example.org")
    assert len(said) >= 1 and all(line.startswith("fairseq-cloze run: ") for line in said), said
    [said_once] = problem("--email", "nonsense")
    assert "nonsense" in said_once
    monkeypatch.delenv("FAIRSEQ_CLOZE_MAIL_HOST")
    [said_once] = problem("--email", "a@example.org")
    assert "no mail will be sent" in said_once
    assert problem() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nobody_has_to_wait_for_the_mail(tmp_path: Path, server: Server, number: signal.Signals) -> None:
    server.replies["GREETING"] = [HANG] * 9
    ran = Wrapped(tmp_path, shell("exit 3"), *TO)
    until(lambda: "status" in ran.facts() and server.replies["GREETING"] != [HANG] * 9)
    assert ran.process.poll() is None
    ran.process.send_signal(number)
    assert ran.process.wait(10) == 3


@pytest.mark.slow
def test_figures_in_a_flood(tmp_path: Path, server: Server) -> None:
    """Where more is told than can be read in passing, the last figures are there, and the command does not wait."""
    code = f"""
import os
fd = os.open(os.environ["FAIRSEQ_CLOZE_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(fd, {valid(10, 10.0)!r}.encode() + b"\\n")
for _ in range(30): os.write(fd, (b"y" * 9 + b"\\n") * 100_000)
os.write(fd, {valid(90, 60.0)!r}.encode() + b"\\n")
"""
    ran = Wrapped(tmp_path, python(code), "--name", "x").end(0)
    assert ran.facts()["last metrics"] == "valid loss 1.25, accuracy 60 at update 90"
    assert ran.log.with_suffix(".events.jsonl").stat().st_size > 30_000_000


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    """It is followed from where it ends, and nothing is written beside the log."""
    own = tmp_path / "own.jsonl"
    own.write_text(valid(10, 99.0) + "\n")
    env = {"FAIRSEQ_CLOZE_EVENTS": str(own)}
    ran = Wrapped(tmp_path, ["sh", "-c", SAY, "sh", INNER], "--name", "x", env=env).end(0)
    assert ran.facts()["last metrics"] == "training loss 1.386, accuracy 31.5 at update 20"
    assert list((tmp_path / "logs").iterdir()) == [ran.log]


STAMP = "2026-11-24 03:12:00 | INFO |"
LABELLED = (
    f"[default0]:{STAMP} train_inner | epoch 001:      4 / 9 loss=1.25, accuracy=31.5, num_updates=4",
    f"3: {STAMP} valid | epoch 001 | valid on 'valid' subset | loss 1.5 | accuracy 40 | num_updates 4",
    f'node7 train[7]: {STAMP} valid | {{"valid_loss": 1, "valid_accuracy": "45", "valid_num_updates": 8}}',
)


def test_figures_of_a_training_without_events(tmp_path: Path, server: Server) -> None:
    """Its lines are read, with the labels that launchers put before them; a new best is mailed; no file is made."""
    ran = Wrapped(tmp_path, ["printf", "%s\\n", *LABELLED], *TO, "--name", "x").end(0)
    figures = "valid loss 1, accuracy 45 at update 8; training loss 1.25, accuracy 31.5 at update 4"
    assert ran.facts()["last metrics"] == figures
    assert list((tmp_path / "logs").iterdir()) == [ran.log]
    assert "Accuracy on valid rose to 45 from 40 at update 8." in server.received[0].text


def test_events_go_before_lines(tmp_path: Path) -> None:
    ran = Wrapped(tmp_path, ["sh", "-c", f'echo "{LABELLED[0]}"; {SAY}', "sh", valid(20, 27.5)]).end(0)
    assert ran.facts()["last metrics"] == "valid loss 1.25, accuracy 27.5 at update 20"


def test_a_real_training(tmp_path: Path, data_bin: Path, pretrained: Path) -> None:
    options = ("--finetune-from-model", pretrained / "model.pt", "--save-dir", tmp_path / "save", "--max-update", "3")
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, *FINETUNE, *options, "--no-save")
    ran = Wrapped(tmp_path, command, "--name", "x").end(0)
    figures = r"valid loss [\d.]+, accuracy [\d.]+ at update 3; training loss [\d.]+, accuracy [\d.]+ at update 3"
    assert re.fullmatch(figures, ran.facts()["last metrics"])
    events = ran.log.with_suffix(".events.jsonl").read_bytes()
    assert events == (tmp_path / "save" / "metrics.jsonl").read_bytes()


def test_script_with_addresses(tmp_path: Path, server: Server) -> None:
    env: dict[str, str] = {"FAIRSEQ_CLOZE_EMAIL": "a@example.org:b@example.org,c@example.org"}
    run("bash", ROOT / "scripts" / "log.sh", "false", cwd=tmp_path, code=1, env=env)
    [mail] = server.received
    assert mail.to == ["a@example.org", "b@example.org", "c@example.org"]
