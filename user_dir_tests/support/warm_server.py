"""A process that has imported torch (and fairseq) and forks a child for each command; see :mod:`.warm`.

    python warm_server.py OWNER LISTENER PACKAGE...

OWNER and LISTENER are numbers of open sockets.  The server ends when the other end of OWNER is closed.  Requests are
connections to LISTENER, each with four files: standard input, output and error of the command, and a pipe that gets
its process id and, at its end, what ``waitpid`` says of it.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

from preloading import preload  # type: ignore[import-not-found]
from warm_client import LENGTH, STATUS  # type: ignore[import-not-found]


def serve(owner: socket.socket, listener: socket.socket) -> dict[str, Any]:
    """Fork a child for each request; return in the children only, with the request."""
    told, wake = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([owner.fileno(), listener.fileno(), told], [], [])
        if told in ready:
            os.read(told, 4096)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    _tell(running[pid], pid, status)
                    os.close(running.pop(pid))
        if owner.fileno() in ready:
            os._exit(0)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            with connection:
                head, files, _, _ = socket.recv_fds(connection, LENGTH.size, 4)
                [length] = LENGTH.unpack(head)
                request: dict[str, Any] = json.loads(connection.recv(length, socket.MSG_WAITALL))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, file in enumerate(files[:3]):
                    os.dup2(file, number)
                for file in (*files, told, wake, *running.values()):
                    os.close(file)
                owner.close()
                listener.close()
                return request
            for file in files[:3]:
                os.close(file)
            running[pid] = files[3]
            _tell(files[3], pid, 0)


def _tell(pipe: int, pid: int, status: int) -> None:
    try:
        os.write(pipe, STATUS.pack(pid, status))
    except BrokenPipeError:  # nobody wants to know
        pass


def become(request: dict[str, Any]) -> None:
    """Look like a process that has just been started."""
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin = sys.__stdin__ = _standard(0, "r", "strict")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _standard(1, "w", "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _standard(2, "w", "backslashreplace")  # type: ignore[misc]
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed()
    sys.argv = [request["script"], *request["arguments"]]
    sys.path.insert(0, os.path.dirname(request["script"]))


def _standard(file: int, mode: str, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(file, mode, closefd=False)
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding="utf-8",
        errors=errors,
        newline=None if mode == "r" else "\n",
        line_buffering=file == 2 or raw.isatty(),
    )


if __name__ == "__main__":
    del sys.path[0]
    sockets = [socket.socket(fileno=int(number)) for number in sys.argv[1:3]]
    if sockets[0] in select.select(sockets, [], [])[0]:  # nobody needed it
        sys.exit()
    preload(sys.argv[3:])
    become(serve(*sockets))
    if sys.argv[1:2] == ["-c"]:
        code = sys.argv.pop(2)
        del sys.argv[0]
        sys.path[0] = ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
