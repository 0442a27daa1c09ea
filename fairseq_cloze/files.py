"""Files: paths and whole-or-nothing writing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Union

from .errors import ClozeError

PathLike = Union[str, "os.PathLike[str]"]


def split_paths(paths: PathLike) -> list[str]:
    """Paths with colons between them, as fairseq writes ensembles; a path that exists is one."""
    text = os.fspath(paths)
    return [text] if os.path.exists(text) else text.split(":")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside *path* that replaces it at the end, or is removed where something goes wrong."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: PathLike, text: str) -> None:
    """Write a UTF-8 file whole or not at all; its folder is made where it is missing.

    Raises:
        ClozeError: it cannot be written
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def check_writable(path: PathLike) -> None:
    """Make sure, before long work, that :func:`write_text` will be able to write *path*.

    Raises:
        ClozeError: it cannot be written
    """
    path = Path(path)
    if path.is_dir():
        raise cannot_write(path, "Is a directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def cannot_write(path: Path, reason: str) -> ClozeError:
    """The error of a file that cannot be written."""
    return ClozeError(f"{path}: cannot be written ({reason}); choose another file")
