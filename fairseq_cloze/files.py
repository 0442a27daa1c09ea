"""Files: paths, and the one way in which files are written."""

import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeAlias

from .errors import ClozeError, ReaderGone

PathLike: TypeAlias = str | os.PathLike[str]

#: What the names of unfinished files begin with.  Eight bytes that are drawn by lot follow, so that nobody else has the
#: name; and before these, where the writer locks the file, four that stand for this machine since it was started.
UNFINISHED = ".fairseq-cloze-"

_UNFINISHED_NAME = re.compile(re.escape(UNFINISHED) + "([0-9a-f]{8})?[0-9a-f]{16}")
_ABANDONED = 86_400.0  # seconds without a change after which a file whose lock may not be seen here is nobody's
_swept: set[Path] = set()

_KINDS = {
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "disk",
    stat.S_IFSOCK: "socket",
    stat.S_IFDIR: "folder",
}

_MOST = 64 << 20  # bytes of a file that is read at once

_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
_STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def split_paths(paths: PathLike) -> list[str]:
    """Paths with colons between them, as fairseq writes ensembles; a path that exists is one."""
    text = os.fspath(paths)
    return [text] if os.path.exists(text) else text.split(":")


def is_stdout(path: PathLike | None) -> bool:
    """Whether what is written to *path* goes to standard output, where nothing else should go then."""
    return path is not None and _descriptor(Path(path)) == 1


def is_stdin(path: PathLike) -> bool:
    """Whether what is read from *path* comes from standard input."""
    return os.fspath(path) in _STANDARD_INPUT


def is_stream(path: PathLike | None) -> bool:
    """Whether *path* is something to write to as it comes, such as a pipe, rather than a file to replace."""
    try:
        return path is not None and _is_stream(Path(path))
    except OSError:  # writing says what it is
        return False


def check_stdin_once(paths: Iterable[PathLike]) -> None:
    """Make sure that standard input is read once.

    Raises:
        ClozeError: it stands among the paths twice
    """
    if sum(map(is_stdin, paths)) > 1:
        raise ClozeError("-: standard input was given twice, and can be read once; give one of them as a file")


def read_whole(path: PathLike) -> bytes:
    """The content of a file; of ``-``, standard input.  ``OSError`` where it cannot be read."""
    if is_stdin(path):
        return sys.stdin.buffer.read()
    return Path(path).read_bytes()


def special_kind(path: PathLike) -> str | None:
    """What a path leads to, in a word, if something is there and no file."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except OSError:
        return None


#: What stands in place of a file where git lfs is not installed: how it begins, what it is, and what to do.
POINTER = b"version https://git-lfs.github.com/"
POINTER_IS = "a pointer of git lfs, not the file itself; run 'git lfs pull' in its folder, or download it"


def is_pointer(path: PathLike) -> bool:
    """Whether a file is what git leaves where git lfs is not installed; a pipe or a device is not opened."""
    if special_kind(path):
        return False
    try:
        with open_regular(path) as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:  # which whoever reads it names
        return False


def open_regular(path: PathLike) -> BufferedReader:
    """Open a file to read; a pipe or a device is not waited for.

    Raises:
        OSError: there is none, or it cannot be read
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte
        raise OSError(errno.EINVAL, str(error)) from error
    kind = _KINDS.get(stat.S_IFMT(os.fstat(descriptor).st_mode))
    if kind:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"is a {kind}, no file")
    return os.fdopen(descriptor, "rb")


def stamp(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file apart from others, and from what it was before it was changed."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_regular(path: PathLike) -> bytes:
    """The content of a file of at most 64 MB.

    Raises:
        OSError: there is none, or it cannot be read
    """
    with open_regular(path) as file:
        content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise OSError(errno.EFBIG, f"holds more than {_MOST >> 20} MB")
    return content


def unused(folder: Path) -> Path:
    """A hidden name in a folder that no file there has, and no other writer will take."""
    return folder / f"{UNFINISHED}{secrets.token_hex(8)}"


@cache
def _boot() -> str | None:
    """Eight digits for this machine since it was started; its processes, in containers too, see each other's locks."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:8]
    except OSError:
        return None


def sweep(folder: Path) -> None:
    """Remove what killed writers have left in a folder, the first time that this process asks for it.

    These are files of ours by name and owner which no writer holds locked.  Of another machine, or of before this one
    was started anew, a lock may not be seen here: such files must have rested for a day, too.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _UNFINISHED_NAME.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False):
                is_local = found[1] is not None and found[1] == _boot()
                with suppress(OSError):
                    _remove_if_abandoned(entry.path, -math.inf if is_local else _ABANDONED)  # clocks are set back, too


def _remove_if_abandoned(path: str, seconds: float) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError where somebody writes it
        found = os.fstat(descriptor)
        is_ours = found.st_uid == os.geteuid() and os.path.samestat(found, os.lstat(path))
        if is_ours and time.time() - max(found.st_mtime, found.st_ctime) >= seconds:
            os.unlink(path)
    finally:
        os.close(descriptor)


def _make_locked(folder: Path) -> tuple[Path, int]:
    """An empty file that :func:`sweep` leaves alone while its descriptor, which is returned too, is open."""
    while True:
        path = folder / f"{UNFINISHED}{_boot() or ''}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # swept between its making and its locking
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return path, descriptor
        os.close(descriptor)


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
        folder = Path(tempfile.gettempdir()) if streams else target.parent
        sweep(folder)
        temporary, descriptor = _make_locked(folder)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)  # which the umask or the folder decides
        yield temporary
        with _explained(path):
            if streams:
                with open(temporary, "rb") as source, _open_stream(path) as stream:
                    shutil.copyfileobj(source, stream)
            else:
                temporary.chmod(mode)  # some writers make a file of their own
                temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def streaming(path: PathLike) -> Iterator[Callable[[bytes], None]]:
    """A function that writes to a stream (:func:`is_stream`) at once.

    Raises:
        ReaderGone: nobody reads it any more
        ClozeError: it cannot be written
    """
    path = Path(path)
    with _explained(path):
        stream = _open_stream(path)

    def write(content: bytes) -> None:
        with _explained(path):
            stream.write(content)
            stream.flush()

    try:
        yield write
    finally:
        with suppress(OSError):  # what it holds has been refused before
            stream.close()


def write_bytes(path: PathLike, content: bytes) -> None:
    """Write a file as :func:`replacing` does."""
    path = Path(path)
    if is_stream(path):
        with streaming(path) as write:
            write(content)
        return
    with replacing(path) as temporary, _explained(path):
        temporary.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
    """As :func:`write_bytes`, in UTF-8; bytes of names that are none become ``\\udc..``, which JSON reads back."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def alone_in(folder: PathLike) -> Iterator[None]:
    """Make a folder, and keep other commands that ask so from writing into it: files that belong together stay so.

    Where that is not possible (no permission, a file system without locks) it does nothing; writing says why.

    Raises:
        ClozeError: another one is writing there
    """
    descriptor = None
    with suppress(OSError):
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    if descriptor is None:
        yield
        return
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                problem = f"{folder}: another command is writing there; wait for it, or choose another folder"
                raise ClozeError(problem) from error
        yield
    finally:
        os.close(descriptor)


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
            elif os.path.isdir(path):
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
    except BrokenPipeError as error:
        raise ReaderGone(str(cannot_write(path, error.strerror or str(error)))) from error
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
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OSError(errno.EINVAL, f"is a {_KINDS[stat.S_IFMT(mode)]}, no file")
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _open_stream(path: Path) -> BinaryIO:
    number = _descriptor(path)
    if number is None:
        return open(path, "wb")
    (sys.stderr if number == 2 else sys.stdout).flush()
    return os.fdopen(os.dup(number), "wb")
