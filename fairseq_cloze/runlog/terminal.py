"""Terminal: a command keeps its terminal while its log gets lines."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import termios
import time
import tty
from collections.abc import Callable
from typing import Any

#: Seconds between two states of a line that is drawn again and again, as a progress bar is, in the log.
REDRAW_EVERY = 10.0

#: Bytes of an unfinished line that are kept back.
LONGEST_PART = 1 << 16

_BLOCK = 1 << 16
_MARK = re.compile(rb"(\r*\n|\r+|\x1b\[\d*[AF])")  # next line, the same line again, a line above
_HIDDEN = re.compile(
    rb"\x1b\[(?!\d*[AF])[0-?]*[ -/]*[@-~]"  # colours and other cursor moves
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    rb"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
    rb"|[\x07\x08\x0e\x0f]"
)
_CONTROLS = b"\x1b\x07\x08\x0e\x0f"  # all of those begin with one of them
_UNFINISHED = re.compile(rb"(?:\r+|\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*))\Z")
_LONGEST_SEQUENCE = 4096
_HIGHEST = 200  # lines that a cursor goes up


class Lines:
    """Turns what a terminal is sent into lines, and hands them to *write* as soon as they are whole.

    A carriage return or a cursor that goes up begins to draw a line again.  Of the states of such lines those at every
    :data:`REDRAW_EVERY` seconds are written, and the last ones.  Colours, cursor moves and other control sequences are
    left out; every other byte stays as it is.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._unfinished = b""  # a control sequence, or returns that may belong to the end of a line
        self._part = b""  # of a line whose end has not come
        self._again = False  # that line is one that is drawn again
        self._above = 0  # lines from the cursor to the lowest line
        self._states: dict[int, bytes] = {}  # by lines above the lowest: what stands there and is not written
        self._written: dict[int, bytes] = {}  # ... and what was last written of it
        self._at = -REDRAW_EVERY

    def feed(self, data: bytes, now: float) -> None:
        """Take output.

        Args:
            data: bytes as they were sent
            now: seconds by a clock that never goes back
        """
        data = self._unfinished + data
        unfinished = _UNFINISHED.search(data, max(0, len(data) - _LONGEST_SEQUENCE))
        self._unfinished = unfinished.group() if unfinished else b""
        self._take(data[: len(data) - len(self._unfinished)], now)

    def idle(self, now: float) -> None:
        """Nothing has come for a moment: take states as they are."""
        out: list[bytes] = []
        self._settle()
        self._write_states_in_time(now, out)
        self._put(out)

    def close(self) -> None:
        """The output has ended: write the rest."""
        out: list[bytes] = []
        self._settle()
        self._write_states(out)
        if not self._again:
            out.append(self._part)
        self._put(out)

    def _settle(self) -> None:
        if self._unfinished.startswith(b"\r"):
            self._take(self._unfinished, self._at)
            self._unfinished = b""
        if self._again and self._part.strip():
            self._states[self._above] = self._part

    def _take(self, data: bytes, now: float) -> None:
        out: list[bytes] = []
        if len(data.translate(None, _CONTROLS)) < len(data):
            data = _HIDDEN.sub(b"", data)
        if not self._again and not self._written:  # mostly there are whole lines and nothing else
            data = data.replace(b"\r\n", b"\n")
            if b"\r" not in data and b"\x1b" not in data:
                whole, end, data = data.rpartition(b"\n")
                if end:
                    out.append(self._part + whole + end)
                    self._part = b""
        pieces = _MARK.split(data)
        for text, mark in zip(pieces[::2], pieces[1::2]):
            self._end(self._part + text, mark, now, out)
            self._part = b""
        self._part += pieces[-1]
        if len(self._part) > LONGEST_PART:
            out.append(self._part)
            self._part = b""
            self._again = False
        self._put(out)

    def _end(self, text: bytes, mark: bytes, now: float, out: list[bytes]) -> None:
        drawn = bool(text.strip())
        if mark.endswith(b"\n") and self._above == 0:
            if not drawn and self._again:
                text = self._states.get(0, b"")
            self._states.pop(0, None)
            self._write_states(out)
            if not self._again or text and text != self._written.get(0):
                out.append(text + b"\n")
            self._written.clear()
            self._again = False
            return
        if drawn:
            self._states[self._above] = text
        if mark.endswith(b"\n"):
            self._above -= 1
        elif not mark.startswith(b"\r"):
            self._above = min(self._above + int(mark[2:-1] or 1), _HIGHEST)
        self._again = True
        self._write_states_in_time(now, out)

    def _write_states_in_time(self, now: float, out: list[bytes]) -> None:
        if self._states and now - self._at >= REDRAW_EVERY:
            self._write_states(out)
            self._at = now

    def _write_states(self, out: list[bytes]) -> None:
        for line in sorted(self._states, reverse=True):
            state = self._states.pop(line)
            if state != self._written.get(line):
                out.append(state + b"\n")
                self._written[line] = state

    def _put(self, out: list[bytes]) -> None:
        if any(out):
            self._write(b"".join(out))


class Terminal:
    """A terminal of its own for a command, inside the one that standard output is.

    What the command writes goes to standard output as it is, and as :class:`Lines` to *write*.  While this process is
    in the foreground of standard input, that terminal passes on every key, so that the inner one acts on ^C and the
    like.

    Args:
        write: writes to the log
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._lines = Lines(write)
        # The inner end stays open here, too: without, the outer one would be at its end while nobody has it open.
        self._outer, self._inner = pty.openpty()
        os.set_blocking(self._outer, False)
        self._input = os.isatty(0)
        self._keys: list[Any] | None = None  # settings to go back to, while keys are passed on
        self._typed = b""  # and not taken yet
        self._screen = True
        termios.tcsetattr(self._inner, termios.TCSANOW, termios.tcgetattr(0 if self._input else 1))
        self.resize()
        self.take_keys()

    def file_actions(self) -> list[tuple[Any, ...]]:
        """For posix_spawn: the inner terminal becomes the command's, as the leader of a session."""
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 1, os.ttyname(self._inner), os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        return [*actions, (os.POSIX_SPAWN_DUP2, 1, 0)] if self._input else actions

    def resize(self) -> None:
        """Give the inner terminal the size of the outer one."""
        try:
            size = fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # the outer one is gone

    def take_keys(self) -> None:
        """Pass on every key from now on, if this process is in the foreground."""
        try:
            if self._input and os.tcgetpgrp(0) == os.getpgrp():
                settings = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSANOW)
                self._keys = self._keys or settings
            else:
                self._keys = None
        except (OSError, termios.error):
            self._keys = None

    def waits_for(self) -> tuple[list[int], list[int]]:
        """File descriptors to read from and to write to, for select."""
        if self._typed:
            return [self._outer], [self._outer]
        return [self._outer, *([0] if self._keys else [])], []

    def handle(self, readable: list[int], writable: list[int]) -> None:
        """Move what is there."""
        if 0 in readable:
            try:
                self._typed = os.read(0, _BLOCK)
            except OSError:
                self._typed = b""
            if not self._typed:
                self._input = False
                self._keys = None
        if self._outer in writable or 0 in readable and self._typed:
            try:
                self._typed = self._typed[os.write(self._outer, self._typed) :]
            except BlockingIOError:
                pass
        if self._outer not in readable:
            self._lines.idle(time.monotonic())
            if not self._keys:
                self.take_keys()  # bash's fg tells nothing to what has not been stopped
        else:
            self._move_output()

    def _move_output(self) -> int:
        """Move a block at most, which a terminal gives away in small pieces; returns its size."""
        data = b""
        while len(data) < _BLOCK:
            try:
                data += os.read(self._outer, _BLOCK)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EIO:  # of a terminal that nobody has open
                    raise
                break
        if not data:
            return 0
        self._lines.feed(data, time.monotonic())
        if self._screen:
            try:
                write_whole(1, data)
            except OSError:
                self._screen = False
        return len(data)

    def close(self) -> None:
        """Move what is left, and give the outer terminal back as it was."""
        while self._move_output():  # comes to an end: with its leader, the session has lost the terminal
            pass
        self._lines.close()
        self.restore()
        os.close(self._outer)
        os.close(self._inner)

    def restore(self) -> None:
        """Set the outer terminal as it was found, unless another process has it by now."""
        try:
            if self._keys and os.tcgetpgrp(0) == os.getpgrp():
                termios.tcsetattr(0, termios.TCSANOW, self._keys)
        except (OSError, termios.error):
            pass  # it is gone
        self._keys = None


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*, waiting where there is no room.

    Raises:
        OSError: it cannot be written
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
