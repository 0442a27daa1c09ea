"""Optional local data (CLOTH, weights) in the folder named by FAIRSEQ_CLOZE_DATA.

Tests that need them skip by name where they are absent.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from .commands import ROOT


def local(*parts: str) -> Path:
    folder = Path(os.environ.get("FAIRSEQ_CLOZE_DATA", ROOT.parent / "shared"))
    return folder.joinpath(*parts)


def existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"optional local data: no {path.name} (set FAIRSEQ_CLOZE_DATA)")
    return path


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(existing(archive)) as tar:
        tar.extractall(folder)
    return folder
