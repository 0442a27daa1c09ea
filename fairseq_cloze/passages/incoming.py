"""Incoming: the lines of a pipe, a terminal or standard input, and whether the next one is there already."""

import os
import re
import select
import time

_READ = 1 << 16  # bytes at a time, as many as a pipe holds
_TEXT = re.compile(rb"\S")


class Incoming:
    """Lines of an open file, which are taken from it no sooner than they are asked for.

    Args:
        descriptor: of the file; left open
        longest: bytes that are kept for one line, at least
    """

    def __init__(self, descriptor: int, longest: int) -> None:
        self._descriptor = descriptor
        self._longest = longest
        self._kept = bytearray()
        self._searched = 0  # bytes of these that hold no line feed
        self._ended = False
        self._waiting = select.poll()
        self._waiting.register(descriptor, select.POLLIN)

    def readline(self, most: int) -> bytes:
        """The next line, with its end; at most so many bytes of it, and none where the file has ended."""
        while True:
            end = self._kept.find(b"\n", self._searched, most) + 1
            if end or len(self._kept) >= most or self._ended:
                line = bytes(self._kept[: end or most])
                del self._kept[: len(line)]
                self._searched = 0
                return line
            self._searched = len(self._kept)
            self._read(None)

    def is_there(self, seconds: float) -> bool:
        """Whether within so many seconds a line that is not blank has come whole, or the file has ended."""
        until = time.monotonic() + seconds
        while True:
            text = _TEXT.search(self._kept)
            if self._ended or (text and self._kept.find(b"\n", max(text.start(), self._searched)) >= 0):
                return True
            if len(self._kept) >= self._longest:
                return True
            if not self._read(max(until - time.monotonic(), 0.0)):
                return False

    def _read(self, seconds: float | None) -> bool:
        """Take what there is; false where nothing has come in time."""
        if not self._waiting.poll(None if seconds is None else 1000 * seconds):
            return False
        read = os.read(self._descriptor, _READ)
        self._kept += read
        self._ended = not read
        return True
