"""A web server on 127.0.0.1 that apprise tells things, and that refuses or hangs on demand."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .mail_server import until


@dataclass
class ServiceServer:
    """A server of its own thread.

    ``statuses`` holds for a path what to answer the next times, in this order; then all is well.  A negative status is
    so many seconds of silence.
    """

    statuses: dict[str, list[int]] = field(default_factory=dict)
    received: list[tuple[str, str, str]] = field(default_factory=list)  #: path, title and text of what was taken
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> ServiceServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(self.path)
                waiting = server.statuses.get(self.path)
                status = waiting.pop(0) if waiting else 200
                if status < 0:
                    time.sleep(-status)
                    status = 200
                if status == 200:
                    server.received.append((self.path, body["title"], body["message"]))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str = "", secret: str = "") -> str:
        """What apprise calls a path of this server; *secret* is a user's name and password."""
        return f"json://{secret + '@' if secret else ''}127.0.0.1:{self.port}/{path}"

    def wait(self, number: int = 1, limit: float = 60.0) -> list[tuple[str, str, str]]:
        """What was taken, once there is so much."""
        until(lambda: len(self.received) >= number, limit)
        return self.received
