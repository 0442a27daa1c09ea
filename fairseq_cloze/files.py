"""Files: paths, and the one way in which files are written."""

import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from .errors import ClozeError

PathLike: TypeAlias = str | os.PathLike[str]

#: What the names of unfinished files begin with; the rest is drawn by lot, so that nobody else has the name.
UNFINISHED = ".fairseq-cloze-"

_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}


def split_paths(paths: PathLike) -> list[str]:
    """Paths with colons between them, as fairseq writes ensembles; a path that exists is one."""
    text = os.fspath(paths)
    return [text] if os.path.exists(text) else text.split(":")


def is_stdout(path: PathLike | None) -> bool:
    """Whether what is written to *path* goes to standard output, where nothing else should go then."""
    return path is not None and _descriptor(Path(path)) == 1


def unused(folder: Path) -> Path:
    """A hidden name in a folder that no file there has, and no other writer will take."""
    return folder / f"{UNFINISHED}{secrets.token_hex(8)}"


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A new, empty file to write; at the end its content becomes that of *path*, whole or not at all.

    Of a link, the file that it leads to is replaced.  What is no plain file, such as a device or a pipe, is written to;
    ``-`` is standard output.  Open the file for ``torch.save``, which else writes its name, each time another, into it.

    Raises:
        ClozeError: *path* cannot be written
    """
    path = Path(path)
    with _explained(path):
        streams = _is_stream(path)
        target = Path(os.path.realpath(path))
        if not streams:
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = unused(Path(tempfile.gettempdir()) if streams else target.parent)
        with open(temporary, "xb") as made:
            mode = stat.S_IMODE(os.fstat(made.fileno()).st_mode)  # which the umask or the folder decides
    try:
        yield temporary
        with _explained(path):
            if streams:
                with open(temporary, "rb") as source, _open_stream(path) as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
            else:
                temporary.chmod(mode)  # some writers make a file of their own
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: PathLike, content: bytes) -> None:
    """Write a file as :func:`replacing` does."""
    with replacing(path) as temporary, _explained(path):
        temporary.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
    """As :func:`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def check_writable(*paths: PathLike | None) -> None:
    """Make sure, before long work, that :func:`write_text` will be able to write *paths*; nothing is written.

    Raises:
        ClozeError: one that is not None cannot be written
    """
    for path in (Path(path) for path in paths if path is not None):
        with _explained(path):
            number = _descriptor(path)
            if number is not None:
                os.write(number, b"")  # which a full device and a file that is only read refuse
            elif _is_stream(path):
                if not os.access(path, os.W_OK):  # to open a pipe would wait for its reader
                    raise cannot_write(path, "Permission denied")
            elif path.is_dir():
                raise cannot_write(path, "Is a directory")
            else:
                folder = Path(os.path.realpath(path)).parent
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass


def cannot_write(path: PathLike, reason: str) -> ClozeError:
    """The error of a file that cannot be written."""
    return ClozeError(f"{path}: cannot be written ({reason}); choose another file")


@contextmanager
def _explained(path: PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def _descriptor(path: Path) -> int | None:
    """The open file that *path* stands for: another one of the same name would begin at its start once more."""
    found = re.fullmatch(r"(?:/dev|/proc/self)/fd/(\d+)", str(path))
    return int(found[1]) if found else _STANDARD.get(str(path))


def _is_stream(path: Path) -> bool:
    """Whether *path* is something to write to, rather than a file to replace."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _open_stream(path: Path) -> BinaryIO:
    number = _descriptor(path)
    if number is None:
        return open(path, "wb", buffering=0)
    (sys.stderr if number == 2 else sys.stdout).flush()
    return os.fdopen(os.dup(number), "wb")
