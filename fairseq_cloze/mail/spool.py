"""Where mail waits: a folder (0700) with a file (0600) per message.

A file is a line of JSON that says to whom the message still has to go, and then the message; both have checksums.
Whoever holds its lock sends it.  Without locks two processes may send it, with the same Message-ID, by which servers
know it again.
"""

import fcntl
import os
import stat
import time
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ..runs.lines import LONGEST, make_line, parse_line
from .message import Letter
from .settings import MailError, split_address

DAMAGED = "damaged"  #: folder in the spool for files that hold no whole message

ABANDONED = 3600.0  #: seconds after which a file that was never completed is removed


class Entry:
    """A message that is ours to send, with the addresses it still has to go to, and its file, if it could be kept."""

    def __init__(self, letter: Letter, path: Path | None = None, descriptor: int = -1, width: int = 0) -> None:
        self.letter, self.path = letter, path
        self.refused: tuple[str, ...] = ()  # addresses that the server never will serve
        self._descriptor, self._width = descriptor, width

    @classmethod
    def create(cls, folder: Path, letter: Letter) -> Self:
        """Keep a message, ours from the moment that it is there; after an OSError nothing of it is."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        path = folder / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest:09}-{uuid.uuid4().hex}.mail"
        temporary = folder / f"{path.name}.tmp"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _lock(descriptor)
            header = _header(letter)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(header + b"\n" + letter.message)
            os.fsync(descriptor)
            temporary.rename(path)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        return cls(letter, path, descriptor, len(header))

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Take a message that nobody else is about to send; None where there is none.

        Raises:
            OSError: it cannot be read
            ValueError: it is damaged, and was moved to the folder of those
        """
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is a pipe or a device")
            if not _lock(descriptor) or not os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                header, message = file.readline(LONGEST), file.read()
            letter = parse_letter(header, message)
            if letter.to:
                kept, descriptor = descriptor, -1
                return cls(letter, path, kept, len(header) - 1)
            path.unlink()  # sent by a process that was killed before it came to this
        except FileNotFoundError:
            pass  # sent by somebody else, perhaps between our opening and our locking it
        except ValueError as error:
            aside = path.parent / DAMAGED
            aside.mkdir(mode=0o700, exist_ok=True)
            path.rename(aside / path.name)
            raise ValueError(f"{error}; it is kept in {aside}") from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the message to others, if it is still there."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def settle(self, refused: Sequence[str], remaining: Sequence[str]) -> None:
        """Note who is still to be served, or remove the message; for the *refused* it goes to a folder of its own.

        The note is written in place, into as many bytes: that needs no room on a full disk, and keeps the lock.
        """
        self.letter = replace(self.letter, to=tuple(remaining))
        self.refused += tuple(refused)
        if self.path is None:
            return
        self._note([*remaining, *refused])  # first of all: who was served must not be served again
        if refused:
            aside = self.path.parent / "refused"
            aside.mkdir(mode=0o700, exist_ok=True)
            if not remaining:
                self.path.rename(aside / self.path.name)
                return
            Entry.create(aside, replace(self.letter, to=tuple(refused))).close()
            self._note(remaining)
        if not remaining:
            self.path.unlink()

    def _note(self, to: Sequence[str]) -> None:
        os.pwrite(self._descriptor, _header(replace(self.letter, to=tuple(to))).ljust(self._width), 0)


def waiting(folder: Path) -> list[Path]:
    """The files of the messages that wait, oldest first; what was never completed is removed."""
    for path in folder.glob("*.mail.tmp"):
        with suppress(OSError):  # somebody else removed it, or it is not ours
            if time.time() - path.stat().st_mtime > ABANDONED:  # or a clock was set
                with open(path, "rb") as file:
                    if _lock(file.fileno()):  # whoever writes it holds that
                        path.unlink()
    return sorted(folder.glob("*.mail"))


def parse_letter(header: bytes, message: bytes) -> Letter:
    """The message of a file, from its first line and what follows it; ``ValueError`` where it is damaged."""
    try:
        values: dict[str, Any] = parse_line(header)
        subject, sender, to = values["subject"], values["sender"], values["to"]
        if not isinstance(subject, str) or not isinstance(to, list) or not header.endswith(b"\n"):
            raise ValueError
        for address in (sender, *to):
            if split_address(address)[1] != address:
                raise ValueError
    except (AttributeError, KeyError, MailError, TypeError, ValueError) as error:
        raise ValueError("its first line is no envelope") from error
    if values.get("message_crc32", zlib.crc32(message)) != zlib.crc32(message):
        raise ValueError("the message is not what was written")
    return Letter(subject, sender, tuple(to), message)


def _header(letter: Letter) -> bytes:
    values = {"subject": letter.subject, "sender": letter.sender, "to": letter.to}
    return make_line({**values, "message_crc32": zlib.crc32(letter.message)})


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: better twice than never
    return True
