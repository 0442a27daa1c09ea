"""Fuzzing: inputs for the targets, what they do with them, and the findings as files.

Inputs are made by atheris, which looks for those that reach new lines, or by :mod:`.mutations`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

from . import mutations

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
SECONDS = 5  #: an input may take
MEGABYTES = 2000  #: a target may have more than after its import


class Target(Protocol):
    """A module ``fuzz_NAME``."""

    def seeds(self) -> list[bytes]:
        """Small valid inputs."""

    def attack(self, data: bytes) -> None:
        """Feed an input to a parser; what is raised is a finding."""


class TooSlow(BaseException):
    """An input took longer than it may; no Exception, so that nobody swallows it."""


def names() -> list[str]:
    """All targets."""
    return sorted(each.name[5:] for each in pkgutil.iter_modules([str(HERE)]) if each.name.startswith("fuzz_"))


def load(name: str) -> Target:
    """Import a target."""
    return cast(Target, importlib.import_module(f"{__package__}.fuzz_{name}"))


def known_inputs(name: str, target: Target) -> list[bytes]:
    """Seeds, and what was found before."""
    return [*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlow` inside where that takes too long."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def failure(target: Target, data: bytes) -> BaseException | None:
    """What a target raises for an input."""
    try:
        with limited(SECONDS):
            target.attack(data)
    except (Exception, TooSlow) as error:
        return error
    except SystemExit as error:
        return error
    return None


def kind(error: BaseException) -> str:
    """Errors of one kind come from one place."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "fairseq_cloze" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__} at {where}"


@dataclass
class Tally:
    """How far a child has come; it survives the child as a file."""

    inputs: int = 0
    findings: dict[str, int] = field(default_factory=dict)  #: how many of each kind

    def record(self, folder: Path, data: bytes, what: str, text: str) -> None:
        """Count a finding; the first of its kind is kept as a file, with the traceback beside it."""
        self.findings[what] = self.findings.get(what, 0) + 1
        if self.findings[what] == 1:
            digest = hashlib.sha256(data).hexdigest()[:12]
            (folder / digest).write_bytes(data)
            (folder / f"{digest}.txt").write_text(f"{what}\n{text}", errors="backslashreplace")

    def save(self, folder: Path) -> None:
        """Keep it."""
        (folder / "tally.json").write_text(json.dumps({"inputs": self.inputs, "findings": self.findings}))

    @classmethod
    def read(cls, folder: Path) -> Tally:
        """That of the children before."""
        path = folder / "tally.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


def child(name: str, folder: Path, inputs: int, seconds: float, seed: int, guided: bool) -> None:
    """Attack one target until *inputs* are done in all, in a process that may die of it."""
    tally, end = Tally.read(folder), time.monotonic() + seconds
    if guided:
        import atheris

        with atheris.instrument_imports(include=["fairseq_cloze"]):
            target = load(name)
    else:
        target = load(name)
    known = known_inputs(name, target)
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:")]
    most = (int(line.split()[1]) << 10) + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    current = open(folder / "current", "wb", buffering=0)
    saved = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal saved
        current.seek(0)
        current.truncate()
        current.write(data)
        error = failure(target, data)
        tally.inputs += 1
        if error is not None:
            tally.record(folder, data, kind(error), "".join(traceback.format_exception(error)))
        if error is not None or time.monotonic() - saved > 1:
            tally.save(folder)
            saved = time.monotonic()

    def finish() -> None:
        tally.save(folder)
        (folder / "current").unlink()
        sys.stdout.flush()
        os._exit(0)  # libFuzzer does not return

    for data in known if tally.inputs == 0 else []:
        one(data)
    if guided:

        def guided_one(data: bytes) -> None:
            one(data)
            if tally.inputs >= inputs or time.monotonic() > end:
                finish()

        start = folder / "start"
        start.mkdir(exist_ok=True)
        for data in known:
            (start / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
        atheris.Setup(
            [name, f"-seed={seed + 1 + tally.inputs}", "-timeout=60", "-rss_limit_mb=0", "-verbosity=0", str(start)],
            guided_one,
        )
        atheris.Fuzz()
    while tally.inputs < inputs and time.monotonic() < end:
        one(mutations.mutated(known, f"{seed} {name} {tally.inputs}"))
    finish()


def run(name: str, out: Path, inputs: int, seconds: float, seed: int, guided: bool) -> tuple[Tally, float]:
    """Attack a target in child processes; one that dies or hangs is a finding, too, and another one goes on.

    Returns:
        what was found, and the seconds it took
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / "tally.json", folder / "current"):
        path.unlink(missing_ok=True)
    start = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - start)
        words = [name, str(folder), str(inputs), str(left), str(seed), str(int(guided))]
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            hung = not _ends(process, folder)
        tally = Tally.read(folder)
        current = folder / "current"
        if not current.exists():
            if process.returncode:
                tally.record(folder, b"", f"no start, status {process.returncode}", (folder / "log.txt").read_text())
            break
        data, what = current.read_bytes(), "hung" if hung else f"died with status {process.returncode}"
        tally.inputs += 1
        tally.record(folder, data, what, (folder / "log.txt").read_text(errors="replace")[-5000:])
        tally.save(folder)
        current.unlink()
        if time.monotonic() - start > seconds or tally.inputs >= inputs or tally.findings[what] > 20:
            break
    return Tally.read(folder), time.monotonic() - start


def _ends(process: subprocess.Popen[bytes], folder: Path, patience: float = 60) -> bool:
    """Wait for a child; ``False``, and its end, where it does not come on, which no signal to Python can mend."""
    last, since = -1.0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        try:
            changed = (folder / "current").stat().st_mtime
        except FileNotFoundError:
            changed = 0.0
        if changed != last:
            last, since = changed, time.monotonic()
        elif time.monotonic() - since > patience + SECONDS:
            process.kill()
            process.wait()
            return False
    return True
