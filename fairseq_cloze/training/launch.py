"""Launch: ``fairseq-train`` and a watch beside it as processes, and what signals do to them."""

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ClozeError, Exit
from ..runlog.child import Child
from ..runs.lock import LOG_VARIABLE, RUN_FILE, RunState, run_state
from .progress import Progress

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_GLANCE = 0.5  # seconds between looks at what is new


@contextmanager
def requeued_by_signals() -> Iterator[None]:
    """USR1 and TERM end this process with ``Exit.REQUEUE``: the same command goes on with what is not yet done."""

    def stop(number: int, frame: Any) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        _end_to_go_on()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_to_go_on() -> NoReturn:
    print(
        f"Stopped, as it was told to: start the same command again to go on (exit status {Exit.REQUEUE})",
        file=sys.stderr,
    )
    raise SystemExit(Exit.REQUEUE)


def run_training(command: Sequence[str], progress: Progress) -> int:
    """Run a command of fairseq to its end, with the signals that this process gets; returns its exit status.

    What it prints goes straight into the log, which is complete whatever becomes of this process.
    """
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else command[0]
    if shutil.which(program) is None:
        raise ClozeError(f"{program}: not found beside {sys.executable} nor on PATH; install fairseq there")
    child = Child()
    sys.stdout.flush()
    environ = {
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        LOG_VARIABLE: str(progress.log.absolute()),
    }
    with child.signals():
        into_log = [(os.POSIX_SPAWN_DUP2, progress.log_fd, number) for number in (1, 2)]
        problem = child.start([program, *command[1:]], environ, into_log)
        while not child.has_ended():
            if select.select([child.wake], [], [], _GLANCE)[0]:
                os.read(child.wake, 4096)
            progress.look()
    if problem:
        raise ClozeError(problem)
    if not child.status and {number.name for number in _SIGNALS} & set(child.forwarded):
        _end_to_go_on()  # it was done before it heard
    return child.status


def wait_for(watch: subprocess.Popen[bytes], progress: Progress) -> int:
    """Wait until a watch has scored the last checkpoint; returns its exit status."""
    while True:
        try:
            return watch.wait(_GLANCE)
        except subprocess.TimeoutExpired:
            progress.look()


def own_command(*words: str) -> tuple[list[str], dict[str, str]]:
    """What runs a command of this package in a process of its own, and in which environment."""
    package = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    return [sys.executable, "-m", package.name, *words], {**os.environ, "PYTHONPATH": path}


def claim_save_dir(save_dir: Path) -> None:
    """Make sure that nobody else trains into a folder, which is made where it is missing.

    Raises:
        ClozeError: another training runs there
    """
    if run_state(save_dir) is RunState.RUNNING:
        raise ClozeError(f"{save_dir}: another training writes there; wait for it, or choose another --out")
    save_dir.mkdir(parents=True, exist_ok=True)


@contextmanager
def watching(
    save_dir: Path, data_bin: Path, device: str | None, progress: Progress
) -> Iterator[subprocess.Popen[bytes] | None]:
    """A watch of a save-dir in a process of its own while the training runs; none where *device* is ``None``.

    What it prints goes into the log, too.  Signals to this process do not reach it.  It is stopped unless it has ended
    by itself.
    """
    if device is None:
        yield None
        return
    (save_dir / RUN_FILE).unlink(missing_ok=True)  # of an earlier run: the watch would see that one end
    command, environ = own_command("watch", str(save_dir), str(data_bin), "--device", device)
    watch = subprocess.Popen(
        command,
        env=environ,
        stdout=progress.log_fd,
        stderr=progress.log_fd,
        start_new_session=True,
    )
    try:
        yield watch
    finally:
        if watch.poll() is None:
            watch.terminate()
        watch.wait()
