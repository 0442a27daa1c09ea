"""Trainings on a device, for ``gpu_check.py`` and ``gpu_measure.py``: which shapes, and what their logs say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ("--user-dir", ROOT / "fairseq_cloze", "--task", "cloze_ranking")

#: Shapes to train, by name: layers, width, feed-forward width, attention heads.
SHAPES = {"tiny": (2, 64, 256, 4), "base": (12, 768, 3072, 12), "large": (24, 1024, 4096, 16)}


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
