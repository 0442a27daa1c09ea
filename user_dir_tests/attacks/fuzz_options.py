"""Fuzz: options of a checkpoint, and what belongs to it, as JSON."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from fairseq_cloze.errors import ClozeError

from ..support.models import tiny_state
from .fuzz_checkpoint import look_at

_STATE = tiny_state()


def seeds() -> list[bytes]:
    """Options in both places, progress and a task's state."""
    model = vars(_STATE["args"])
    rest = {
        "optimizer_history": [{"num_updates": 3}],
        "extra_state": {"train_iterator": {"epoch": 2, "iterations_in_epoch": 0}},
        "task_state": {"fairseq_cloze": {"version": 1, "view": "joint", "contrast": 0.7, "encoding": {}}},
    }
    return [json.dumps(each).encode() for each in ({"args": model, **rest}, {"cfg": {"model": model, "task": {}}})]


def attack(data: bytes) -> None:
    """Whatever the options are, a checkpoint is described or refused in a line."""
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    state = {**(given if isinstance(given, dict) else {"args": given}), "model": _STATE["model"]}
    if isinstance(state.get("args"), dict):
        state["args"] = Namespace(**state["args"])
    try:
        look_at(state)
    except ClozeError as error:
        assert "\n" not in str(error)
