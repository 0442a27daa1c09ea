"""A small Hugging Face hub on 127.0.0.1: what ``huggingface_hub`` asks for to log in, push and download a model."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34


@dataclass
class Repository:
    """The files of a model, and what was asked when it was made."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class HubServer:
    """A hub of its own thread; ``broken`` names a piece of a path that is answered with an error."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: str = ""

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Any, token: str = TOKEN) -> dict[str, str]:
        """Variables for a process whose hub is this one."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        hub = self.server_hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        stored = path.startswith("/upload/")
        if not stored and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": f"Invalid token {self.headers.get('Authorization')}"}, 401)
        if hub.broken and hub.broken in path:
            return self._answer({"error": "the disk is full"}, 507)
        if path == "/api/whoami-v2":
            return self._answer({"name": "me", "type": "user"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            there = name in hub.repositories
            hub.repositories.setdefault(name, Repository(bool(wanted.get("private"))))
            return self._answer({"url": f"{hub.url}/{name}", "name": name}, 409 if there else 200)
        if stored:
            hub.uploads[path.removeprefix("/upload/")] = body
            return self._answer({})
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2]).removesuffix(".git")
        found = hub.repositories.get(name)
        if found is None:
            return self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        match parts[2:]:
            case ["preupload", _]:
                modes = [
                    {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                    for one in json.loads(body)["files"]
                ]
                return self._answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
            case ["info", "lfs", "objects", "batch"]:
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.url}/upload/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self._answer({"transfer": "basic", "objects": objects})
            case ["commit", _]:
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        found.files[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        found.files[value["path"]] = hub.uploads[value["oid"]]
                    elif entry["key"] == "deletedFile":
                        del found.files[value["path"]]
                    else:
                        found.commits.append(value["summary"])
                return self._answer(
                    {"success": True, "commitUrl": f"{hub.url}/{name}/commit/{_COMMIT}", "commitOid": _COMMIT}
                )
            case ["tree", *_]:
                tree = [
                    {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}
                    for path, content in found.files.items()
                ]
                return self._answer(tree)
            case ["revision", *_] | []:
                files = [{"rfilename": path} for path in found.files]
                return self._answer({"id": name, "sha": _COMMIT, "siblings": files})
            case ["resolve", _, path] if path in found.files:
                content = found.files[path]
                return self._answer(content, ETag=f'"{_digest(content)}"', X_Repo_Commit=_COMMIT)
        self._answer({"error": "not found"}, 404, X_Error_Code="EntryNotFound")

    do_GET = do_POST = do_PUT = do_HEAD = _serve


_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
