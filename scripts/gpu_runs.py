"""What parts of ``gpu_check.py`` have in common: shapes, commands with a time, and what a training's log says."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ("--user-dir", ROOT / "fairseq_cloze", "--task", "cloze_ranking")
POSITIONS = 512

#: Shapes to train, by name, as the fields of an architecture; what is not named is RoBERTa's.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "encoder_layers": 2,
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 256,
        "encoder_attention_heads": 4,
    },
    "base": {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
    },
    "large": {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
    },
}
_MODERN = {
    **{"norm_first": True, "gated": True, "without_biases": True, "layer_norm_eps": 1e-5},
    **{"rotary_base": 160000.0, "local_rotary_base": 10000.0, "local_attention": 128, "global_every": 3},
}
SHAPES["tiny modern"] = {**SHAPES["tiny"], "encoder_layers": 4, **_MODERN, "local_attention": 16}
#: ModernBERT-large's (Warner et al., 2024).
SHAPES["modern"] = {**SHAPES["large"], "encoder_layers": 28, "encoder_ffn_embed_dim": 2624, **_MODERN}


def shape_options(shape: str) -> list[Any]:
    """A shape as options of ``fairseq-train``."""
    options: list[Any] = ["--arch", "cloze_roberta", "--from-scratch", "--max-positions", POSITIONS]
    for name, value in SHAPES[shape].items():
        option = f"--{name.replace('_', '-')}"
        options += [option] if value is True else [option, value]
    return options


class Failed(Exception):
    """A command ended as it should not."""


def run_python(log: Path, *arguments: Any) -> str:
    """Run Python in the repository; what it prints, kept in *log*.

    Raises:
        Failed: it ended with another exit status than 0
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "wb") as out:
        command = [sys.executable, *map(str, arguments)]
        ran = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    text = log.read_text(encoding="utf-8", errors="replace")
    if ran.returncode:
        raise Failed(f"{log.stem} ended with exit status {ran.returncode}\n{text[-3000:]}")
    return text


def end_group(group: int) -> None:
    """End a process that leads a group, and all that it began there; nothing where they ended."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._start


def summarise(text: str) -> dict[str, Any]:
    """Losses, loss scale and overflows of a training."""
    rows = log_rows(text, "train_inner")
    out: dict[str, Any] = {"updates": len(rows), "first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"]}
    scales = [row["loss_scale"] for row in rows if "loss_scale" in row]
    if scales:
        out["overflows"] = text.count("gradient overflow detected")
        out["loss_scale"] = {"min": min(scales), "max": max(scales), "last": scales[-1]}
    return out


def log_rows(text: str, tag: str) -> list[dict[str, Any]]:
    """JSON log lines of a tag."""
    rows = []
    for line in text.splitlines():
        match = re.search(rf"\| {tag} \| (\{{.*\}})$", line)
        if match:
            rows.append({key: number(value) for key, value in json.loads(match.group(1)).items()})
    return rows


def number(value: Any) -> Any:
    """A number where the text is one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
