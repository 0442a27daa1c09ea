"""What is answered over HTTP, and what is refused with which words; over real connections."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.passages.reading import read_passages
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.serving import application

from ..support.commands import PASSAGES

FOUR = ["calm", "cold", "old", "odd"]
ONE = {"id": "a", "article": "It was _ .", "options": [FOUR], "answers": ["B"]}


def test_answers_are_those_of_predict(serving: Callable[..., Any], pretrained: Path) -> None:
    """One by one and together, as predict --scores writes them."""
    asker = serving()
    expected = predict(pretrained / "model.pt", [PASSAGES / "test"], with_probabilities=True).answers
    given = [
        {"id": one.id, "article": one.article, "options": one.candidates, "answers": one.gold}
        for one in read_passages([PASSAGES / "test"])
    ]
    status, together = asker.predict(given)
    assert status == 200 and [entry["id"] for entry in together] == list(expected)
    for fields, entry in zip(given, together):
        alone = asker.predict(fields)
        assert alone[0] == 200
        for found in (entry, alone[1]):
            want = expected[found["id"]]
            assert list(found) == ["id", "answers", "gold", "probabilities"]
            assert (found["answers"], found["gold"]) == (want["answers"], want["gold"])
            assert [pytest.approx(row, abs=2e-6) for row in found["probabilities"]] == want["probabilities"]
    assert asker.server.answered == 16


def test_health_and_page(serving: Callable[..., Any]) -> None:
    asker = serving()
    asker.predict([{key: ONE[key] for key in ("article", "options")}] * 2)
    assert asker.ask("GET", "/health")[:2] == (200, {"status": "ok", "model": "small", "waiting": 0, "answered": 2})
    status, page, headers = asker.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert not re.findall(rb"(?:src|href)=\"(?!data:,)", page)  # nothing from elsewhere
    for name in ("cache-control", "referrer-policy", "x-content-type-options"):
        assert headers[name] in ("no-store", "no-referrer", "nosniff")
    assert asker.ask("HEAD", "/")[:2] == (200, b"")


REFUSED = [
    ({"path": "/nix"}, 404, "expected one of /, /health, /predict"),
    ({"method": "GET"}, 405, "expected POST, found GET"),
    ({"method": "OPTIONS", "Origin": "http://evil.example"}, 405, "expected POST, found OPTIONS"),
    ({"method": "DELETE", "path": "/health"}, 405, "expected GET, found DELETE"),
    ({"Host": "evil.example"}, 403, "expected a request to localhost or an IP address, found another Host"),
    ({"Host": "evil.example:80", "path": "/health", "method": "GET"}, 403,
     "expected a request to localhost or an IP address, found another Host"),
    ({"Host": "localhost.evil.example"}, 403, "expected a request to localhost or an IP address, found another Host"),
    ({"Host": "localhost@evil.example"}, 403, "expected a request to localhost or an IP address, found another Host"),
    ({"Host": ""}, 403, "expected a request to localhost or an IP address, found another Host"),
    ({"Origin": "http://evil.example"}, 403,
     "expected a request of this server's own page or of a program, found one of another site"),
    ({"Origin": "null"}, 403,
     "expected a request of this server's own page or of a program, found one of another site"),
    ({"Content-Type": "text/plain"}, 415, "expected plain Content-Type: application/json, found text/plain"),
    ({"Content-Type": ""}, 415, "expected plain Content-Type: application/json, found none"),
    ({"Content-Encoding": "gzip"}, 415, "expected plain Content-Type: application/json, found application/json"),
    ({"body": b"{"}, 400, "expected JSON, found a mistake in line 1, column 2 "
                          "(Expecting property name enclosed in double quotes)"),
    ({"body": b"\xff"}, 400, "expected UTF-8 text, found byte 0xff at offset 0"),
    ({"body": b"[" * 100_000}, 400, "expected JSON, found it nested too deeply"),
    ({"body": b"[NaN]"}, 400, "expected a finite number, found NaN"),
    ({"body": b"[]"}, 422, "expected 1 to 256 passages, found 0"),
    ({"body": json.dumps([ONE] * 257).encode()}, 422, "expected 1 to 256 passages, found 257"),
    ({"body": b"7"}, 422, "passage 1: expected a JSON object with 'article', 'options', 'answers', found 7"),
    ({"body": json.dumps([ONE, {**ONE, "options": [["one"]]}]).encode()}, 422,
     "passage 2: blank 1, field 'options': expected a list of 2 to 127 strings, found 1"),
    ({"body": json.dumps({**ONE, "article": "No gap.", "options": [], "answers": []}).encode()}, 422,
     "passage 1: no blank: the article holds no underscore"),
    ({"body": json.dumps({"article": "_ " * 201, "options": [["a", "b"]] * 201}).encode()}, 422,
     "passage 1: expected at most 200 blanks and 2,000 options, found 201 and 402; send it in parts"),
    ({"body": json.dumps({"article": "_ " * 20, "options": [["a"] * 101] * 20}).encode()}, 422,
     "passage 1: expected at most 200 blanks and 2,000 options, found 20 and 2,020; send it in parts"),
    ({"body": b" " * 262_145}, 413, "expected at most 262,144 bytes, found more; send less at a time"),
    ({"body": b" " * 4_000_000}, 413, "expected at most 262,144 bytes, found more; send less at a time"),
]  # fmt: skip


def test_what_is_refused(serving: Callable[..., Any]) -> None:
    asker = serving()
    for given, status, problem in REFUSED:
        fields: dict[str, Any] = {"Content-Type": "application/json", **given}
        method, path, body = (
            fields.pop(name, default)
            for name, default in (("method", "POST"), ("path", "/predict"), ("body", json.dumps(ONE).encode()))
        )
        found = asker.ask(method, path, body, **fields)
        assert found[:2] == (status, {"error": problem}), given
        if status == 405:
            assert found[2]["allow"] == problem.split()[1].strip(",")
    assert asker.server.answered == 0 and asker.predict(ONE)[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "192.168.7.7", "small"])
def test_names_of_this_server(serving: Callable[..., Any], host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site can let its own name lead here, but none of these."""
    monkeypatch.setattr("socket.gethostname", lambda: "small")
    asker = serving()
    assert asker.predict(ONE, Host=host, Origin=f"http://{host}")[0] == 200


def test_a_body_that_says_no_length(serving: Callable[..., Any]) -> None:
    """Chunks are counted as they come."""
    asker = serving(body=1000)
    parts = [json.dumps(ONE).encode(), b" " * 500]
    for body, status in ((parts, 200), ([*parts, b" " * 500], 413)):
        connection = http.client.HTTPConnection("127.0.0.1", asker.port, timeout=60)
        connection.request("POST", "/predict", iter(body), {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == status
        connection.close()


def exchange(port: int, sent: bytes, more: bytes = b"") -> bytes:
    """All that comes back for some bytes; *more* of them are sent a byte at a time while that is possible."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        connection.settimeout(0.05)
        read = b""
        for byte in [more[n : n + 1] for n in range(len(more))] or [b""]:
            try:
                connection.sendall(byte)
                while part := connection.recv(65_536):
                    read += part
                return read
            except TimeoutError:
                continue
            except OSError:
                return read
        connection.settimeout(60)
        while part := connection.recv(65_536):
            read += part
        return read


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000]
)
def test_what_is_no_http(serving: Callable[..., Any], sent: bytes) -> None:
    head, _, body = exchange(serving().port, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {"error": "expected an HTTP request, found something else, or one with too large a head"}


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


def test_who_is_slow(serving: Callable[..., Any]) -> None:
    """Nothing, half a head, a head that drips, a body that drips, and so behind a request that was answered."""
    asker = serving(request_seconds=0.5)
    began = time.monotonic()
    assert exchange(asker.port, b"") == b""
    assert exchange(asker.port, HEAD) == b""
    assert exchange(asker.port, b"", HEAD) == b""
    answered = exchange(asker.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", HEAD)
    assert answered.startswith(b"HTTP/1.1 200 ") and answered.count(b"HTTP/1.1") == 1
    slow = exchange(asker.port, HEAD + b"\r\n", b" " * 90)
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert slow.endswith(b'{"error": "expected a request within 0.5 seconds, found a part of one"}\n')
    assert time.monotonic() - began < 30 and asker.predict(ONE)[0] == 200


def test_too_many_connections(serving: Callable[..., Any]) -> None:
    asker = serving(connections=3)
    held = [socket.create_connection(("127.0.0.1", asker.port)) for _ in range(3)]
    read = exchange(asker.port, b"")
    assert read.startswith(b"HTTP/1.1 503 ")
    assert read.endswith(b'{"error": "too many connections; ask again in a moment"}\n')
    for connection in held:
        connection.close()
    while asker.ask("GET", "/health")[0] != 200:
        time.sleep(0.05)


class Hold:
    """Holds the scoring of a server until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        plain = Ranker.encode

        def encode(ranker: Ranker, passages: Any) -> Any:
            self.began.set()
            assert self.go.wait(60)
            return plain(ranker, passages)

        monkeypatch.setattr(Ranker, "encode", encode)


def test_too_many_wait_and_too_long(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asker, hold = serving(waiting=2, seconds=0.3), Hold(monkeypatch)
    late: list[Any] = []
    asking = threading.Thread(target=lambda: late.append(asker.predict(ONE)))
    asking.start()
    assert hold.began.wait(60)
    status, content, headers = asker.ask("POST", "/predict", json.dumps([ONE] * 3), Content_Type="application/json")
    assert (status, content) == (503, {"error": "too many passages wait; ask again in a moment"})
    assert headers["retry-after"] == "1"
    asking.join()
    assert late == [(504, {"error": "no answer within 0.3 seconds; ask again later, or for less"})]
    hold.go.set()
    assert asker.predict(ONE)[0] == 200


def test_who_hangs_up_costs_no_work(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asker, hold = serving(), Hold(monkeypatch)
    first = threading.Thread(target=asker.predict, args=(ONE,))
    first.start()
    assert hold.began.wait(60)
    body = json.dumps([ONE] * 5).encode()
    with socket.create_connection(("127.0.0.1", asker.port)) as connection:
        connection.sendall(HEAD.replace(b"100", str(len(body)).encode()) + b"\r\n" + body)
        while asker.ask("GET", "/health")[1]["waiting"] < 5:
            time.sleep(0.02)
    time.sleep(0.2)
    hold.go.set()
    first.join()
    assert asker.predict(ONE)[0] == 200
    assert asker.server.answered == 2


def test_faults_of_the_server_are_said_on_its_output(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(ranker: Ranker, passages: Any) -> Any:
        raise ValueError("odd\nlines")

    monkeypatch.setattr(Ranker, "encode", fail)
    assert serving().predict(ONE) == (500, {"error": "the server made a mistake; its own output says more"})
    assert capsys.readouterr().err == "Error: ValueError: odd\n"


def test_another_mark_for_blanks(serving: Callable[..., Any]) -> None:
    asker = serving(blank="<gap>")
    assert asker.predict({**ONE, "article": "It a_b was <gap> ."})[0] == 200
    assert asker.predict(ONE)[1]["error"].startswith("passage 1: field 'article': expected a blank, '<gap>', for what")


def test_the_page_may_run_its_own_script_alone() -> None:
    content, policy = application._page()
    assert content.count(b"<script") == content.count(b"<style") == 1
    assert "unsafe" not in policy and len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert b" on" not in b"".join(re.findall(rb"<[a-z][^>]*>", content))  # no handlers in tags
    assert b"style=" not in content
