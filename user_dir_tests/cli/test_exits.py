"""However a command ends, it is with a status and a line; nothing is said to be shown that was not."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairseq_cloze import cli
from fairseq_cloze.generation.prose import TEMPORARY

from ..support.commands import environment, start

#: A call of each command that fails at once, as what it is to read is not there.
CALLS = {
    "examples": ["--out", "/dev/null/examples"],
    "convert": ["nix.txt", "--out", "passages.jsonl"],
    "prepare": ["--train", "nix", "--pretrained", "nix", "--out", "bin"],
    "import-hf": ["./nix", "--out", "weights"],
    "export-hf": ["nix.pt", "--out", "weights"],
    "clean": ["nix.pt", "plain.pt"],
    "learn-bpe": ["nix.txt", "--out", "weights"],
    "calibrate": ["nix.pt", "bin", "--out", "calibrated.pt"],
    "fit-batch": ["nix", "--finetune-from-model", "nix.pt"],
    "train": ["nix", "--pretrained", "nix", "--out", "out"],
    "evaluate": ["nix.pt", "bin"],
    "predict": ["nix.pt", "nix.jsonl", "--out", "answers.json"],
    "try": ["nix.pt"],
    "generate": ["nix.txt", "--out", "passages.jsonl"],
    "doctor": ["nix.pt"],
    "compare": ["nix.json", "nix.json"],
    "average": ["nix.pt", "--out", "mean.pt"],
    "run": ["--log-dir", "/dev/null/logs", "true"],
    "watch": ["checkpoints", "bin"],
    "mail": ["test"],
    "report": ["nix", "--out", "report.html"],
}
FULL = "Error: standard output: cannot be written (No space left on device)\n"


class Ended:
    """A command line run in this process, and how it ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *words: str, stdout: str = os.devnull) -> None:
        self.err = io.StringIO()
        with open(stdout, "w") as out, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", self.err)
            with pytest.raises(SystemExit) as end:
                cli.main(list(words), prog_name="fairseq-cloze")
        self.status, self.text = end.value.code, self.err.getvalue()


def test_every_command_is_tried() -> None:
    assert list(CALLS) == cli.COMMANDS


SLOW = pytest.param("fit-batch", marks=pytest.mark.slow)  # as it loads fairseq


@pytest.mark.parametrize("command", [SLOW if name == "fit-batch" else name for name in CALLS])
def test_what_is_missing_is_a_line(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    ended = Ended(monkeypatch, command, *CALLS[command])
    assert ended.status == 1 and ended.text.startswith("Error: ") and ended.text.count("\n") == 1, ended.text


@pytest.mark.parametrize("command", ["", *CALLS])
def test_a_full_disk_behind_standard_output(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Ended(monkeypatch, *command.split(), "--help", stdout="/dev/full")
    assert (ended.status, ended.text) == (1, FULL)


def test_lines_that_could_not_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that has done its work says so when its lines are lost."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ended = Ended(monkeypatch, "mail", "flush", stdout="/dev/full")
    assert (ended.status, ended.text) == (1, FULL)


def test_standard_output_is_tried_before_long_work() -> None:
    ran = subprocess.run(
        ["sh", "-c", "fairseq-cloze report x --out - >/dev/full; echo $?; fairseq-cloze report x --out - >&-; echo $?"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "1\n1\n"
    assert ran.stderr == (
        "Error: -: cannot be written (No space left on device); choose another file\n"
        "Error: -: cannot be written (Bad file descriptor); choose another file\n"
    )


def test_closed_files_and_pipes(tmp_path: Path) -> None:
    """As shells make them: a status, and a line where somebody can read it."""
    script = """
fairseq-cloze mail flush | exec true; echo "${PIPESTATUS[0]}"
fairseq-cloze --help | exec true; echo "${PIPESTATUS[0]}"
fairseq-cloze mail flush >&-; echo $?
fairseq-cloze mail flush 2>&-; echo $?
fairseq-cloze compare a b 2>/dev/full; echo $?
fairseq-cloze compare a b <&- >&- 2>&-; echo $?
"""
    env = environment(XDG_STATE_HOME=str(tmp_path), PYTHONUNBUFFERED="")  # what Python holds back is lost at its end
    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n") == ["1", "1", "1", "nothing waits to be sent", "0", "1", "1", ""]
    pipe = "Error: standard output: cannot be written (Broken pipe)\n"
    assert ran.stderr == f"{pipe}{pipe}Error: standard output: cannot be written (Bad file descriptor)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_signals_leave_nothing_half_done(number: signal.Signals, tmp_path: Path) -> None:
    process = start("fairseq-cloze", "generate", "-", "--out", tmp_path / "out.jsonl", stdin=subprocess.PIPE,
                    env={"TMPDIR": str(tmp_path)})  # fmt: skip
    while not list(tmp_path.glob(f"{TEMPORARY}*/stdin.txt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    text, _ = process.communicate()
    assert process.returncode == 128 + number
    assert text == (
        f"Error: {tmp_path}/out.jsonl: interrupted, nothing was kept; the same command makes the same passages again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_text_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    with pytest.raises(SystemExit):
        cli.main(["compare", "\udcff", "x"])
    sys.stderr.flush()
    assert sys.stderr.buffer.getvalue() == b"Error: \\xff: no such prediction file; check the path\n"  # type: ignore[attr-defined]
