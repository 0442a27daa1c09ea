"""Arrivals: which checkpoints of a save-dir wait to be scored, and which of them are whole."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from ..errors import CheckpointError
from . import capture
from .capture import Key, key_of

#: A file that does not load and does not change either is tried again after so many seconds, then given up.
RETRY_AFTER = (1.0, 4.0)

_NUMBERED = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")

_PATIENCE = 60.0  # seconds for the other process to look into a folder
# The other process finds modules where this one does, wherever it was started.
_BOOT = (
    "import sys; module, arguments, sys.path[:] = sys.argv[1], sys.argv[2:4], sys.argv[4:]; "
    "from importlib import import_module; import_module(module).main(*arguments)"
)


@dataclass
class Arrival:
    """A whole checkpoint that waits."""

    private: Path  #: the link, or copy, that nobody else deletes
    name: str  #: what it is called in the save-dir
    key: Key  #: tells whether the file has changed
    content: str  #: SHA-256 of its bytes, hexadecimal
    epoch: int | None  #: ``None`` where neither the file nor its name tells
    updates: int | None
    aliases: list[str] = field(default_factory=list)  #: other names of the same content

    @property
    def arrived(self) -> float:
        """When it was linked, in seconds since the epoch."""
        return int(self.private.name.split(".", 1)[0]) / 1e9

    @property
    def is_copy(self) -> bool:
        """Whether fairseq writes such names as copies of others, ``checkpoint_last.pt`` for one."""
        return _NUMBERED.fullmatch(self.name) is None

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts checkpoints as they were trained."""
        return (-1 if self.updates is None else self.updates, self.key[2], self.private.name)

    def is_unchanged(self) -> bool:
        """Whether the file is the one that was looked at."""
        return key_of(self.private.stat()) == self.key


@dataclass
class Trial:
    """What came of trying to read or score a file."""

    key: Key
    attempts: int
    due: float  #: when to try again, on the monotonic clock; infinity once it is given up
    problem: str

    @property
    def is_over(self) -> bool:
        """Whether it was given up."""
        return self.due == inf


def try_again(previous: Trial | None, key: Key, problem: str) -> Trial:
    """The next trial after a failure; a file that has changed since starts anew."""
    attempts = previous.attempts + 1 if previous and previous.key == key else 1
    pause = RETRY_AFTER[attempts - 1] if attempts <= len(RETRY_AFTER) else inf
    return Trial(key, attempts, time.monotonic() + pause, problem)


class Arrivals:
    """The checkpoints of a save-dir that wait, each under a private link in a queue, also those of an earlier watch.

    Args:
        save_dir: existing folder that is trained into
        queue: existing folder of this watch alone, on the same file system
        known: contents by key of files that need not be read again; ``None`` for those that are to be passed over
        say: takes a line for people
    """

    def __init__(self, save_dir: Path, queue: Path, known: dict[Key, str | None], say: Callable[[str], None]) -> None:
        self.queue = queue
        self.waiting: dict[Path, Arrival] = {}
        self.missed = 0  #: pruned before they could be linked
        self.last = time.monotonic()  #: when something new came
        self.known, self._say = known, say
        self._trials: dict[Path, Trial] = {}
        self._command = [sys.executable, "-c", _BOOT, capture.__name__, str(save_dir), str(queue), *sys.path]
        self._heard = threading.Condition()
        self._news = False
        self._start()

    def _start(self) -> None:
        self._asked = self._looked = 0
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            words = {"missed": (), "looked": 0, "new": 0, **json.loads(line)}
            if "say" in words:
                self._say(words["say"])
            for name in words["missed"]:
                self._say(f"{name}: pruned before it could be linked, not scored")
            with self._heard:
                self.missed += len(words["missed"])
                self._looked += words["looked"]
                if words["new"]:
                    self._news, self.last = True, time.monotonic()
                self._heard.notify_all()
        with self._heard:  # it has ended
            self._heard.notify_all()

    def look(self) -> None:
        """Have the folder looked into now, and come back when that is done."""
        if self._process.poll() is not None:
            self._say("the process that links checkpoints has died; starting another")
            self._start()
        process = self._process
        assert process.stdin is not None
        self._asked += 1
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except OSError:  # died just now
            return
        with self._heard:
            self._heard.wait_for(lambda: self._looked >= self._asked or process.poll() is not None, _PATIENCE)

    def wait(self, seconds: float) -> None:
        """Wait for something new, at most so long."""
        with self._heard:
            self._heard.wait_for(lambda: self._news or self._process.poll() is not None, seconds)
            self._news = False

    def close(self) -> None:
        """End the other process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def inspect(self) -> list[tuple[str, Trial]]:
        """Find out which files that wait are whole; returns names and last trials of those that are given up."""
        given_up = []
        for path in sorted(self.queue.iterdir()):
            trial = self._trials.get(path)
            if path in self.waiting or (trial and time.monotonic() < trial.due):
                continue
            name, key = path.name.split(".", 1)[1], key_of(path.stat())
            epoch, updates, content = None, None, self.known.get(key)
            try:
                if key not in self.known:
                    epoch, updates = progress_of(path, name)
                    with open(path, "rb") as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
            except (CheckpointError, OSError) as error:
                problem = str(error) if isinstance(error, CheckpointError) else f"{name}: {error.strerror or error}"
                if trial is None:
                    self._say(f"{problem}; trying again")
                trial = self._trials[path] = try_again(trial, key_of(path.stat()), problem)
                if trial.is_over:
                    given_up.append((name, trial))
                    self.drop(path)
                continue
            if content is None:
                self.drop(path)
            elif key_of(path.stat()) == key:
                self.waiting[path] = Arrival(path, name, key, content, epoch, updates)
            else:  # still being written
                self._trials[path] = Trial(key, 0, time.monotonic() + RETRY_AFTER[0], "")
        return given_up

    def drop(self, path: Path) -> None:
        """Give up a private link."""
        self.waiting.pop(path, None)
        self._trials.pop(path, None)
        path.unlink(missing_ok=True)


def progress_of(path: Path, name: str) -> tuple[int | None, int | None]:
    """Epoch and number of updates, from the checkpoint or from its name.

    Raises:
        CheckpointError: it cannot be read
    """
    from ..weights.checkpoint import Checkpoint

    epoch, updates = Checkpoint.read(path, name).progress
    named = _NUMBERED.fullmatch(name)
    if named:
        epoch, updates = int(named[1]), int(named[2]) if named[2] else updates
    return epoch, updates
