"""Commands under ``fairseq-cloze run``, as real processes, in pipes and in terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .commands import environment

LIMIT = 60.0


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for something to be true; its value."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < deadline, what or "waited in vain"
        time.sleep(0.02)
    return value


def python(code: str) -> list[str]:
    """A command that runs Python code."""
    return [sys.executable, "-c", code]


def shell(code: str) -> list[str]:
    """A command that runs shell code."""
    return ["sh", "-c", code]


class Wrapped:
    """A command under ``fairseq-cloze run`` with pipes, its logs in *folder*/logs."""

    def __init__(self, folder: Path, command: Sequence[str], *options: str, **kwargs: Any) -> None:
        self.folder = folder
        env = environment(**kwargs.pop("env", {}))
        words = ["fairseq-cloze", "run", *options, "--", *map(str, command)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(words, cwd=folder, env=env, **pipes)

    @property
    def log(self) -> Path:
        """The only log."""
        [path] = until(lambda: list((self.folder / "logs").glob("*.log")))
        return Path(path)

    def end(self, status: int) -> Wrapped:
        """Wait for the end and check the exit status, here and in the log."""
        self.out, self.err = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == status, self.err
        assert self.facts()["status"].split()[0] == str(status)
        return self

    def facts(self) -> dict[str, str]:
        """The lines of head and foot by name."""
        found = re.findall(r"^# ([a-z ]+): (.*)$", self.log.read_text("utf-8", "replace"), re.MULTILINE)
        return dict(found)

    def output(self) -> bytes:
        """The log without head and foot."""
        return between(self.log.read_bytes())

    def wait_for(self, text: str) -> None:
        """Wait for output in the log."""
        until(lambda: text.encode() in between(self.log.read_bytes()), text)


def between(log: bytes) -> bytes:
    """What stands between head and foot, if there is one."""
    output = log.partition(b"\n# started: ")[2].partition(b"\n")[2]
    before, foot, _ = output.rpartition(b"# ended: ")
    return before if foot else output


class InTerminal(Wrapped):
    """The same in a terminal of 30 lines and 90 columns, of which it is in the foreground."""

    def __init__(self, folder: Path, command: Sequence[str], *options: str, **kwargs: Any) -> None:
        self.outer, self.inner = pty.openpty()
        self.resize(30, 90)

        def lead() -> None:
            fcntl.ioctl(self.inner, termios.TIOCSCTTY, 0)
            if "limit" in kwargs:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (kwargs["limit"], kwargs["limit"]))

        pipes = {name: kwargs.get(name, self.inner) for name in ("stdin", "stdout", "stderr")}
        env = kwargs.get("env", {})
        super().__init__(
            folder, command, "--name", "job", *options, **pipes, env=env, start_new_session=True, preexec_fn=lead
        )
        self.screen = b""
        self._gone = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        pieces = bytearray()
        while not self._gone:
            if select.select([self.outer], [], [], 0.1)[0]:
                try:
                    pieces += os.read(self.outer, 1 << 16)
                except OSError:
                    return
                self.screen = bytes(pieces[-(1 << 20) :])

    def settings(self) -> list[Any]:
        """Of the terminal."""
        return termios.tcgetattr(self.inner)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.outer, keys)

    def end(self, status: int) -> InTerminal:
        self.process.wait(LIMIT)
        assert self.process.returncode == status, self.screen
        assert self.facts()["status"].split()[0] == str(status)
        return self

    def shown(self, text: bytes) -> bytes:
        """Wait until it is on the screen."""
        until(lambda: text in self.screen, repr(text))
        return self.screen

    def hang_up(self) -> None:
        """The terminal goes away, as where its window is closed."""
        if not self._gone:
            self._gone = True
            self._reader.join(LIMIT)
            os.close(self.outer)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()
        os.close(self.inner)


def words_of(line: str) -> list[str]:
    """What bash makes of a command line."""
    ran = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], stdout=subprocess.PIPE, check=True)
    return ran.stdout.decode(errors="surrogateescape").split("\0")[:-1]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
