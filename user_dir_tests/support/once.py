"""What many tests read is made once for a run of the tests, in whichever of its processes comes first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """The folder *name* as ``make(folder)`` fills it; other processes wait for it.  Tests leave it as it is."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # then it is the process's own, in the folder of the run
        base = base.parent
    folder = base / name
    with open(base / f"{name}.made", "a+") as done:
        fcntl.flock(done, fcntl.LOCK_EX)
        if not os.fstat(done.fileno()).st_size:  # what it is now, not what it was when it was opened
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            done.write("made")
    return folder
