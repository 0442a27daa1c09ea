"""Passwords and tokens stand in no log, record, mail or message."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_cloze.runs.lock import RunLock, run_record
from fairseq_cloze.secrecy import HIDDEN, hide_in_command, hide_secrets

from .support.commands import run
from .support.mail_server import Server, fresh_home
from .support.running import Wrapped, shell

SECRET = "qX7-s3cret.Zw9"


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["train", "--password", "@", "x"], ["train", "--password", "***", "x"]),
        (["--password=@ @"], ["--password=***"]),
        (["env", "HF_TOKEN=@", "WANDB_API_KEY=@", "x"], ["env", "HF_TOKEN=***", "WANDB_API_KEY=***", "x"]),
        (["AWS_SECRET_ACCESS_KEY=@", "PGPASSWORD=@"], ["AWS_SECRET_ACCESS_KEY=***", "PGPASSWORD=***"]),
        (["sh", "-c", "export MYSQL_PWD='@'; x"], ["sh", "-c", "export MYSQL_PWD=***; x"]),
        (["sh", "-c", "curl --token @ -u me:@ x"], ["sh", "-c", "curl --token *** -u me:*** x"]),
        (["curl", "-u", "me:@", "-H", "Authorization: Bearer @"], ["curl", "-u", "me:***", "-H", "Authorization: ***"]),
        (["git", "clone", "https://me:@@a.org/x", "ssh://git@a.org/x"], ["git", "clone", "https://***@a.org/x", "ssh://git@a.org/x"]),
        (["http://a.org/?api_key=@&y=1", '{"token": "@"}'], ["http://a.org/?api_key=***&y=1", '{"token": ***}']),
        (["-ume:@", "--user=me:@", "--oauth2-bearer", "@"], ["-ume:***", "--user=me:***", "--oauth2-bearer", "***"]),
        (["-c", "http.header=authorization: bearer @"], ["-c", "http.header=authorization: bearer ***"]),
        (["x", "--password", "-@"], ["x", "--password", "***"]),
        (["http://a.org/?X-Amz-Signature=@&y=1&sig=@"], ["http://a.org/?X-Amz-Signature=***&y=1&sig=***"]),
        (["eyJhbGci.eyJzdWIi.abcdefghijklmnopqrst"], ["***"]),
        (["t.py", "wandb.api_key=@", "hf_abcdefghijklmnopqrst"], ["t.py", "wandb.api_key=***", "***"]),
    ],
)  # fmt: skip
def test_commands(words: list[str], hidden: list[str]) -> None:
    assert (
        hide_in_command([re.sub("@(?!a.org)", SECRET, word) if "git@" not in word else word for word in words], {})
        == hidden
    )


@pytest.mark.parametrize(
    "words",
    [
        ["fairseq-train", "data-bin", "--max-tokens", "8192", "--pad-token-id", "3", "--user-dir", "fairseq_cloze"],
        [
            "python",
            "-u",
            "train.py",
            "-uall",
            "--user=me",
            "PWD=/home",
            "--bypass",
            "--author",
            "me",
            "monkey=3",
            "n_tokens=5",
        ],
    ],
)
def test_what_is_no_secret_stays(words: list[str]) -> None:
    assert hide_in_command(words, {"HOME": "train.py", "X_TOKEN": "abc"}) == words


VALUES = st.text("abcXYZ019+/=-_.", min_size=6).filter(lambda text: not text.startswith("-"))


@given(
    st.sampled_from(["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "FAIRSEQ_CLOZE_MAIL_PASSWORD", "db.pass"]),
    st.sampled_from(["{}={}", "--{}={}", "https://{}:{}@example.org", "sh -c 'export {}={}'", "X-{}: {}"]),
    VALUES,
)
def test_no_secret_is_left(name: str, form: str, value: str) -> None:
    word = form.format(name, value)
    assert value not in hide_in_command([word], {})[0].replace(name, "")
    assert value not in hide_secrets(f"failed: {word}", {"MY_TOKEN": value})


def test_messages() -> None:
    """Text has no words to go by, but addresses have."""
    assert hide_secrets(f"401 for https://me:{SECRET}@a.org/x?a=1&access_token={SECRET}&design=2", {}) == (
        "401 for https://***@a.org/x?a=1&access_token=***&design=2"
    )


def test_a_run_keeps_the_secrets_of_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the log's head, its name, the mail's text and subject, nor in what the mail shows of the output."""
    home = tmp_path / "home"
    home.mkdir()
    fresh_home(home, monkeypatch)
    code = shell(f"echo using $HF_TOKEN >&2; : TOKEN={SECRET}2; exit 3")
    with Server() as server:
        env = {"HOST": "127.0.0.1", "PORT": str(server.port), "SECURITY": "plain", "FROM": "job@example.org"}
        env = {f"FAIRSEQ_CLOZE_MAIL_{key}": value for key, value in env.items()} | {"HF_TOKEN": SECRET}
        ran = Wrapped(tmp_path, [*code, "--password", f"{SECRET}3"], "--email", "a@example.org", env=env).end(3)
        [mail] = server.received
    head = ran.log.read_text().partition("# started")[0]
    assert SECRET not in head and SECRET not in mail.text + mail.subject + ran.log.name
    assert f"using {HIDDEN}" in mail.text
    assert ran.output().decode() == f"using {SECRET}\n"  # which is the command's own


def test_a_training_records_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fairseq-train", "--token", SECRET, f"https://me:{SECRET}@example.org"])
    RunLock(tmp_path)
    assert run_record(tmp_path)["command"] == ["fairseq-train", "--token", HIDDEN, f"https://{HIDDEN}@example.org"]


def test_an_error_shows_no_secret() -> None:
    ran = run("fairseq-cloze", "compare", f"https://me:{SECRET}@example.org/a", SECRET, code=1, env={"X_TOKEN": SECRET})
    assert SECRET not in ran.text and ran.text.startswith("Error: https:/***@example.org/a: no such")


def test_a_report_shows_no_secret(tmp_path: Path) -> None:
    from fairseq_cloze.report.page import report

    settings = {"model": {"_name": "x"}, "checkpoint": {"finetune_from_model": f"https://me:{SECRET}@example.org/x"}}
    event = {"type": "started", "update": 0, "settings": settings}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(event) + "\n")
    made = report([tmp_path / "metrics.jsonl"]).html()
    assert SECRET not in made and f"from https://{HIDDEN}@example.org/x" in made
