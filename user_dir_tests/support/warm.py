"""Commands without the seconds that imports take: forked from a process that has them behind it.

What is forked is a process of its own, with its own arguments, environment, folder, files, session and exit status, and
it runs the same script.  Only what the environment does to a Python that starts, and the imports themselves, need a
process from scratch.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from .warm_client import ADDRESSES, STATUS, ask

#: What the environment says to Python and to libraries when they start.
_AT_START = ("PYTHON", "LD_", "OMP_", "MKL_", "MALLOC_", "TORCH_", "HF_", "LOGLEVEL", "CUDA_", "LANG", "LC_")

#: Modules that our commands import.
TORCH = ("torch", "torch.distributed.run", "click", "numpy", "safetensors.torch", "tokenizers.implementations", "tqdm")

#: Modules that fairseq's commands import, ours aside.
FAIRSEQ = (*TORCH, "torch._dynamo", "torch.distributed.fsdp", "fairseq", "fairseq.trainer")


#: What the process is to have imported that a command is forked from.
OURS = {
    "fairseq-train": FAIRSEQ,
    "fairseq-validate": FAIRSEQ,
    "fairseq-hydra-train": FAIRSEQ,
    "fairseq-cloze": TORCH,
    "torchrun": TORCH,
}

_SHARED = "FAIRSEQ_CLOZE_WARM_SHARED"

HERE = Path(__file__).parent

_kept: list[socket.socket] = []  # open as long as this process lives


class WarmProcess(subprocess.Popen[str]):
    """A ``Popen`` whose process is forked from one with *packages* imported, started in environment *base*."""

    def __init__(self, packages: tuple[str, ...], base: dict[str, str], *args: Any, **kwargs: Any) -> None:
        self._address = address(packages, tuple(base.items()))
        super().__init__(*args, **kwargs)

    def _execute_child(self, *args: Any) -> None:  # the hook that Popen has for each system
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *args).arguments  # type: ignore[attr-defined]
        assert given["preexec_fn"] is None and not given["pass_fds"] and not given["shell"]
        reading, writing = os.pipe()
        files = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        files = [number if file == -1 else file for number, file in enumerate(files)]
        script, *arguments = given["args"]
        request = {
            "script": script,
            "arguments": arguments,
            "cwd": str(given["cwd"]),
            "env": given["env"],
            "start_new_session": given["start_new_session"],
        }
        ask(self._address, request, [*files, writing])
        os.close(writing)
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in names))  # type: ignore[attr-defined]
        self._ended = reading
        answer = os.read(reading, STATUS.size)
        assert answer, "the warm process has ended"
        self.pid = STATUS.unpack(answer)[0]
        self._child_created = True

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags and not select.select([self._ended], [], [], 0)[0]:
            return 0, 0
        answer = os.read(self._ended, STATUS.size)
        assert answer, "the warm process has ended"
        os.close(self._ended)
        pid, status = STATUS.unpack(answer)
        return pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def packages_for(name: str, env: dict[str, str], base: dict[str, str]) -> tuple[str, ...]:
    """What the process is to have imported that a command can be forked from; nothing if it needs one from scratch.

    Args:
        name: of the command
        env: its environment
        base: that of warm processes
    """
    if sys.platform != "linux" or at_start(env) != at_start(base):
        return ()
    return OURS.get(name, ())


def at_start(env: dict[str, str]) -> dict[str, str]:
    """What of an environment a Python heeds when it starts."""
    return {name: value for name, value in env.items() if name.startswith(_AT_START)}


def share(base: dict[str, str]) -> None:
    """Start warm processes in environment *base* for this process and all that it starts."""
    addresses = {" ".join(packages): address(packages, tuple(base.items())) for packages in (TORCH, FAIRSEQ)}
    os.environ[_SHARED] = json.dumps([at_start(base), addresses])


@cache
def address(packages: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> str:
    """The socket of a warm process, which ends with this one or with the one that shares it."""
    started, addresses = json.loads(os.environ.get(_SHARED, "[null, {}]"))
    if started == at_start(dict(env)) and " ".join(packages) in addresses:
        return str(addresses[" ".join(packages)])
    path = os.path.join(tempfile.mkdtemp(prefix="warm-"), "socket")
    atexit.register(shutil.rmtree, os.path.dirname(path), ignore_errors=True)
    ours, theirs = socket.socketpair()
    _kept.append(ours)
    with theirs, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        numbers = theirs.fileno(), listener.fileno()
        command = [sys.executable, str(HERE / "warm_server.py"), *map(str, numbers), *packages]
        null = subprocess.DEVNULL
        subprocess.Popen(command, env=dict(env), pass_fds=numbers, stdin=null, stdout=null, stderr=null)
    return path


def on_path(folder: Path, base: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """Variables with which scripts find commands in *folder* that are forked from a warm process, too.

    What a script sets for the Python that it starts has no effect then.

    Args:
        folder: to make
        base: environment of warm processes
        names: commands of ours, or paths of Python scripts
    """
    folder.mkdir(exist_ok=True)
    paths = [Path(sys.executable).parent / name for name in names]
    for path in paths:
        (folder / path.name).symlink_to(HERE / "warm_client.py" if sys.platform == "linux" else path)
    addresses = {path.name: (address(OURS.get(path.name, TORCH), tuple(base.items())), str(path)) for path in paths}
    return {"PATH": f"{folder}:{base['PATH']}", ADDRESSES: json.dumps(addresses)}
