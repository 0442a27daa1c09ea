"""Arrivals: which checkpoints of a save-dir wait to be scored, which of them are whole, and when to try one again."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError, ClozeError, first_line
from . import capture
from .capture import Key, key_of

#: Seconds until a checkpoint that could not be read or scored is tried again; the last holds for all further tries.
PAUSES = (1.0, 4.0, 15.0, 60.0)
#: Tries after which a file is given up that is no checkpoint and does not change: it may just be growing slowly.
TRIES = 3

# A file system's clock may not tell two changes within so many seconds apart.
_FRESH = 0.05

_NUMBERED = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")

_PATIENCE = 60.0  # seconds for the other process to look into a folder
# The other process finds modules where this one does, wherever it was started.
_BOOT = (
    "import sys; module, arguments, sys.path[:] = sys.argv[1], sys.argv[2:4], sys.argv[4:]; "
    "from importlib import import_module; import_module(module).main(*arguments)"
)


@dataclass
class Arrival:
    """A file that waits to be scored, or to be read before."""

    private: Path  #: the link, or copy, that nobody else deletes
    key: Key | None = None  #: of the content that was looked at last
    content: str | None = None  #: the checkpoint's ``identity``, once it was read and is whole
    epoch: int | None = None  #: ``None`` where neither the file nor its name tells
    updates: int | None = None
    aliases: list[str] = field(default_factory=list)  #: other names of the same content
    tries: int = 0  #: that failed, since the file changed
    since: float = 0.0  #: when the first of them did, on the monotonic clock
    due: float = 0.0  #: when to try again
    problem: str = ""  #: of the last try

    @property
    def name(self) -> str:
        """What it is called in the save-dir."""
        return self.private.name.split(".", 1)[1]

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
        return (-1 if self.updates is None else self.updates, self.key[2] if self.key else 0, self.private.name)

    def is_unchanged(self) -> bool:
        """Whether the file is the one that was looked at."""
        return key_of(self.private.stat()) == self.key

    def begin_anew(self) -> None:
        """Forget what was found out: the file is another."""
        self.key, self.content, self.tries, self.due = None, None, 0, 0.0

    def fail(self, error: Exception) -> bool:
        """Note that a try failed; returns whether that is news."""
        told, now = self.problem if self.tries else "", time.monotonic()
        self.problem = str(error) if isinstance(error, ClozeError) else _words(self.name, error)
        self.since = self.since if self.tries else now
        self.due = now + PAUSES[min(self.tries, len(PAUSES) - 1)]
        self.tries += 1
        return self.problem != told


def _words(name: str, error: Exception) -> str:
    said = (error.strerror if isinstance(error, OSError) else "") or first_line(error)
    return f"{name}: {said if isinstance(error, OSError) else f'{type(error).__name__}: {said}'}"


def is_own_fault(error: Exception) -> bool:
    """Whether a checkpoint itself is to blame, rather than a disk, a device, memory or the data."""
    from ..model.memory import is_out_of_memory

    cause = error.__cause__ or error
    return isinstance(error, CheckpointError) and not isinstance(cause, OSError) and not is_out_of_memory(cause)


class Arrivals:
    """The checkpoints of a save-dir that wait, each under a private link in a queue, also those of an earlier watch.

    Args:
        save_dir: existing folder that is trained into
        queue: existing folder of this watch alone, on the same file system
        known: contents by key of files that need not be read again; ``None`` for those that are to be passed over
        say: takes a line for people
    """

    def __init__(self, save_dir: Path, queue: Path, known: dict[Key, str | None], say: Callable[[str], None]) -> None:
        self._folder, self.queue = save_dir, queue
        self.missed = 0  #: pruned before they could be linked
        self.last = time.monotonic()  #: when something new came
        self.known, self._say = known, say
        self._all: dict[Path, Arrival] = {}
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
        with process.stdout:
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
            self._hang_up()
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

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # what could not be written is of no use any more
            self._process.stdin.close()

    def close(self) -> None:
        """End the other process."""
        self._hang_up()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def queued(self) -> list[Path]:
        """Private links, the oldest first; none where the queue is out of reach."""
        try:
            return sorted(path for path in self.queue.iterdir() if capture.QUEUED.fullmatch(path.name))
        except OSError:
            return []

    @property
    def waiting(self) -> list[Arrival]:
        """Whole checkpoints that wait, the one that came first before the others."""
        return [one for one in self._all.values() if one.content is not None]

    def pruned_bytes(self) -> int:
        """Disk space that only the private links of whole checkpoints hold."""
        total = 0
        for one in self.waiting:
            with suppress(OSError):
                found = one.private.stat()
                total += found.st_size * (found.st_nlink == 1)
        return total

    def failing(self, seconds: float) -> list[Arrival] | None:
        """What waits, if all of it has failed again and again for so many seconds."""
        since = time.monotonic() - seconds
        return list(self._all.values()) if all(one.tries and one.since <= since for one in self._all.values()) else None

    def inspect(self) -> list[Arrival]:
        """Read what has come, or is due again; returns the files that are no checkpoints and do not change."""
        misfits = []
        for path in self.queued:
            one = self._all.setdefault(path, Arrival(path))
            if one.content is not None or time.monotonic() < one.due:
                continue
            try:
                self._read(one)
            except FileNotFoundError:  # somebody removed it
                self._all.pop(path)
            except Exception as error:
                if one.fail(error) and one.tries == 1:
                    self._say(f"{one.problem}; trying again")
                if is_own_fault(error) and one.tries >= TRIES:
                    misfits.append(one)
        return misfits

    def _read(self, one: Arrival) -> None:
        key = key_of(one.private.stat())
        if key != one.key:
            one.begin_anew()
            one.key = key
        if abs(time.time() - key[2] / 1e9) < _FRESH:  # a change after this one might not show
            time.sleep(_FRESH)
        if key in self.known:
            content = self.known[key]
            if content is None:
                self.drop(one)
                return
        else:
            content, one.epoch, one.updates = look_into(one.private, one.name)
        if key_of(one.private.stat()) == key:
            one.content = content
        else:  # still being written
            one.due = time.monotonic() + PAUSES[0]

    def drop(self, one: Arrival) -> None:
        """Give up a private link."""
        self._all.pop(one.private, None)
        one.private.unlink(missing_ok=True)

    def leave(self) -> list[Path]:
        """Give up the links of what is still in the save-dir; what was pruned stays for the next watch."""
        there = set()
        with suppress(OSError):
            for entry in os.scandir(self._folder):  # a link may be the best checkpoint's, which is not watched
                if capture.CANDIDATE.fullmatch(entry.name):
                    there.add(entry.inode())
        for path in self.queued:
            with suppress(OSError):
                if path.stat().st_ino in there:
                    path.unlink()
        with suppress(OSError):
            capture.partial_of(self.queue).unlink()
        left = self.queued
        with suppress(OSError):
            self.queue.rmdir()
        return left


def look_into(path: Path, name: str) -> tuple[str, int | None, int | None]:
    """A checkpoint's identity, and its epoch and number of updates, where the name does not tell them.

    Raises:
        CheckpointError: it cannot be read
    """
    from ..weights.checkpoint import Checkpoint

    try:
        checkpoint = Checkpoint.read(path, name)
        content, (epoch, updates) = checkpoint.identity, checkpoint.progress
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: expected a checkpoint of fairseq, found another content ({error})") from error
    named = _NUMBERED.fullmatch(name)
    if named:
        epoch, updates = int(named[1]), int(named[2]) if named[2] else updates
    return content, epoch, updates
