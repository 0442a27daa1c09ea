#!/usr/bin/env -S python3 -IS
"""A command for the PATH of scripts, by the name of its link: forked from a warm process, see ``warm.py``."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from typing import Any

ADDRESSES = "FAIRSEQ_CLOZE_WARM"
LENGTH = struct.Struct("!Q")
STATUS = struct.Struct("!qq")


def ask(address: str, request: dict[str, Any], files: list[int]) -> None:
    """Send a request to the warm process at a socket."""
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [LENGTH.pack(len(body))], files)
        connection.sendall(body)


def main() -> None:
    """Start the command, pass signals on to it, and end as it does."""
    address, script = json.loads(os.environ[ADDRESSES])[os.path.basename(sys.argv[0])]
    request = {
        "script": script,
        "arguments": sys.argv[1:],
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "start_new_session": False,
    }
    reading, writing = os.pipe()
    ask(address, request, [0, 1, 2, writing])
    os.close(writing)
    pid, _ = STATUS.unpack(os.read(reading, STATUS.size))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    _, status = STATUS.unpack(os.read(reading, STATUS.size))
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
