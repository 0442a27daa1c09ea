"""Lines: JSON objects, one a line, each with a checksum; the one writer and the one reader of such files.

A line is written in one piece, so that a file can be followed while it grows, and several processes can write to it.
A damaged line is named and passed over, and stays where it is.
"""

import fcntl
import json
import math
import os
import re
import stat
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Self

from ..errors import ClozeError
from ..files import PathLike, open_regular
from ..jsontext import parse_json

Record = dict[str, Any]

LONGEST = 1 << 20  #: bytes of a line that is worth reading

_CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"\}$')
_LOCK_TRIES, _LOCK_PAUSE = 50, 0.01  # seconds: what is held for longer is held by a process that was stopped


def parse_line(line: bytes) -> Record:
    """The object of a line, without its checksum.

    Raises:
        ValueError: it holds none, something else than was written, or half of a character; bytes of file names that
            are no UTF-8 may stand in the form that Python gives them, ``\\udc80`` to ``\\udcff``
    """
    line = line.strip()
    if len(line) > LONGEST:
        raise ValueError(f"it has more than {LONGEST:,} bytes")
    summed = _CHECKSUM.search(line)
    if summed:
        line = line[: summed.start()] + b"}"
        if zlib.crc32(line) != int(summed[1], 16):
            raise ValueError("its checksum is another; if you changed the line yourself, take crc32 out of it")
    found = parse_json(line)
    if b"\\u" in line:
        json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    if "crc32" in found:
        raise ValueError("its checksum is none")
    return found


def make_line(record: Record) -> bytes:
    """A line, without its end: what is no finite number becomes ``null``, and what is half a character ``\\ufffd``."""
    text = json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":"))
    line = re.sub("[\ud800-\udfff]", _escaped, text).encode()
    return line[:-1] + b',"crc32":"%08x"}' % zlib.crc32(line)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}" if "\udc80" <= found[0] <= "\udcff" else "\ufffd"


class LineWriter:
    """Appends objects to a file, which is made where it is missing; each is there whole or not at all.

    Args:
        path: the file; a pipe that nobody reads does not hold up
        sync: have each line on the disk before going on

    Raises:
        OSError: it cannot be opened
    """

    def __init__(self, path: PathLike, sync: bool = False) -> None:
        self.path, self._sync = path, sync
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        self._torn = False

    def write(self, record: Record) -> None:
        """Append an object; half a line that a killed writer has left stays alone on its own.

        Raises:
            OSError: the file cannot be written
        """
        locked = self._lock()
        try:
            found = os.fstat(self._fd)
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            torn = os.pread(self._fd, 1, size - 1) != b"\n" if size else self._torn
            data = b"\n" * torn + make_line(record) + b"\n"
            self._torn = True
            try:
                while data:  # a full disk or pipe takes a part, and says why when it is given the rest
                    data = data[os.write(self._fd, data) :]
                if self._sync:
                    os.fsync(self._fd)
            except OSError:
                if locked and stat.S_ISREG(found.st_mode):
                    os.ftruncate(self._fd, size)
                raise
            self._torn = False
        finally:
            if locked:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Keep other writers off, but wait for none for ever: without the lock all there may be is an empty line."""
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            except OSError:  # no locks here
                return False
        return False

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: PathLike, say: Callable[[str], Any], misfit: Callable[[Record], str]) -> list[Record]:
    """Objects of a file, one a line; a missing file has none.

    Args:
        path: the file
        say: takes a sentence for each damaged line, which is passed over
        misfit: says what a record lacks; an empty string where it lacks nothing

    Raises:
        ClozeError: it cannot be read
    """
    found = []
    try:
        with open_regular(path) as file:
            for number, line in enumerate(_lines(file), 1):
                try:
                    record = parse_line(line) if line.strip() else None
                    problem = "" if record is None else misfit(record)
                except ValueError as error:
                    record = None
                    problem = "it holds half a character" if isinstance(error, UnicodeEncodeError) else str(error)
                if problem:
                    say(f"{path}, line {number}: cannot be used ({problem}); it is passed over, and stays there")
                elif record is not None:
                    found.append(record)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ClozeError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    return found


def _lines(file: BinaryIO) -> Any:
    """Lines of a file; of one that is too long no more than shows that it is."""
    while line := file.readline(LONGEST + 2):
        yield line
        while len(line) > LONGEST + 1 and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 2)
