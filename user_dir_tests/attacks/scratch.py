"""Inputs as files, for targets that read files; one folder for all inputs of a process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def written(data: bytes, name: str = "t.txt") -> Path:
    """A file with an input, in place of the one before it."""
    file = Path(_folder().name) / name
    file.write_bytes(data)
    return file
