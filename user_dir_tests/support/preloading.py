"""Imports that a process makes before others are forked from it."""

from __future__ import annotations

import importlib
import sys


def preload(packages: list[str]) -> None:
    """Import what commands need, and undo what that does to a process besides."""
    import gc
    import logging

    before = list(logging.root.handlers), logging.root.level
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # of which fairseq imports a part that is no more; threads
    for package in packages:
        importlib.import_module(package)
    del sys.modules["pyarrow"]
    logging.root.handlers[:], logging.root.level = before  # fairseq's commands set up the log themselves
    [threads] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads:")]
    assert threads == "1", f"{threads} threads: a fork would lose all but one"
    gc.freeze()
