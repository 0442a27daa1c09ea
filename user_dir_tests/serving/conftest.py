"""A server of the small model in this process, asked over real connections."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairseq_cloze import load
from fairseq_cloze.ranking.ranker import Ranker
from fairseq_cloze.serving.application import Limits
from fairseq_cloze.serving.server import Server


@pytest.fixture(scope="session")
def ranker(pretrained: Path) -> Ranker:
    return load(pretrained / "model.pt")


@pytest.fixture
def serving(ranker: Ranker) -> Iterator[Callable[..., Asker]]:
    """Start a server with some limits; what is returned asks it."""
    with ExitStack() as stack:

        def start(blank: str | None = None, **limits: Any) -> Asker:
            server = Server(ranker, "small", limits=Limits(**limits), blank=blank)
            return Asker(stack.enter_context(server))

        yield start


class Asker:
    """Requests to a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = int(server.url.split(":")[2].strip("/"))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, content (of JSON as a value) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        content: Any = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        if found.get("content-type", "").startswith("application/json") and content:
            content = json.loads(content)
        connection.close()
        return response.status, content, found

    def predict(self, value: Any, **headers: str) -> tuple[int, Any]:
        """Status and content for passages."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        status, content, _ = self.ask("POST", "/predict", body, **{"Content_Type": "application/json", **headers})
        return status, content
