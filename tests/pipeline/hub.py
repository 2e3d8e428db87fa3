"""A Hub on this machine: what `huggingface_hub` asks for when a model is published, answered by a real HTTP server that keeps commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_thetokenofthetests"
#: Bytes from which a file goes to the storage for large ones.
LARGE = 20_000


@dataclass
class Commit:
    """message; branch; files: what it added, name -> content."""

    message: str
    branch: str
    files: dict[str, bytes]


@dataclass
class Hub:
    """What the server knows. repositories: id -> whether it is private; refuse: paths whose requests fail, with the code; delay: seconds that a commit takes."""

    address: str = ""
    repositories: dict[str, bool] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main"})
    commits: list[Commit] = field(default_factory=list)
    storage: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    delay: float = 0.0

    def write(self, folder: Path, *, branch: str = "main") -> Path:
        """The files of a branch as a folder."""
        for commit in self.commits:
            for name, content in commit.files.items() if commit.branch == branch else ():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return folder


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, values: Any, code: int = 200) -> None:
            body = json.dumps(values).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_one(self) -> None:
            body = self.body()
            path = self.path.split("?")[0]
            hub.requests.append(f"{self.command} {path}")
            code = next((code for part, code in hub.refuse.items() if part in path), None)
            if code is not None:
                self.answer({"error": "refused by the test"}, code)
            elif path.startswith("/storage/"):  # its address is its permission, as with the real one
                oid = path.rpartition("/")[2]
                assert hashlib.sha256(body).hexdigest() == oid
                hub.storage[oid] = body
                self.answer({})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer({"error": "who are you?"}, 401)
            else:
                self.known(path, body)

        do_GET = do_POST = do_PUT = do_HEAD = handle_one

        def known(self, path: str, body: bytes) -> None:
            """Requests of somebody with the token."""
            parts = path.strip("/").split("/")
            if path == "/api/whoami-v2":
                self.answer({"type": "user", "name": "me", "orgs": [], "auth": {}})
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif path.endswith("/objects/batch"):
                objects = json.loads(body)["objects"]
                found = [{**o, "actions": {"upload": {"href": f"{hub.address}/storage/{o['oid']}"}}} for o in objects]
                self.answer({"transfer": "basic", "objects": found})
            elif parts[:2] == ["api", "models"] and "/".join(parts[2:4]) not in hub.repositories:
                self.answer({"error": "no such repository"}, 404)
            elif parts[:2] == ["api", "models"] and parts[4] == "branch":
                code = 409 if parts[5] in hub.branches else 200
                hub.branches.add(parts[5])
                self.answer({}, code)
            elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False} for f in files
                ]
                self.answer({"files": modes})
            elif parts[:2] == ["api", "models"] and parts[4] == "commit":
                self.commit("/".join(parts[2:4]), parts[5], body)
            else:
                self.answer({"error": f"unknown: {path}"}, 404)

        def create(self, asked: dict[str, Any]) -> None:
            repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
            there = repository in hub.repositories
            hub.repositories.setdefault(repository, asked.get("visibility") == "private")
            self.answer({"url": f"{hub.address}/{repository}", "name": repository}, 409 if there else 200)

        def commit(self, repository: str, branch: str, body: bytes) -> None:
            if branch not in hub.branches:
                return self.answer({"error": "no such branch"}, 404)
            time.sleep(hub.delay)
            made = Commit("", branch, {})
            for entry in map(json.loads, body.decode().splitlines()):
                value = entry["value"]
                if entry["key"] == "header":
                    made.message = value["summary"]
                elif entry["key"] == "file":
                    made.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    made.files[value["path"]] = hub.storage[value["oid"]]
            hub.commits.append(made)
            oid = hashlib.sha1(body).hexdigest()
            self.answer({"success": True, "commitOid": oid, "commitUrl": f"{hub.address}/{repository}/commit/{oid}", "hookOutput": ""})

    return Handler


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A Hub that is up."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
