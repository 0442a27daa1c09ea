"""The long attacks, in small: each command of this room runs, and finds nothing."""

from __future__ import annotations

import shutil
import sys

import pytest

from ..support.commands import run
from .faults import COMMANDS

ATTACKS = "user_dir_tests.attacks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_faults_of_writing() -> None:
    """docs/guarantees.md says what is promised of a write that fails."""
    names = [name for name in COMMANDS if name != "train"]  # which writes 456 times, 30 s for each
    run(sys.executable, "-m", f"{ATTACKS}.faults", *names, "--every", 30)
    run(sys.executable, "-m", f"{ATTACKS}.faults", "train", "--every", 230)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.kill", "--times", 18)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_clocks_that_jump() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.clock")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_of_everything() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.two", "--times", 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_short_soak() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.soak", "--updates", 200, "--every", 50)
