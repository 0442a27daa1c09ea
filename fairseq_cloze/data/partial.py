"""Partial: the folder ``<out>.partial`` in which a data-bin grows, and what a run that was cut off has left in it.

It holds ``data-bin``, which gets the name it was asked for when it is complete, and a folder of shards whose name tells
which command they are of.  A lock that ends with the process keeps two runs apart.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Optional, Type

from ..errors import ClozeError


class Partial:
    """A growing data-bin.

    An error in the input removes it, as the input has to change; all else that ends a run leaves it to the next one.

    Args:
        out: the name the data-bin will have

    Attributes:
        was_empty: no earlier run has left anything
        goes_on: what was left is of the command that claimed it
    """

    was_empty = True
    goes_on = False

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(out.name + ".partial")
        self.data_bin = self.folder / "data-bin"

    def __enter__(self) -> Partial:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock), os.stat(self.folder)):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(self._lock)
            raise ClozeError(
                f"{self._out}: another 'prepare' is writing it; wait for it, or choose another --out"
            ) from error
        self.was_empty = not any(self.folder.iterdir())
        return self

    def claim(self, command: str) -> Path:
        """Remove all that is not of a command, and begin the data-bin anew.

        Args:
            command: a digest of all that decides what the shards hold

        Returns:
            the folder of its shards, with those that are done
        """
        shards = self.folder / f"shards-{command[:32]}"
        self.goes_on = shards.exists()
        for left_over in self.folder.iterdir():
            if left_over != shards:
                shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        shards.mkdir(exist_ok=True)
        self.data_bin.mkdir()
        return shards

    def publish(self) -> None:
        """Give the finished data-bin its name; an old one of that name goes only then."""
        if self._out.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{self._out.name}.replaced.", dir=self._out.parent))
            os.rename(self._out, old)  # onto the empty folder
            try:
                os.rename(self.data_bin, self._out)
            except OSError:
                os.rename(old, self._out)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(self.data_bin, self._out)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(self, kind: Optional[Type[BaseException]], *_: object) -> None:
        if kind is not None and issubclass(kind, ClozeError):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
