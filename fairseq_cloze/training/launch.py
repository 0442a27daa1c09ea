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
from ..runs.lock import RUN_FILE, RunState, run_state

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


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


def run_training(command: Sequence[str]) -> int:
    """Run a command of fairseq to its end, with the signals that this process gets; returns its exit status."""
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else command[0]
    if shutil.which(program) is None:
        raise ClozeError(f"{program}: not found beside {sys.executable} nor on PATH; install fairseq there")
    child = Child()
    sys.stdout.flush()
    with child.signals():
        problem = child.start([program, *command[1:]], {"PYTHONWARNINGS": "ignore", **os.environ}, [])
        while not child.has_ended():
            if select.select([child.wake], [], [], 1.0)[0]:
                os.read(child.wake, 4096)
    if problem:
        raise ClozeError(problem)
    if not child.status and {number.name for number in _SIGNALS} & set(child.forwarded):
        _end_to_go_on()  # it was done before it heard
    return child.status


@contextmanager
def watching(save_dir: Path, data_bin: Path, device: str | None) -> Iterator[subprocess.Popen[bytes] | None]:
    """A watch of a save-dir in a process of its own while the training runs; none where *device* is ``None``.

    Signals to this process do not reach it.  It is stopped unless it has ended by itself.

    Raises:
        ClozeError: a training runs there already
    """
    if run_state(save_dir) is RunState.RUNNING:
        raise ClozeError(f"{save_dir}: another training writes there; wait for it, or choose another --out")
    save_dir.mkdir(parents=True, exist_ok=True)
    if device is None:
        yield None
        return
    (save_dir / RUN_FILE).unlink(missing_ok=True)  # of an earlier run: the watch would see that one end
    package = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", package.name, "watch", str(save_dir), str(data_bin), "--device", device]
    watch = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
    try:
        yield watch
    finally:
        if watch.poll() is None:
            watch.terminate()
        watch.wait()
