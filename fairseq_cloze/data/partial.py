"""Partial: the folder ``<out>.partial`` in which a data-bin grows, and what a run that was cut off has left in it.

It holds ``data-bin``, which gets the name it was asked for when it is complete, and a folder of shards whose name tells
which command they are of.  A lock that ends with the process keeps two runs apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import ClozeError, UnreadablePassageError
from ..files import unused
from .databin import check_replaceable

#: A file by which a folder is known to be one of these: only then is anything in it touched.
MARKER = ".fairseq-cloze-prepare"

_REPLACED = "replaced-"  # how the name of a data-bin begins that gives way to a new one

_SHARDS = re.compile(r"shards-[0-9a-f]{32}$")
_OWN = re.compile(rf"{_SHARDS.pattern}|{_REPLACED}")


class Partial:
    """A data-bin that grows, to be named *out*.

    An error in the input removes it, as the input has to change; all else that ends a run, such as input that cannot be
    read for a while, leaves it to the next one.
    """

    was_empty = True  #: no earlier run has left anything
    goes_on = False  #: what was left is of the command that claimed it
    _finished = False

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(out.name + ".partial")
        self.data_bin = self.folder / "data-bin"

    def __enter__(self) -> Partial:
        folder = self.folder
        is_folder = folder.is_dir() and not folder.is_symlink()
        if not os.path.lexists(folder):
            self._make()
        elif not (is_folder and (folder / MARKER).exists()):
            raise ClozeError(
                f"{folder}: is in the way, as the data-bin would grow under that name, and was not written by "
                "'fairseq-cloze prepare'; move it away, or choose another --out"
            )
        self._lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock), os.stat(folder)):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(self._lock)
            raise ClozeError(
                f"{self._out}: another 'prepare' is writing it; wait for it, or choose another --out"
            ) from error
        self.was_empty = len(os.listdir(folder)) == 1
        return self

    def _make(self) -> None:
        """Make the folder with its marker in it, so that one without is never ours."""
        self._out.parent.mkdir(parents=True, exist_ok=True)
        temporary = unused(self._out.parent)
        temporary.mkdir()
        (temporary / MARKER).touch()
        try:
            os.rename(temporary, self.folder)
        except OSError as error:  # another run was faster
            shutil.rmtree(temporary)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def claim(self, command: str) -> Path:
        """Remove all that is not of a command, given by a digest, and begin the data-bin anew.

        Returns:
            the folder of its shards, with those that are done
        """
        shards = self.folder / f"shards-{command[:32]}"
        self.goes_on = shards.exists()
        for left_over in self._own():
            if left_over != shards:
                shutil.rmtree(left_over)
        shards.mkdir(exist_ok=True)
        self.data_bin.mkdir()
        return shards

    def publish(self) -> None:
        """Give the finished data-bin its name; an old one of that name goes only then.

        Raises:
            DataBinError: the old one now holds something that would be lost; what is done stays
        """
        self._finished = True
        if self._out.exists():
            check_replaceable(self._out)
            old = Path(tempfile.mkdtemp(prefix=_REPLACED, dir=self.folder))
            os.rename(self._out, old)  # onto the empty folder
            try:
                os.rename(self.data_bin, self._out)
            except BaseException:
                os.rename(old, self._out)
                raise
        else:
            os.rename(self.data_bin, self._out)
        self._remove()

    def _own(self) -> list[Path]:
        """What may go of what was made here; anything else that lies there is somebody's.

        A data-bin that gave way to one that did not come, as the run was killed just then, is not among it.
        """
        own = _OWN if self._out.exists() else _SHARDS
        return [path for path in self.folder.iterdir() if path == self.data_bin or own.match(path.name)]

    def _remove(self) -> None:
        for path in self._own():
            shutil.rmtree(path, ignore_errors=True)
        if any(self.folder.glob(f"{_REPLACED}*")):
            return
        with suppress(OSError):  # somebody's file is in it
            (self.folder / MARKER).unlink(missing_ok=True)
            self.folder.rmdir()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        of_input = kind is not None and issubclass(kind, ClozeError) and not issubclass(kind, UnreadablePassageError)
        if of_input and not self._finished:
            self._remove()
        os.close(self._lock)
