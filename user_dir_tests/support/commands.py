"""Real commands, started as users start them, and the options of small trainings."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .warm import WarmProcess, at_start, on_path, packages_for, share

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "fairseq_cloze"
PASSAGES = ROOT / "user_dir_tests" / "support" / "passages"  # a fixed half of the examples
BIN = Path(sys.executable).parent


@dataclass
class Ran:
    """A finished command; ``text`` is its standard output and standard error together."""

    code: int
    text: str

    def metrics(self, tag: str) -> list[dict[str, Any]]:
        """The JSON log lines of a tag (``train_inner``, ``train``, ``valid``): names without it, numbers as numbers."""
        rows = []
        for line in self.text.splitlines():
            parts = line.split(" | ", 3)
            if len(parts) == 4 and parts[2] == tag and parts[3].startswith("{"):
                values = json.loads(parts[3]).items()
                rows.append(
                    {key[len(tag) + 1 :] if key.startswith(f"{tag}_") else key: _number(v) for key, v in values}
                )
        return rows


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def environment(**extra: str) -> dict[str, str]:
    """The environment of every command: one thread, no hub."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}:{os.environ['PATH']}", **extra}


_BASE = environment()


def share_warm_processes() -> None:
    """Processes that this one starts fork their commands from the same warm ones."""
    if sys.platform == "linux":
        share(_BASE)


_KNOWN = {"cwd", "env", "stdin", "stdout", "stderr", "text", "start_new_session"}


def start(*command: Any, real: bool = False, warm: tuple[str, ...] = (), **kwargs: Any) -> subprocess.Popen[str]:
    """Start a command; its output is one text.

    fairseq's commands and ours are forked from a process that has torch and fairseq imported (:mod:`.warm`), unless
    their environment or options ask for one from scratch.

    Args:
        command: name and arguments
        real: start Python from scratch, as the test is about the process
        warm: fork ``python -c CODE`` or ``python SCRIPT``, too, from a process that has these packages imported
        kwargs: ``env`` (what to add), ``cwd`` and other options of ``Popen``
    """
    words = [str(part) for part in command]
    options = {"cwd": ROOT, **kwargs, "env": environment(**kwargs.get("env", {}))}
    options.update(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    base = _BASE if not warm else {**_BASE, **at_start(options["env"])}
    needed = (warm if sys.platform == "linux" else ()) or packages_for(words[0], options["env"], base)
    if real or not needed or not {*options} <= _KNOWN:
        return subprocess.Popen(words, **options)
    words[:1] = [] if words[0] == sys.executable and words[1] != "-c" else [str(BIN / words[0])]
    return WarmProcess(needed, base, words, **options)


def run(*command: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run a command to its end and check its exit status."""
    process = start(*command, **kwargs)
    text, _ = process.communicate()
    assert process.returncode == code, f"exit status {process.returncode}: {command}\n{text}"
    return Ran(process.returncode, text)


def warm_path(folder: Path, *names: str) -> dict[str, str]:
    """Variables for :func:`run` with which a script's commands of these names are forked from warm processes, too."""
    return on_path(folder, _BASE, names)


TRAIN_OPTIONS = (
    *("--user-dir", PLUGIN, "--task", "cloze_ranking", "--criterion", "cloze_ranking"),
    *("--optimizer", "adam", "--lr", "1e-3", "--num-workers", "0", "--log-format", "json", "--log-interval", "1"),
)
FINETUNE = ("--arch", "cloze_roberta", "--max-tokens", "1024", "--max-epoch", "2", "--no-epoch-checkpoints")


def train(data_bin: Path, save_dir: Path, *options: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run fairseq-train with this plugin."""
    command = ("fairseq-train", data_bin, *TRAIN_OPTIONS, "--save-dir", save_dir, *options)
    return run(*command, code=code, **kwargs)


def validate(data_bin: Path, checkpoint: Path, *options: Any, code: int = 0, **kwargs: Any) -> Ran:
    """Run fairseq-validate with this plugin."""
    command = ("fairseq-validate", data_bin, "--user-dir", PLUGIN, "--task", "cloze_ranking", "--path", checkpoint)
    return run(*command, "--num-workers", "0", "--log-format", "json", *options, code=code, **kwargs)


def torchrun(folder: Path, command: str | Path, *arguments: Any) -> Ran:
    """Run a command of ours or a Python script in two processes under torchrun.

    They are forked from a warm process, through a link in *folder*, which is made.
    """
    env = warm_path(folder, str(command))
    launcher = ("torchrun", "--nproc-per-node", "2", "--master-port", free_port())
    return run(*launcher, folder / Path(command).name, *arguments, env=env)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if words in line:
            return text
    raise AssertionError(f"never said {words}:\n{text}")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
