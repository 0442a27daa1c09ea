"""``scripts/scaling.py``: the formula by hand, the manual's table, and processes whose links are slowed down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from .support.commands import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from scaling import (
    FIXED,
    LATENCY,
    NVLINK,
    SECONDS,
    TOKENS,
    USED,
    Sum,
    efficiency,
    least_tokens,
    ring_seconds,
    tables,
    try_out,
)


def test_a_ring_by_hand() -> None:
    """Four members send six quarters each, in six steps."""
    assert ring_seconds(4, 8e6, 1e6) == pytest.approx(6 * 2.0 + 6 * LATENCY)
    assert ring_seconds(1, 8e6, 1e6) == 0
    assert Sum(1, 8e6, 1e6).seconds == 0
    assert Sum(8, 8e6, 1e6).seconds == ring_seconds(8, 8e6, NVLINK)
    two_machines = ring_seconds(8, 8e6, NVLINK) + ring_seconds(2, 8e6, 1e6 * USED)
    assert Sum(16, 8e6, 1e6).seconds == Sum(9, 8e6, 1e6).seconds == two_machines


def test_shares_of_time() -> None:
    assert efficiency(TOKENS, SECONDS) == pytest.approx(0.5)  # as long as what is computed
    assert efficiency(TOKENS, 0) == efficiency(TOKENS, 0, overlap=True) == 1
    compute = SECONDS - FIXED
    assert efficiency(TOKENS, 0.1, overlap=True) == pytest.approx(SECONDS / (SECONDS + 0.1 - 0.09))
    assert efficiency(TOKENS, 10, overlap=True) == pytest.approx(SECONDS / (SECONDS + 10 - 2 / 3 * compute))
    for share in (0.5, 0.9):
        tokens = least_tokens(0.3, share)
        assert efficiency(tokens, 0.3) == pytest.approx(share, abs=1e-4)
    assert least_tokens(0.001, 0.5) == 0  # what comes with every update takes longer


def test_the_manual_has_the_table() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert text.split("<!-- scaling -->\n")[1].split("\n<!-- end of scaling -->")[0] == tables()


def _can_slow_down() -> bool:
    if os.geteuid() or not (shutil.which("tc") and shutil.which("ip")):
        return False
    made = subprocess.run(["ip", "netns", "add", "scaling-test"], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", "scaling-test"], check=True)
    return made


@pytest.mark.slow
def test_processes_on_slow_links() -> None:
    if not _can_slow_down():
        pytest.skip("needs root, and networks of its own")
    expected, summed, step = try_out(2, mbit=100, megabytes=5, pause=0.2)
    assert expected == pytest.approx(0.4, abs=0.001)
    assert 0.9 * expected < summed < 1.5 * expected
    assert 0.2 + 0.9 * expected < step < 1.5 * (0.2 + expected)
