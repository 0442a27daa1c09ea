"""That a run goes on where it was told to stop is in test_training.py, where it is killed, too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_cloze.data.prepare import prepare
from fairseq_cloze.runs.events import read_events
from fairseq_cloze.runs.lock import RunState, run_state

from ..support.commands import FINETUNE, PASSAGES, TRAIN_OPTIONS, free_port, read_until, run, start, train


def training(data_bin: Path, save_dir: Path, pretrained: Path, *options: Any) -> subprocess.Popen[str]:
    return start(
        *("fairseq-train", data_bin, *TRAIN_OPTIONS, *FINETUNE, "--finetune-from-model", pretrained / "model.pt"),
        *("--save-dir", save_dir, *options),
    )


def told(process: subprocess.Popen[str], words: str, number: int) -> tuple[int, str]:
    """Send a signal when the process has said some words; its exit status and what it said after them."""
    read_until(process, words)
    process.send_signal(number)
    text, _ = process.communicate()
    return process.returncode, text


def test_one_of_two_workers_is_told(data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    port = free_port()
    ranks: list[subprocess.Popen[str]] = [
        training(
            *(data_bin, tmp_path, pretrained, "--max-epoch", "200", "--distributed-init-method"),
            *(f"tcp://127.0.0.1:{port}", "--distributed-world-size", "2", "--distributed-rank", rank),
            *("--device-id", rank, "--distributed-no-spawn", "--distributed-backend", "gloo"),
            *("--ddp-backend", "legacy_ddp"),
        )
        for rank in (0, 1)
    ]
    read_until(ranks[0], '"num_updates": "5"')
    ranks[1].send_signal(signal.SIGUSR1)
    texts = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [75, 75], texts
    assert "Traceback" not in texts[0] + texts[1]
    last = tmp_path / "checkpoint_last.pt"
    updates = torch.load(last, weights_only=True)["optimizer_history"][-1]["num_updates"]
    assert texts[0].splitlines()[-1] == (
        f"Stopped after update {updates}, as it was told to. {last} is saved: start the same command again to go on "
        "(exit status 75)"
    )
    assert run_state(tmp_path) is RunState.REQUEUED
    stopped = read_events(tmp_path / "metrics.jsonl")[-1]  # of the first worker alone
    assert (stopped["type"], stopped["update"], stopped["status"]) == ("stopped", updates, 75)
    assert stopped["text"] == texts[0].splitlines()[-1]
    numbers = [event["update"] for event in read_events(tmp_path / "metrics.jsonl") if event["type"] == "update"]
    assert numbers == list(range(1, updates + 1))


def test_a_validation_is_broken_off(data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    passages = [json.loads(path.read_text()) for path in sorted((PASSAGES / "train").rglob("*.json"))]
    many.write_text(
        "".join(json.dumps({**passages[n % len(passages)], "id": str(n)}) + "\n" for n in range(15 * len(passages)))
    )
    prepare({"train": [PASSAGES / "train"], "valid": [many]}, pretrained, tmp_path / "bin", workers=1)
    options = ("--batch-size-valid", "1", "--validate-interval-updates", "2")
    process = training(tmp_path / "bin", tmp_path / "save", pretrained, *options)
    status, text = told(process, "begin validation on", signal.SIGTERM)
    assert status == 75, text
    assert '"valid_loss"' not in text
    assert text.splitlines()[-1].startswith("Stopped after update 2, as it was told to.")
    again = (tmp_path / "bin", tmp_path / "save", *FINETUNE, "--max-update", "3", "--disable-validation")
    assert [row["num_updates"] for row in train(*again).metrics("train_inner")] == [3.0]
    ended = train(*again)  # started again after its end
    events = [(event["type"], event["update"]) for event in read_events(tmp_path / "save" / "metrics.jsonl")]
    assert events == [
        *[("started", 0), ("update", 1), ("update", 2), ("stopped", 2)],
        *[("resumed", 2), ("update", 3), ("epoch", 3), ("finished", 3)],
        *[("resumed", 3), ("finished", 3)],
    ]
    assert ended.metrics("train_inner") == [] and "nothing left to do: 3 of 3 updates are done" in ended.text


def test_nothing_is_saved_where_that_is_forbidden(data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    process = training(data_bin, tmp_path, pretrained, "--max-epoch", "200", "--no-last-checkpoints")
    status, text = told(process, '"num_updates": "3"', signal.SIGUSR1)
    assert status == 75
    assert text.splitlines()[-1].endswith(
        ", as it was told to. Nothing was saved: --no-save or --no-last-checkpoints forbids it"
    )


def test_two_trainings_into_one_folder(data_bin: Path, pretrained: Path, tmp_path: Path) -> None:
    first = training(data_bin, tmp_path, pretrained, "--max-epoch", "200")
    try:
        read_until(first, '"num_updates": "1"')
        ran = train(data_bin, tmp_path, *FINETUNE, "--finetune-from-model", pretrained / "model.pt", code=1)
    finally:
        first.kill()
        first.communicate()
    assert ran.text.splitlines()[-1].startswith(
        f"Error: --save-dir {tmp_path}: another training writes there (process {first.pid} on "
    )


PARENT = """
import multiprocessing, signal, sys, time
from fairseq_cloze.plugin import stopping as requeue

def work(path):
    requeue.listen()
    open(path, "w").close()
    while not requeue.told():
        time.sleep(0.02)
    sys.exit(75)

def main(path):
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(path,))
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)

if __name__ == "__main__":
    if "alone" in sys.argv:
        main = lambda path: (print("up", flush=True), time.sleep(60))
    requeue.pass_on()
    main(sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_process_that_only_waits_for_workers_passes_signals_on(tmp_path: Path, number: int) -> None:
    import os
    import time

    (tmp_path / "parent.py").write_text(PARENT)
    process = start(sys.executable, tmp_path / "parent.py", tmp_path / "up", env={"PYTHONPATH": os.getcwd()})
    for _ in range(600):
        if (tmp_path / "up").exists():
            break
        time.sleep(0.1)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 75, text


def test_before_there_are_workers_a_signal_ends_it(tmp_path: Path) -> None:
    import os

    (tmp_path / "parent.py").write_text(PARENT)
    process = start(sys.executable, tmp_path / "parent.py", "-", "alone", env={"PYTHONPATH": os.getcwd()})
    assert told(process, "up", signal.SIGTERM)[0] == -signal.SIGTERM


@pytest.mark.slow
def test_other_commands_do_not_listen(data_bin: Path) -> None:
    script = (
        "import signal, fairseq_cloze; fairseq_cloze.register(); "
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL is signal.getsignal(signal.SIGUSR1)"
    )
    assert run(sys.executable, "-c", script).code == 0
