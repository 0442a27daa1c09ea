"""Imports that a process makes before others are forked from it."""

from __future__ import annotations

import importlib


def preload(packages: list[str]) -> None:
    """Import what commands need, and undo what that does to a process besides."""
    import gc
    import logging

    before = list(logging.root.handlers), logging.root.level
    for package in packages:
        importlib.import_module(package)
    logging.root.handlers[:], logging.root.level = before  # fairseq's commands set up the log themselves
    [threads] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("Threads:")]
    assert threads == "1", f"{threads} threads: a fork would lose all but one"
    gc.freeze()
