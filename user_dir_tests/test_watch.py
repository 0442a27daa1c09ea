from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from fairseq_cloze.validation import read_validation

from .conftest import FINETUNE, TRAIN_OPTIONS, run, start, write_passage

LIMIT = 60.0  # seconds to wait for anything


@pytest.fixture(scope="session")
def small_bin(tmp_path_factory: pytest.TempPathFactory, pretrained: Path) -> Path:
    """A data-bin whose valid split is a passage of three blanks."""
    from fairseq_cloze.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    options = [["cold", "old", "warm", "calm"]] * 3
    write_passage(
        folder / "valid" / "a.json", "It was a _ day , then a _ one , then a _ one .", options, ["A", "B", "C"]
    )
    write_passage(folder / "unlabelled" / "a.json", "It was a _ day .", options[:1])
    splits = {"train": [folder / "valid"], "valid": [folder / "valid"], "test": [folder / "unlabelled"]}
    prepare(splits, pretrained, folder / "bin", workers=1)
    return folder / "bin"


@pytest.fixture(scope="session")
def template(finetuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint without the state of its optimizer."""
    import torch

    state = torch.load(finetuned / "checkpoint_last.pt", weights_only=True)
    path = tmp_path_factory.mktemp("template") / "template.pt"
    torch.save({key: state[key] for key in state if key != "last_optimizer_state"}, path)
    return path


WRITER = """
import os, sys, time, torch
template, folder, first, last, keep, pause = sys.argv[1:]
state = torch.load(template, weights_only=True)
bias = state["model"]["encoder.lm_head.bias"]
for number in range(int(first), int(last) + 1):
    torch.manual_seed(number)
    state["model"]["encoder.lm_head.bias"] = bias + torch.randn_like(bias)
    state["optimizer_history"][-1]["num_updates"] = 10 * number
    path = os.path.join(folder, f"checkpoint_1_{10 * number}.pt")
    torch.save(state, path + ".tmp")
    os.rename(path + ".tmp", path)
    if number > int(keep):
        os.remove(os.path.join(folder, f"checkpoint_1_{10 * (number - int(keep))}.pt"))
    time.sleep(float(pause))
"""


def write(template: Path, folder: Path, first: int, last: int, keep: int = 10**6, pause: float = 0.0) -> List[Any]:
    """The command that writes checkpoints of 10 * first to 10 * last updates, and prunes all but the last *keep*."""
    return [sys.executable, "-c", WRITER, template, folder, first, last, keep, pause]


def watch(*arguments: Any, **kwargs: Any) -> subprocess.Popen[str]:
    return start("fairseq-cloze", "watch", *arguments, **kwargs)


def until(condition: Callable[[], Any], process: Any = None) -> Any:
    """Wait for a condition; what it returned."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def names(save_dir: Path) -> List[str]:
    return [record["checkpoint"] for record in read_validation(save_dir / "validation.jsonl") if "accuracy" in record]


def test_smoke(tmp_path: Path, template: Path, small_bin: Path) -> None:
    process = watch(tmp_path, small_bin, "--until-idle", "3s")
    until(lambda: (tmp_path / ".watch/valid/lock").exists())
    t = time.time()
    run(*write(template, tmp_path, 1, 200, 3))
    print("written in", time.time() - t)
    t = time.time()
    print(process.communicate()[0])
    print("scored in", time.time() - t, len(names(tmp_path)))
