"""Capture: a second name for every checkpoint of a folder as soon as it is there, so that pruning cannot take it away.

This is a process of its own, without torch: while a checkpoint is scored, a thread might look minutes too late.  What
it says goes to standard output, a JSON object per line; it looks once more for every line of standard input, and ends
with it, so it never outlives its parent.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import open_regular, unused

#: Bytes of a checkpoint's name, at most: the private one is longer by a time.
LONGEST_NAME = 235

#: Names that count as checkpoints; the best by accuracy is a second name that the watch itself gives.
CANDIDATE = re.compile(r"checkpoint(?!_best_accuracy).*\.pt", re.DOTALL)

#: Names of private links; other files in a queue are not ours.
QUEUED = re.compile(r"-?\d+\.(checkpoint.*\.pt)", re.DOTALL)

# File systems on which other machines write: the kernel here does not learn of it.
NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda davfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs panfs prl_fs pvfs2 "
    "smb3 smbfs vboxsf virtiofs wekafs".split()
)

#: Seconds between looks: after something happened, as another may follow within milliseconds; while a file is waited
#: for to be complete; and when nothing was heard of.
_SOON, _LATER, _SELDOM = 0.0002, 0.5, 30.0

#: Between glances; after a sign of life, as watchdog holds some events back; at least between two lines about news.
_GLANCE, _LIVELY, _TELL = 0.005, 0.75, 0.02

#: How new files are found out, other than by polling.
EVENTS = "events"

#: Inode, size in bytes and time of the last change in nanoseconds, which tell contents apart without reading them.
Key = tuple[int, int, int]


def key_of(found: os.stat_result) -> Key:
    """What tells a file apart."""
    return found.st_ino, found.st_size, found.st_mtime_ns


class Linker:
    """Links the checkpoints of a folder into a queue, each content of a file once.

    The queue is a folder, on the same file system where possible; a file there is called by the time in nanoseconds, a
    dot and the checkpoint's name.
    """

    def __init__(self, folder: Path, queue: Path, say: Callable[[str], None]) -> None:
        self.folder, self.queue = folder, queue
        self.names: set[str] = set()  #: linked so far
        self.pending: dict[str, tuple[Key, float]] = {}  #: to be copied: what was found when, on the monotonic clock
        self._say = say
        self.failed = False  #: whether the last look left something out
        self._links = True
        self._seen: set[Key] = set()
        self._complaints: set[str] = set()
        self._waiting: dict[int, Path] = {}  # by inode
        for path in sorted(queue.iterdir()):  # left by an earlier watch
            with suppress(OSError):
                if QUEUED.fullmatch(path.name):
                    self._note(path)

    def look(self) -> int:
        """Link what is new and return how many files that were."""
        self.failed = False
        try:
            names = [name for name in os.listdir(self.folder) if CANDIDATE.fullmatch(name)]
        except OSError as error:  # gone, or out of reach for a while
            self._complain(f"{self.folder}: cannot be read ({error.strerror}); trying again")
            return 0
        return sum([self._take(self.folder / name) for name in names if not self._is_too_long(name)])

    def _is_too_long(self, name: str) -> bool:
        too_long = len(os.fsencode(name)) > LONGEST_NAME
        if too_long:
            self._complain(f"{name}: not scored, expected a name of at most {LONGEST_NAME} bytes; rename it")
        return too_long

    def _take(self, path: Path) -> bool:
        try:
            found = path.stat()
            # A file that waits under its inode and is still being written needs no other name: whoever scores it
            # sees that it has changed.
            waits = found.st_ino in self._waiting and self._waiting[found.st_ino].exists()
            if not stat.S_ISREG(found.st_mode) or key_of(found) in self._seen or waits:
                return False
            private = self.queue / f"{time.time_ns():019d}.{path.name}"
            if not self._link(path, private) and not self._copy(path, private, found):
                return False
        except FileNotFoundError:  # pruned at this moment
            return False
        except OSError as error:
            self.failed = True
            self._complain(f"{path.name}: cannot be linked or copied ({error.strerror}); trying again")
            return False
        self._seen.add(key_of(found))
        with suppress(OSError):  # done with already
            self._note(private)  # the name may have been given to another file meanwhile
        return True

    def _note(self, private: Path) -> None:
        self.names.add(private.name.split(".", 1)[1])
        found = private.stat()
        self._seen.add(key_of(found))
        self._waiting[found.st_ino] = private

    def _link(self, path: Path, private: Path) -> bool:
        try:
            if self._links:
                os.link(os.path.realpath(path), private)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._links = False
            self._say(f"hard links are not possible here ({error.strerror}): checkpoints are copied before scoring")
        return self._links

    def _copy(self, path: Path, private: Path, found: os.stat_result) -> bool:
        """Copy a file that does not change any more; a copy, unlike a link, would stay as it is."""
        key, since = self.pending.get(path.name, (None, 0.0))
        if key != key_of(found):
            self.pending[path.name] = (key_of(found), time.monotonic())
            return False
        if time.monotonic() - since < _LATER:
            return False
        del self.pending[path.name]
        partial = partial_of(self.queue)
        with open_regular(path) as source, open(partial, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            whole = key_of(os.fstat(source.fileno())) == key_of(found)
        os.utime(partial, ns=(found.st_atime_ns, found.st_mtime_ns))
        if whole:
            partial.rename(private)
        return whole

    def _complain(self, text: str) -> None:
        if text not in self._complaints:
            self._complaints.add(text)
            self._say(text)


def partial_of(queue: Path) -> Path:
    """Where a copy grows before it is in a queue."""
    return queue.with_name(f"{queue.name}.part")


def give_name(path: Path, target: Path) -> None:
    """Give a file a second name, which may be taken; a copy where there are no hard links."""
    if target.exists() and os.path.samefile(path, target):
        return
    target = Path(os.path.realpath(target))
    temporary = unused(target.parent)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copy2(path, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def file_system(path: Path, mounts: str | None = None) -> str:
    """Type of the file system that a path is on, by *mounts* or ``/proc/self/mountinfo``; empty where there is none."""
    try:
        mounts = mounts or Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    place = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def hears_nothing(kind: str) -> bool:
    """Whether what other machines write to a file system of that type goes unheard of here."""
    return kind in NETWORK or kind.startswith("fuse.")


def observe(folder: Path, hear: Callable[[str], None]) -> str:
    """Have *hear* called with the name of each file that comes or is completed; returns how that is found out."""
    from watchdog import events
    from watchdog.observers import Observer
    from watchdog.observers.polling import PollingObserver

    class Handler(events.FileSystemEventHandler):
        def on_any_event(self, event: events.FileSystemEvent) -> None:
            hear(os.path.basename(os.fsdecode(event.dest_path or event.src_path)))

    def start(observer: Any, *kinds: Any) -> None:
        # Nothing about opening and reading: every look would be heard of.
        observer.schedule(Handler(), str(folder), event_filter=[*kinds, events.FileMovedEvent])
        observer.start()

    kind = file_system(folder)
    how = f"polling every second, on {kind}"
    if not hears_nothing(kind):
        try:
            start(Observer(), events.FileClosedEvent)
            return EVENTS
        except OSError as error:
            how = f"polling every second ({error.strerror or error})"
    start(PollingObserver(timeout=1.0), events.FileCreatedEvent, events.FileModifiedEvent)
    return how


class _Capture:
    """One thread and no lock: at the pace of checkpoints that are pruned within a millisecond, waiting for one is late.

    watchdog, which has several threads, is at work in a process of its own.
    """

    def __init__(self, folder: Path, queue: Path) -> None:
        self._linker = Linker(folder, queue, lambda text: self._tell(say=text))
        self._events = _fork_observer(folder)
        self._sources: list[Any] = [0, self._events]
        self._seldom = _SELDOM
        self._heard: list[str] = []
        self._torn = b""
        self._how: str | None = None
        self._lively_until = time.monotonic() + _LIVELY
        self._changed = self._new = self._asked = 0  # when the folder was, files to tell of, requests
        self._told, self._over = 0.0, False

    def run(self) -> None:
        while not self._over:
            self._look()
            pause = _LATER if self._linker.pending or self._linker.failed else self._seldom
            if self._how is None or time.monotonic() < self._lively_until:
                pause = _LATER if self._how and self._how != EVENTS else _SOON
            self._wait(pause)

    def _wait(self, seconds: float) -> None:
        """Wait for events and requests; where the folder is local, glance at its time of change meanwhile.

        An event passes through three threads of watchdog before it is here, which takes longer than three small
        checkpoints do, one system call every few milliseconds less.
        """
        until = time.monotonic() + seconds
        glance = _GLANCE if self._how == EVENTS else seconds
        while True:
            found = select.select(self._sources, [], [], max(0.0, min(glance, until - time.monotonic())))[0]
            for ready in found:
                if ready == 0:
                    asked = os.read(0, 4096)
                    self._asked += len(asked)
                    self._over = not asked
                else:
                    self._hear(self._events.recv(1 << 16))
            before = self._changed
            with suppress(OSError):
                self._changed = os.stat(self._linker.folder).st_mtime_ns
            if self._changed != before:
                self._lively_until = time.monotonic() + _LIVELY
            elif not found and time.monotonic() < until:
                continue
            return

    def _hear(self, received: bytes) -> None:
        if not received:
            self._tell(say="the process that listens for checkpoints has died; looking every half a second")
            self._sources.remove(self._events)
            self._seldom, self._how = _LATER, "looking"
            return
        *words, self._torn = (self._torn + received).split(b"\0")
        if words and self._how is None:
            self._how = os.fsdecode(words.pop(0))
            if self._how != EVENTS:
                self._tell(say=f"looking for checkpoints by {self._how}")
        # The name of a temporary file counts, too: what it becomes may be gone at once.
        self._heard += [name for name in map(os.fsdecode, words) if name.startswith("checkpoint")]
        if self._heard:
            self._lively_until = time.monotonic() + _LIVELY

    def _look(self) -> None:
        asked = self._asked if self._how else 0
        heard, self._heard = self._heard, []
        self._new += self._linker.look()
        missed = self._missed(heard)
        if missed or asked or (self._new and time.monotonic() > self._told + _TELL):
            self._tell(new=self._new, missed=missed, looked=asked)
            self._asked -= asked
            self._new, self._told = 0, time.monotonic()

    def _missed(self, heard: Sequence[str]) -> list[str]:
        """Checkpoints that came and were pruned before they could be linked."""
        linker = self._linker
        names = [name for name in dict.fromkeys(heard) if CANDIDATE.fullmatch(name)] + list(linker.pending)
        gone = [name for name in names if _is_gone(linker.folder / name)]
        for name in gone:
            linker.pending.pop(name, None)
        missed = [name for name in gone if name not in linker.names]
        linker.names.update(missed)
        return missed

    def _tell(self, **words: Any) -> None:
        try:
            print(json.dumps(words), flush=True)
        except (BrokenPipeError, ValueError):
            self._over = True


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:  # a folder that is out of reach says nothing of what is in it
        return isinstance(error, FileNotFoundError)
    return False


def _fork_observer(folder: Path) -> socket.socket:
    """Start a process that says how it finds out, then the name of each file, with a zero after each."""
    here, there = socket.socketpair()
    if os.fork():
        there.close()
        return here
    try:
        here.close()
        for standard in (0, 1):
            os.close(standard)
        lock = threading.Lock()

        def hear(name: str) -> None:
            with lock:
                _tell(there, name)

        with lock:  # the way comes first
            _tell(there, observe(folder, hear))
        there.recv(1)  # until the other end is gone
    finally:
        os._exit(0)


def _tell(there: socket.socket, text: str) -> None:
    with suppress(OSError):  # nobody listens any more, and this process is about to end, too
        there.sendall(os.fsencode(text) + b"\0")


def main(folder: str, queue: str) -> None:
    """Link the checkpoints of *folder* into *queue* until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal sends them to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    _Capture(Path(folder), Path(queue)).run()
