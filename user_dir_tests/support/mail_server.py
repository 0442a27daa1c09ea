"""A real SMTP server (aiosmtpd) for tests, which refuses, hangs and hangs up on demand."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

#: Instead of a reply.
HANG, DROP, TAKEN, LATE = "hang", "drop", "taken", "late"


@dataclass
class Received:
    """A message that the server took."""

    sender: str
    to: list[str]
    raw: bytes
    tls: bool
    user: str | None

    @property
    def message(self) -> EmailMessage:
        message = message_from_bytes(self.raw, policy=default)
        assert isinstance(message, EmailMessage)
        return message

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        """The plain text of the body."""
        body = self.message.get_body(("plain",))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


@dataclass
class Server:
    """A server of its own thread on 127.0.0.1.

    ``replies`` holds for a moment (GREETING, AUTH, MAIL, RCPT or an address, DATA, BODY, END, QUIT) what to answer the
    next times, in this order; then all is well again.  A reply may be HANG or DROP; TAKEN at the END is a server that
    accepts a message and is gone before it says so.  An empty one is the
    usual one, LATE the same after two seconds.
    """

    security: str = "plain"
    users: dict[str, str] = field(default_factory=dict)
    certificate: trustme.LeafCert | None = None
    replies: dict[str, list[str]] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    commands: list[tuple[str, bool]] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Server:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        async def serve() -> None:
            context = None
            if self.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.certificate.configure_cert(context)
            self._server = await self._loop.create_server(
                lambda: _SMTP(
                    self,
                    loop=self._loop,
                    hostname="mail.test",
                    tls_context=context if self.security == "starttls" else None,
                    require_starttls=self.security == "starttls",
                    authenticator=self._authenticate if self.users else None,
                    auth_required=bool(self.users),
                    auth_require_tls=self.security == "starttls"
                    or not self.users,  # without users no log-in is offered
                    data_size_limit=2**26,
                ),
                "127.0.0.1",
                self.port,
                ssl=context if self.security == "ssl" else None,
            )
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_later(0.05, self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(30)
        self._loop.close()

    def next_reply(self, *names: str) -> str | None:
        for name in names:
            if self.replies.get(name):
                return self.replies[name].pop(0)
        return None

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, auth: Any) -> AuthResult:
        assert isinstance(auth, LoginPassword)
        good = self.users.get(auth.login.decode()) == auth.password.decode()
        session.login = auth.login.decode()
        return AuthResult(success=good, handled=False)

    def wait(self, number: int = 1, limit: float = 60.0) -> list[Received]:
        """The messages, once there are so many."""
        until(lambda: len(self.received) >= number, limit)
        return self.received


class _SMTP(SMTP):
    def __init__(self, control: Server, **options: Any) -> None:
        self.control = control
        super().__init__(self, **options)

    async def _said(self, *names: str) -> str | None:
        """The reply to give instead of the usual one; never comes back where the server hangs or hangs up."""
        reply = self.control.next_reply(*names) or None
        if reply == HANG:
            await asyncio.sleep(3600)
        if reply == LATE:
            await asyncio.sleep(2.0)
            return None
        if reply == DROP:
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.abort()
            await asyncio.sleep(3600)
        return reply

    def _tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    async def push(self, status: Any) -> None:
        greeting = self.session is not None and self.session.host_name is None
        if greeting and isinstance(status, (str, bytes)) and status[:3] in ("220", b"220"):
            status = await self._said("GREETING") or status
        await super().push(status)

    async def smtp_AUTH(self, arg: str) -> None:
        self.control.commands.append(("AUTH", self._tls()))
        reply = await self._said("AUTH")
        await (self.push(reply) if reply else super().smtp_AUTH(arg))

    async def smtp_MAIL(self, arg: str | None) -> None:
        self.control.commands.append(("MAIL", self._tls()))
        reply = await self._said("MAIL")
        await (self.push(reply) if reply else super().smtp_MAIL(arg))

    async def smtp_DATA(self, arg: str) -> None:
        self.control.commands.append(("DATA", self._tls()))
        reply = await self._said("DATA")
        if any(self.control.replies.get("BODY", [])[:1]):
            await self.push("354 go on")
            await self._reader.readline()  # the first line of the message
        await self._said("BODY")
        await (self.push(reply) if reply else super().smtp_DATA(arg))

    async def smtp_QUIT(self, arg: str) -> None:
        await self._said("QUIT")
        await super().smtp_QUIT(arg)

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = await self._said(address, "RCPT")
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        reply = self.control.next_reply("END")
        if not reply or reply == TAKEN:
            assert isinstance(envelope.content, bytes)
            self.control.received.append(
                Received(
                    str(envelope.mail_from),
                    list(envelope.rcpt_tos),
                    envelope.content,
                    self._tls(),
                    getattr(session, "login", None),
                )
            )
        if reply == HANG:
            await asyncio.sleep(3600)
        if reply == TAKEN:
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.abort()
            await asyncio.sleep(3600)
        return reply or "250 OK"


class Silent:
    """A listener that accepts and says nothing, or says *piece* again and again every *pause* seconds."""

    def __init__(self, piece: bytes = b"", pause: float = 0.2) -> None:
        self.piece, self.pause = piece, pause
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stopped = False

    def __enter__(self) -> Silent:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while not self._stopped:
                try:
                    connection.sendall(self.piece)
                except OSError:
                    return
                time.sleep(self.pause)

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def fresh_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No mail settings and an empty spool for this process and its children; the folder of the settings file."""
    for name in [name for name in os.environ if name.startswith(("FAIRSEQ_CLOZE_MAIL_", "FAIRSEQ_CLOZE_NOTIFY"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    (folder / "config" / "fairseq-cloze").mkdir(parents=True)
    return folder / "config" / "fairseq-cloze"


def until(condition: Callable[[], object], limit: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
