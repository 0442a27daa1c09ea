"""The command as a process: many clients at once, what it says, and how it stops."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze.errors import ClozeError
from fairseq_cloze.ranking.predict import predict
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.serving.server import Server

from ..support.commands import PASSAGES, environment

CLIENTS = 200


@contextmanager
def served(checkpoint: Path, *options: str) -> Iterator[tuple[Any, int]]:
    """The process and its port."""
    words = [sys.executable, "-m", "fairseq_cloze", "try", str(checkpoint), "--serve", "0", *options]
    process = subprocess.Popen(
        words, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=1
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"{checkpoint} answers at http://127.0.0.1:"), line + process.communicate()[1]
        yield process, int(line.split(":")[-1].partition("/")[0])
    finally:
        process.kill()
        process.wait()


def given(copies: int) -> list[dict[str, Any]]:
    """The example passages, some times."""
    read = [json.loads(path.read_text()) | {"id": path.stem} for path in sorted((PASSAGES / "test").glob("*.json"))]
    return [{**fields, "id": f"{fields['id']} {copy}"} for copy in range(copies) for fields in read]


class Client(threading.Thread):
    """Asks for passages one after the other over one connection, until there are none left or nobody answers."""

    def __init__(self, port: int, passages: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.answers: dict[str, Any] = {}
        self.statuses: list[int] = []
        self.broken: list[str] = []  #: answers of which only a part came
        self.asked = 0
        self._port, self._passages = port, passages

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        for fields in self._passages:
            try:
                self.asked += 1
                connection.request("POST", "/predict", json.dumps(fields), {"Content-Type": "application/json"})
                response = connection.getresponse()
            except OSError:  # RemoteDisconnected, too: the server is gone before it has answered
                break
            try:
                content = json.loads(response.read())
            except (http.client.HTTPException, ValueError, OSError) as error:
                self.broken.append(repr(error))
                break
            self.statuses.append(response.status)
            if response.status == 200:
                self.answers[content.pop("id")] = content
        connection.close()


@pytest.mark.slow
def test_many_clients(pretrained: Path) -> None:
    """Each gets its own answers, those of predict."""
    passages = given(5 * CLIENTS // 8)
    expected = predict(pretrained / "model.pt", [PASSAGES / "test"], with_probabilities=True).answers
    with served(pretrained / "model.pt") as (process, port):
        clients = [Client(port, passages[number::CLIENTS]) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
        assert [client.statuses for client in clients] == [[200] * 5] * CLIENTS
        for client, own in zip(clients, (passages[number::CLIENTS] for number in range(CLIENTS))):
            assert list(client.answers) == [fields["id"] for fields in own]
            for key, entry in client.answers.items():
                want = expected[key.rpartition(" ")[0]]
                assert entry["answers"] == want["answers"]
                assert [pytest.approx(row, abs=2e-6) for row in entry["probabilities"]] == want["probabilities"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        143,
        f"stopping: what was asked is still answered\nstopped; {len(passages):,} passages were answered\n",
        "",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_loses_no_answer(pretrained: Path, number: signal.Signals) -> None:
    """Clients that ask all the time: what was taken is answered whole, and what is not answered was not scored."""
    with served(pretrained / "model.pt") as (process, port):
        clients = [Client(port, given(1000)) for _ in range(50)]
        for client in clients:
            client.start()
        while sum(len(client.answers) for client in clients) < 100:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        for client in clients:
            client.join(60)
    answered = sum(len(client.answers) for client in clients)
    assert {status for client in clients for status in client.statuses} == {200}
    assert [client.broken for client in clients] == [[]] * 50
    assert out.splitlines()[-1] == f"stopped; {answered:,} passages were answered"
    assert (process.returncode, err) == (128 + number, "")


def test_a_stop_answers_what_is_on_its_way(ranker: Ranker) -> None:
    """A request whose head came before the stop and whose body after it."""
    body = json.dumps({"article": "It was _ .", "options": [["a", "b"]]}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with Server(ranker, "small") as server:
        address = ("127.0.0.1", int(server.url.split(":")[2].strip("/")))
        connection = socket.create_connection(address, timeout=60)
        connection.sendall(f"{head}\r\n\r\n".encode())
        time.sleep(0.2)
        rest = threading.Timer(0.8, connection.sendall, (body,))
        rest.start()
    read = b"".join(iter(lambda: connection.recv(65_536), b""))
    connection.close()
    assert read.startswith(b"HTTP/1.1 200 ") and json.loads(read.partition(b"\r\n\r\n")[2])["id"] == "1"
    assert server.answered == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_port_that_is_taken(ranker: Ranker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClozeError) as error:
            Server(ranker, "small", port)
    assert str(error.value) == (
        f"127.0.0.1:{port}: cannot be listened at (Address already in use); choose another port or host"
    )


def test_an_address_of_another_machine(ranker: Ranker) -> None:
    with pytest.raises(
        ClozeError, match=r"^192\.0\.2\.1:80: cannot be listened at \(Cannot assign requested address\)"
    ):
        Server(ranker, "small", 80, "192.0.2.1")


def test_a_server_that_ends_by_itself(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(ranker, "small")
    monkeypatch.setattr(server._server, "run", lambda sockets: None)
    with pytest.raises(ClozeError, match="^the server has ended, though nobody stopped it; its output may say why$"):
        with server:
            server.wait()
    server._socket.close()
