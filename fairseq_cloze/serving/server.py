"""Server: the application under uvicorn, in a thread of its own, until it is told to stop."""

import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..errors import ClozeError, SetupError
from ..passages.markers import compile_marker
from ..ranking.ranker import Ranker
from .application import DEFAULT_LIMITS, Application, Limits
from .batching import Batcher

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise SetupError("uvicorn is not installed; run: pip install 'fairseq-cloze[serve]'") from error

from .application import refusal

_BACKLOG = 1024  # connections that the system keeps until they are taken
_GRACE = 0.5  # seconds in which requests that are on their way at a stop still count as accepted
_REST = 5.0  # seconds that a stop takes longer than the longest answer, at most


class _Protocol(H11Protocol):
    """HTTP with what uvicorn has no limits for: connections, and the time in which the head of a request arrives."""

    limits: Limits = DEFAULT_LIMITS
    _late: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections; ask again in a moment")
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def shutdown(self) -> None:
        """End the connection, but for a request that is on its way or at work."""
        self.loop.call_later(_GRACE, super().shutdown)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._late is not None:
            self._late.cancel()

    def _expect_head(self) -> None:
        """Close in time where a request has not begun, or its head is not whole."""
        if self.conn.their_state is not h11.IDLE:
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(self.limits.request_seconds, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in words of our own."""
        self._refuse(400, "expected an HTTP request, found something else, or one with too large a head")

    def _refuse(self, status: int, problem: str) -> None:
        made = refusal(status, problem, connection="close")
        headers = [(name.encode(), value.encode()) for name, value in made.headers.items()]
        headers.append((b"content-length", str(len(made.body)).encode()))
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=made.body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class Server:
    """A ranker that answers over HTTP while the ``with`` block runs; at its end every accepted request is answered.

    Args:
        ranker: what answers
        name: of the model
        port, host: where to listen; port 0 is one that is free
        limits: what is refused
        blank: regular expression of what stands for a blank; runs of underscores where it is not given

    Raises:
        ClozeError: the port cannot be used
    """

    def __init__(
        self,
        ranker: Ranker,
        name: str,
        port: int = 0,
        host: str = "127.0.0.1",
        limits: Limits = DEFAULT_LIMITS,
        blank: str | None = None,
    ) -> None:
        marker = compile_marker(blank)
        self._socket = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/"  #: of the page
        self._batcher = Batcher(ranker, limits.waiting)
        application = Application(self._batcher, name, {host, socket.gethostname()}, limits, marker)
        protocol = type("_Limited", (_Protocol,), {"limits": limits})
        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                http=protocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                backlog=_BACKLOG,
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=1 << 14,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=int(limits.seconds + limits.request_seconds + _REST),
            )
        )
        self._ended = threading.Event()  # as Python 3.11 takes a thread for ended whose join() was interrupted

    @property
    def answered(self) -> int:
        """Passages so far."""
        return self._batcher.answered

    def __enter__(self) -> "Server":
        threading.Thread(target=self._run, name="http", daemon=True).start()
        return self

    def _run(self) -> None:
        try:
            self._server.run([self._socket])
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Return when the server has ended by itself, which it does not without a fault; signals interrupt this."""
        self._ended.wait()
        raise ClozeError("the server has ended, though nobody stopped it; its output may say why")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        try:
            self._ended.wait()
        except KeyboardInterrupt:  # told twice
            self._server.force_exit = True
            raise
        self._batcher.close()


def serve(
    ranker: Ranker,
    name: str,
    port: int,
    host: str = "127.0.0.1",
    limits: Limits = DEFAULT_LIMITS,
    blank: str | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Answer over HTTP until a signal comes; arguments and errors are those of :class:`Server`.

    Args:
        tell: given a line where it begins, when it is to stop, and when it has

    Raises:
        KeyboardInterrupt: when it has stopped, as it was told to
    """
    server = Server(ranker, name, port, host, limits, blank)
    try:
        with server:
            tell(f"{name} answers at {server.url} until Ctrl-C")
            try:
                server.wait()
            except KeyboardInterrupt:
                tell("stopping: what was asked is still answered")
                raise
    finally:
        tell(f"stopped; {server.answered:,} passages were answered")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = os.strerror(code) if (code := getattr(error, "errno", None) or 0) > 0 else str(error)
        raise ClozeError(f"{host}:{port}: cannot be listened at ({reason}); choose another port or host") from error
