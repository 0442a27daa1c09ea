"""Application: what is answered to which HTTP request, as ASGI has it; see docs/try.md.

Pages of other sites can make a browser send requests here.  So a request must name this server by a name that only it
has (else a site could let its own name lead here), and one that asks for work must be JSON from no other site.
"""

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ClozeError, OutOfMemory, PassageError, first_line, printable
from ..jsontext import NotJson, parse_json
from ..passages.markers import Marker
from ..passages.passage import Passage
from .batching import Batcher, BusyError

_PAGE = "page.html"
_JSON = "application/json"
_DRAINED = 16  # times the largest body, which is read of a larger one, so that its sender gets to read the answer

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What is refused."""

    body: int = 1 << 18  #: bytes of a request
    passages: int = 256  #: of a request
    blanks: int = 200  #: of a passage
    candidates: int = 2000  #: of a passage, all blanks together
    waiting: int = 1024  #: passages that wait
    connections: int = 512
    seconds: float = 60.0  #: from a request to its answer
    request_seconds: float = 10.0  #: in which a request has to arrive


DEFAULT_LIMITS = Limits()


class Refused(Exception):
    """A request that is not answered, with HTTP's status."""

    def __init__(self, status: int, problem: str, **headers: str) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class _Gone(Exception):
    """Who asked does not wait for an answer any more."""


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def of_json(cls, value: Any, status: int = 200, **headers: str) -> "Response":
        """One that holds a value as JSON."""
        text = json.dumps(value, ensure_ascii=False) + "\n"
        return cls(status, text.encode(), {"content-type": f"{_JSON}; charset=utf-8", **headers})


def refusal(status: int, problem: str, **headers: str) -> Response:
    """An answer that says why there is none."""
    return Response.of_json({"error": printable(problem)}, status, **headers)


class Application:
    """Answers requests: the page at ``/``, ``/health``, and passages at ``/predict``.

    Args:
        batcher: what answers passages
        name: of the model
        hosts: names of this server besides ``localhost`` and IP addresses
        limits: what is refused
        marker: what stands for a blank; runs of underscores where it is not given
    """

    def __init__(
        self,
        batcher: Batcher,
        name: str,
        hosts: Iterable[str] = (),
        limits: Limits = DEFAULT_LIMITS,
        marker: Marker | None = None,
    ) -> None:
        self._batcher = batcher
        self._name = name
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._limits = limits
        self._marker = marker
        self._routes: dict[str, tuple[str, Callable[[Mapping[str, str], Receive], Awaitable[Response]]]] = {
            "/": ("GET", self._page),
            "/health": ("GET", self._health),
            "/predict": ("POST", self._predict),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            response = await self._respond(scope, receive)
        except _Gone:
            return
        headers = {
            **response.headers,
            "content-length": str(len(response.body)),
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": pairs})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, scope: Any, receive: Receive) -> Response:
        try:
            headers = _headers(scope)
            if not self._is_own(headers.get("host", "")):
                raise Refused(403, "expected a request to localhost or an IP address, found another Host")
            if scope["path"] not in self._routes:
                raise Refused(404, f"expected one of {', '.join(self._routes)}")
            method, respond = self._routes[scope["path"]]
            if scope["method"] not in (method, "HEAD" if method == "GET" else method):
                raise Refused(405, f"expected {method}, found {scope['method']}", allow=method)
            return await respond(headers, receive)
        except Refused as refused:
            return refusal(refused.status, refused.problem, **refused.headers)

    def _is_own(self, host: str) -> bool:
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:@/\[\]]+))(?::\d{1,5})?", host)
        if not found:
            return False
        name = (found[1] or found[2]).lower()
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)  # which no other site can have for a name
        except ValueError:
            return False
        return True

    async def _page(self, headers: Mapping[str, str], receive: Receive) -> Response:
        content, policy = _page()
        return Response(200, content, {"content-type": "text/html; charset=utf-8", "content-security-policy": policy})

    async def _health(self, headers: Mapping[str, str], receive: Receive) -> Response:
        batcher = self._batcher
        state = {"status": "ok", "model": self._name, "waiting": batcher.waiting, "answered": batcher.answered}
        return Response.of_json(state)

    async def _predict(self, headers: Mapping[str, str], receive: Receive) -> Response:
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"{s}://{headers['host'].lower()}" for s in ("http", "https")):
            raise Refused(
                403, "expected a request of this server's own page or of a program, found one of another site"
            )
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != _JSON or "content-encoding" in headers:
            raise Refused(415, f"expected plain Content-Type: {_JSON}, found {kind[:60] or 'none'}")
        fields = self._parse(await self._body(headers, receive))
        passages = self._passages(fields if isinstance(fields, list) else [fields])
        entries = await self._answers(passages, receive)
        return Response.of_json(entries if isinstance(fields, list) else entries[0])

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        most, body, read = self._limits.body, bytearray(), 0
        length = headers.get("content-length", "")
        too_large = length.isdigit() and int(length[:20]) > most
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                more = True
                while more and read <= _DRAINED * most:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Gone
                    more = message.get("more_body", False)
                    read += len(message["body"])
                    too_large = too_large or read > most
                    if not too_large:
                        body += message["body"]
        except TimeoutError:
            if not too_large:
                problem = f"expected a request within {self._limits.request_seconds:g} seconds, found a part of one"
                raise Refused(408, problem, connection="close") from None
        if too_large:
            raise Refused(413, f"expected at most {most:,} bytes, found more; send less at a time", connection="close")
        return bytes(body)

    def _parse(self, body: bytes) -> Any:
        try:
            return parse_json(body)
        except NotJson as error:
            raise Refused(400, str(error)) from error

    def _passages(self, found: list[Any]) -> list[Passage]:
        limits, passages = self._limits, []
        if not 1 <= len(found) <= limits.passages:
            raise Refused(422, f"expected 1 to {limits.passages:,} passages, found {len(found):,}")
        for number, fields in enumerate(found, 1):
            source = f"passage {number}"
            try:
                passage = Passage.from_json(fields, source, str(number), self._marker)
            except PassageError as error:
                raise Refused(422, f"{source}: {error.problem}") from error
            candidates = sum(map(len, passage.candidates))
            if len(passage.gold) > limits.blanks or candidates > limits.candidates:
                raise Refused(
                    422,
                    f"{source}: expected at most {limits.blanks:,} blanks and {limits.candidates:,} options, found "
                    f"{len(passage.gold):,} and {candidates:,}; send it in parts",
                )
            passages.append(passage)
        return passages

    async def _answers(self, passages: list[Passage], receive: Receive) -> list[dict[str, Any]]:
        try:
            futures = self._batcher.submit(passages)
        except BusyError:
            raise Refused(503, "too many passages wait; ask again in a moment", retry_after="1") from None
        answered = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        gone = asyncio.ensure_future(receive())
        try:
            done, _ = await asyncio.wait(
                {answered, gone}, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            gone.cancel()
        if answered not in done:
            answered.cancel()
            if gone in done:
                raise _Gone
            raise Refused(504, f"no answer within {self._limits.seconds:g} seconds; ask again later, or for less")
        out = []
        for passage, entry in zip(passages, answered.result()):
            if isinstance(entry, BaseException):
                raise _fault(entry)
            out.append({"id": passage.id, **entry.to_dict()})
        return out


def _fault(error: BaseException) -> Refused:
    """A passage that could not be scored: its own fault, or ours."""
    if isinstance(error, ClozeError):
        return Refused(503 if isinstance(error, OutOfMemory) else 422, str(error))
    print(f"Error: {type(error).__name__}: {printable(first_line(error))}", file=sys.stderr, flush=True)
    return Refused(500, "the server made a mistake; its own output says more")


def _headers(scope: Any) -> dict[str, str]:
    """Names, in lower case, and values; a name that stands twice has a value that nothing allows."""
    out: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1")
        out[key] = f"{out[key]}, {value.decode('latin-1')}" if key in out else value.decode("latin-1")
    return out


@cache
def _page() -> tuple[bytes, str]:
    """The page, and the policy that lets a browser run its own script and style and nothing else."""
    content = Path(__file__).with_name(_PAGE).read_text(encoding="utf-8")
    sources = {}
    for tag in ("script", "style"):
        [inner] = re.findall(f"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        sources[tag] = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{sources['script']}'; style-src 'sha256-{sources['style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return content.encode(), policy
