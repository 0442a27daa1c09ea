"""The scripts people and CI run."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze import register
from fairseq_cloze.ranking.compare import compare

from .support.commands import BIN, PASSAGES, ROOT, Ran, run, start, warm_path

#: What the virtual environment gets unless another one is asked for.
TORCH = "2.13.0"

SCRIPTS = [*(ROOT / "scripts").glob("*.py"), *(ROOT / "examples").rglob("*.py")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_scripts_import_is_there(path: Path) -> None:
    """Also what they import late, when a benchmark has run for an hour."""
    register()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fairseq_cloze"):
            module = importlib.import_module(str(node.module))
            for each in node.names:
                if not hasattr(module, each.name):  # then it is a module
                    importlib.import_module(f"{node.module}.{each.name}")


@pytest.mark.slow
def test_quickstart_in_a_copy(tmp_path: Path) -> None:
    """The whole script, from a copy of the repository, with an environment that is already set up.

    What an earlier run left, complete or not, goes.
    """
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, copy)
    for name in ("examples", "fairseq_cloze", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for split in ("train", "valid"):  # fewer passages take less time
        for file in (copy / "examples" / "passages" / split).iterdir():
            if not (PASSAGES / split / file.name).exists():
                file.unlink()
    venv = tmp_path / "venv"
    venv.mkdir()
    env = {
        "VENV": str(venv),
        "QUICKSTART_UPDATES": "10",
        **warm_path(venv / "bin", "fairseq-cloze", "fairseq-validate"),
    }
    for name in ("python", "python3", "fairseq-train"):
        (venv / "bin" / name).symlink_to(BIN / name)
    checksum = run("cksum", cwd=copy, stdin=open(copy / "pyproject.toml")).text.strip()
    (venv / "installed").write_text(f"fairseq,hub,plot,test {TORCH} {checksum}\nfairseq {TORCH} {checksum}\n")
    out = copy / "work" / "quickstart"
    left = out / "checkpoints" / "checkpoint_last.pt"
    left.parent.mkdir(parents=True)
    left.write_text("half a checkpoint")
    (out / "data-bin").mkdir()
    ran = run("bash", "scripts/quickstart.sh", cwd=copy, env=env)
    lines = ran.text.splitlines()
    assert [line for line in lines if line.startswith("== ")] == [
        "== 1 of 7: prepare: passages -> data-bin",
        "== 2 of 7: what the pretrained model knows (examples/pretrained/mini)",
        "== 3 of 7: calibrate it",
        "== 4 of 7: fine-tune it (log: work/quickstart/checkpoints/train.log)",
        "== 5 of 7: validate with fairseq's own command",
        "== 6 of 7: answer the test passages",
        "== 7 of 7: the page",
    ]
    assert any(line.startswith("update 10 of 10, epoch ") for line in lines)
    assert any(line.startswith("loss ") and "| n_blanks 102 |" in line for line in lines)
    compared = compare(out / "zero-shot-answers.json", out / "fine-tuned-answers.json")
    assert compared.n_blanks == 1031
    start = lines.index("The test passages, before (A) and after (B) training; guessing gives 25%")
    assert lines[start + 3 : start + 14] == compared.lines()[2:]
    assert compared.accuracy_a > 38 and compared.accuracy_b > 38
    answers = json.loads((out / "answers.json").read_text())
    assert sum(map(len, answers.values())) == 1031
    assert f"Look at every passage with every answer: {out}/report.html" in lines
    page = (out / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "zero-shot-answers" in page and "fine-tuned-answers" in page


def test_setting_up_again_needs_no_network(tmp_path: Path) -> None:
    """Neither the same extras nor others that were installed before are asked of pip again."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    checksum = run("cksum", stdin=open(ROOT / "pyproject.toml")).text.strip()
    (venv / "installed").write_text(f"fairseq {TORCH} {checksum}\nfairseq,hub {TORCH} {checksum}\n")
    for extras in ("fairseq", "fairseq,hub"):  # there is no python in this venv to be called
        assert run("bash", ROOT / "scripts" / "setup.sh", extras, env={"VENV": str(venv)}).text == ""


# -- the whole round -------------------------------------------------------------------------------------------------


def test_settings_of_the_whole_round(tmp_path: Path) -> None:
    """Each variable becomes an option, where it is set; options of the call stand behind them."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "finetune.sh", tmp_path / "scripts")
    (tmp_path / "fairseq-cloze").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"; exit 75\n")
    (tmp_path / "fairseq-cloze").chmod(0o755)

    def words(*options: str, **settings: str) -> list[str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **settings}
        return run("bash", "scripts/finetune.sh", *options, cwd=tmp_path, env=env, code=75).text.splitlines()

    examples = f"{tmp_path}/scripts/../examples/passages"
    always = ["--log-format", "json", "--log-interval", "5"]
    assert words() == [
        *("train", f"{examples}/train", "--valid", f"{examples}/valid", "--pretrained", "roberta-base"),
        *("--out", "work/finetune", "--watch", "cpu", *always),
    ]
    settings = {"TRAIN": "a b", "VALID": "c", "WEIGHTS": "w", "OUT": "o", "WATCH_DEVICE": "cuda:1", "UPDATES": "9"}
    assert words("--seed", "2", WARMUP="3", LR="1e-5", MAX_TOKENS="99", SAVE_EVERY="4", **settings) == [
        *("train", "a b", "--valid", "c", "--pretrained", "w", "--out", "o", "--watch", "cuda:1", *always),
        *("--max-update", "9", "--warmup-updates", "3", "--lr", "1e-5", "--max-tokens", "99"),
        *("--save-interval-updates", "4", "--seed", "2"),
    ]


def test_the_whole_round_told_to_stop_and_started_again(tmp_path: Path, pretrained: Path) -> None:
    """As a batch system does it: the signal goes to every process, then the same command is started again."""
    env = {"WEIGHTS": str(pretrained), "OUT": "out", "UPDATES": "60", "SAVE_EVERY": "25", "VENV": str(BIN.parent)}
    env.update(TRAIN=str(PASSAGES / "train"), VALID=str(PASSAGES / "valid"))
    command = ("bash", ROOT / "scripts" / "log.sh", "bash", ROOT / "scripts" / "finetune.sh", "--max-tokens", "1024")
    process = start(*command, cwd=tmp_path, env=env, start_new_session=True)
    log, checkpoints = tmp_path / "out" / "train.log", tmp_path / "out" / "checkpoints"
    while process.poll() is None and not (log.exists() and '"num_updates": "40"' in log.read_text()):
        time.sleep(0.05)
    # far from 32, where the epoch ends: it is saved again there, once validated
    process.send_signal(signal.SIGUSR1)  # which log.sh passes on to all that it has started
    text, _ = process.communicate()
    assert process.returncode == 75, text
    stopped = int(next(line for line in text.splitlines() if line.startswith("Stopped after update ")).split()[3][:-1])
    assert 30 <= stopped < 60

    ran = run(*command, cwd=tmp_path, env=env)
    words = Ran(0, log.read_text().partition("Stopped after update ")[2])
    assert f"resuming from {Path('out') / 'checkpoints' / 'checkpoint_last.pt'}" in words.text
    updates = [row["num_updates"] for row in words.metrics("train_inner")]
    assert min(updates) > stopped and max(updates) == 60
    assert " | INFO | " not in text + ran.text
    told = [int(number) for number in re.findall(r"\nupdate (\d+) of 60, ", ran.text)]
    assert told[0] >= stopped and told[-1] == 60
    assert ran.text.count("the log of fairseq-train: out/train.log\n") == 1
    rows = [json.loads(line) for line in (checkpoints / "validation.jsonl").read_text().splitlines()]
    scored: dict[int, Any] = {row["updates"]: row for row in rows}
    assert len(scored) == len(rows), "a checkpoint was scored twice"
    assert {25, stopped, 50, 60} <= set(scored)
    assert all(row["n_blanks"] == 102 for row in rows)
    best = max(row["accuracy"] for row in rows)
    assert (checkpoints / "checkpoint_best_accuracy.pt").is_file()
    assert f"{best:.2f}" in (checkpoints / "validation.txt").read_text()
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name.split("-", 1)[1] for log in logs] == [
        *("finetune.events.jsonl", "finetune.log"),
        *("finetune.events.jsonl", "finetune.log"),
    ]
    assert [line for line in logs[1].read_text().splitlines() if line.startswith("# status")] == ["# status: 75"]
    assert [line for line in logs[3].read_text().splitlines() if line.startswith("# status")] == ["# status: 0"]
