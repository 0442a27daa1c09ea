"""The long attacks, in small: each command of this room runs, and finds nothing."""

from __future__ import annotations

import shutil
import sys

import pytest

from ..support.commands import run

ATTACKS = "user_dir_tests.attacks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_faults_of_writing() -> None:
    """docs/guarantees.md says what is promised of a write that fails."""
    run(sys.executable, "-m", f"{ATTACKS}.faults", "--every", 7)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.kill", "--times", 18)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_short_soak() -> None:
    run(sys.executable, "-m", f"{ATTACKS}.soak", "--updates", 200, "--every", 50)
