"""Terminal: a command keeps its terminal while its log gets lines."""

import errno
import fcntl
import os
import pty
import re
import select
import signal
import termios
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

REDRAW_EVERY = 10.0  #: seconds between two states, in the log, of a line that is drawn again, as a progress bar is
LONGEST_PART = 1 << 16  #: bytes of an unfinished line that are kept back

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
_UP = re.compile(rb"\x1b\[\d*[AF]")
_LONGEST_SEQUENCE = 4096
_HIGHEST = 200  # lines that a cursor goes up


def without_controls(line: bytes) -> bytes:
    """A line without colours, cursor moves and other control sequences; carriage returns stay."""
    return _UP.sub(b"", _HIDDEN.sub(b"", line)) if len(line.translate(None, _CONTROLS)) < len(line) else line


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
        self._out: list[bytes] = []  # to write

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes as they were sent, at so many seconds by a clock that never goes back."""
        data = self._unfinished + data
        unfinished = _UNFINISHED.search(data, max(0, len(data) - _LONGEST_SEQUENCE))
        self._unfinished = unfinished.group() if unfinished else b""
        self._take(data[: len(data) - len(self._unfinished)], now)

    def idle(self, now: float) -> None:
        """Nothing has come for a moment: take states as they are."""
        self._settle()
        self._write_states_in_time(now)
        self._put()

    def close(self) -> None:
        """The output has ended: write the rest."""
        self._settle()
        self._write_states()
        if not self._again:
            self._out.append(self._part)
        self._put()

    def _settle(self) -> None:
        if self._unfinished.startswith(b"\r"):
            self._take(self._unfinished, self._at)
            self._unfinished = b""
        if self._again and self._part.strip():
            self._states[self._above] = self._part

    def _take(self, data: bytes, now: float) -> None:
        if len(data.translate(None, _CONTROLS)) < len(data):
            data = _HIDDEN.sub(b"", data)
        if not self._again and not self._written:  # mostly there are whole lines and nothing else
            data = data.replace(b"\r\n", b"\n")
            if b"\r" not in data and b"\x1b" not in data:
                whole, end, data = data.rpartition(b"\n")
                if end:
                    self._out.append(self._part + whole + end)
                    self._part = b""
        pieces = _MARK.split(data)
        for text, mark in zip(pieces[::2], pieces[1::2]):
            self._end(self._part + text, mark, now)
            self._part = b""
        self._part += pieces[-1]
        if len(self._part) > LONGEST_PART:
            self._out.append(self._part)
            self._part = b""
            self._again = False
        self._put()

    def _end(self, text: bytes, mark: bytes, now: float) -> None:
        drawn = bool(text.strip())
        if mark.endswith(b"\n") and self._above == 0:
            if not drawn and self._again:
                text = self._states.get(0, b"")
            self._states.pop(0, None)
            self._write_states()
            if not self._again or text and text != self._written.get(0):
                self._out.append(text + b"\n")
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
        self._write_states_in_time(now)

    def _write_states_in_time(self, now: float) -> None:
        if self._states and now - self._at >= REDRAW_EVERY:
            self._write_states()
            self._at = now

    def _write_states(self) -> None:
        for line in sorted(self._states, reverse=True):
            state = self._states.pop(line)
            if state != self._written.get(line):
                self._out.append(state + b"\n")
                self._written[line] = state

    def _put(self) -> None:
        if any(self._out):
            self._write(b"".join(self._out))
        self._out.clear()


class Terminal:
    """A terminal of its own for a command, inside the one that standard output is.

    What the command writes goes to standard output as it is, and as :class:`Lines` to *write*.  While this process is
    in the foreground of standard input, that terminal passes on every key, so that the inner one acts on ^C and the
    like.  In its context it follows the size of the outer one; then the outer one is as it was.
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
        self._resize()
        self._take_keys()

    def __enter__(self) -> Self:
        followed = {signal.SIGWINCH: self._resize, signal.SIGCONT: self._take_keys}
        self._before = {number: signal.signal(number, action) for number, action in followed.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)
        while self._move_output():  # comes to an end: with its leader, the session has lost the terminal
            pass
        self._lines.close()
        with suppress(OSError, termios.error):  # it is gone
            if self._keys and os.tcgetpgrp(0) == os.getpgrp():  # or another process has it by now
                termios.tcsetattr(0, termios.TCSANOW, self._keys)
        os.close(self._outer)
        os.close(self._inner)

    def file_actions(self) -> list[tuple[Any, ...]]:
        """For posix_spawn: the inner terminal becomes the command's, as the leader of a session."""
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 1, os.ttyname(self._inner), os.O_RDWR, 0)]
        return actions + [(os.POSIX_SPAWN_DUP2, 1, number) for number in ((2, 0) if self._input else (2,))]

    def _resize(self, *_: object) -> None:
        """Give the inner terminal the size of the outer one."""
        with suppress(OSError):  # the outer one is gone
            size = fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._outer, termios.TIOCSWINSZ, size)

    def _take_keys(self, *_: object) -> None:
        """Pass on every key from now on, if this process is in the foreground."""
        keys, self._keys = self._keys, None
        with suppress(OSError, termios.error):
            if self._input and os.tcgetpgrp(0) == os.getpgrp():
                settings = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSANOW)
                self._keys = keys or settings

    def waits_for(self) -> tuple[list[int], list[int]]:
        """File descriptors to read from and to write to, for select."""
        if self._typed:
            return [self._outer], [self._outer]
        return [self._outer, *([0] if self._keys else [])], []

    def handle(self, readable: list[int], writable: list[int]) -> None:
        """Move what is there."""
        if 0 in readable:
            with suppress(OSError):
                self._typed = os.read(0, _BLOCK)
            if not self._typed:
                self._input = False
                self._keys = None
        if self._outer in writable or 0 in readable and self._typed:
            with suppress(BlockingIOError):
                self._typed = self._typed[os.write(self._outer, self._typed) :]
        if self._outer in readable:
            self._move_output()
            return
        self._lines.idle(time.monotonic())
        if not self._keys:
            self._take_keys()  # bash's fg tells nothing to what has not been stopped

    def _move_output(self) -> int:
        """Move a block at most, which a terminal gives away in small pieces; returns its size."""
        data = b""
        while len(data) < _BLOCK:
            try:
                data += os.read(self._outer, _BLOCK)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EIO):  # nothing is there, or nobody has it open
                    raise
                break
        if data:
            self._lines.feed(data, time.monotonic())
        if data and self._screen:
            try:
                write_whole(1, data)
            except OSError:
                self._screen = False
        return len(data)


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Write all of *data*, waiting where there is no room."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
