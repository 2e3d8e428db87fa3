"""A Hub on this machine to download from: what `huggingface_hub` and `datasets` ask for, answered by a real HTTP server over a folder.

The folder holds models/OWNER/NAME/... and datasets/OWNER/NAME/...; each repository has one branch, main, at one commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?P<rest>/.*)?")
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class FileHub:
    """root: its files; requests: what was asked for; cut: name of a file -> bytes after which the connection ends, once for each entry."""

    root: Path
    address: str = ""
    requests: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)

    def folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def commit(self, kind: str, name: str) -> str:
        """Hash of all files, as long as one of git."""
        folder, digest = self.folder(kind, name), hashlib.sha1()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        return digest.hexdigest()

    def files(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Its files as the Hub lists them."""
        folder = self.folder(kind, name)
        found = [(p.relative_to(folder).as_posix(), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()]
        return [{"type": "file", "path": n, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for n, data in found]


def handler(hub: FileHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, values: Any, code: int = 200, **headers: str) -> None:
            body = json.dumps(values).encode()
            self.send_response(code)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_one(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command == "POST" else b""
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            found = API.fullmatch(path) or FILE.fullmatch(path)
            kind = None if found is None else (found["kind"] or "models").rstrip("/")
            if found is None or not hub.folder(str(kind), found["id"]).is_dir():
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if found.re is API:
                return self.facts(str(kind), found["id"], found["rest"] or "", asked)
            return self.file(str(kind), found["id"], found["path"])

        do_GET = do_HEAD = do_POST = handle_one

        def facts(self, kind: str, name: str, rest: str, asked: bytes) -> None:
            listed, commit = hub.files(kind, name), hub.commit(kind, name)
            if rest.startswith("/tree/"):
                inside = "/".join(rest.split("/")[3:])
                return self.answer([f for f in listed if not inside or f["path"].startswith(f"{inside}/")])
            if rest.startswith("/paths-info/"):
                values = json.loads(asked) if asked.startswith(b"{") else parse_qs(asked.decode())
                wanted = values.get("paths", [])
                wanted = [wanted] if isinstance(wanted, str) else wanted
                folders = [w for w in wanted if any(f["path"].startswith(f"{w}/") for f in listed)]
                return self.answer(
                    [*(f for f in listed if f["path"] in wanted), *({"type": "directory", "path": w, "oid": commit} for w in folders)]
                )
            if rest and not rest.startswith("/revision/"):
                return self.answer({"error": "unknown"}, 404)
            if rest.removeprefix("/revision/") not in ("", "main", commit):
                return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": f["path"], "size": f["size"]} for f in listed]
            self.answer({"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings})

        def file(self, kind: str, name: str, inside: str) -> None:
            path, commit = hub.folder(kind, name) / inside, hub.commit(kind, name)
            if not path.is_file():
                return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            data = path.read_bytes()
            given = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            start = int(given[1]) if given else 0
            end = int(given[2]) + 1 if given and given[2] else len(data)
            self.send_response(206 if given else 200)
            headers = {"Content-Length": str(end - start), "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
            headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
            headers |= {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"} if given else {}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            stop = hub.cut.pop(Path(inside).name, None)
            self.wfile.write(data[start:end] if stop is None else data[start : start + stop])
            self.close_connection = stop is not None

    return Handler


@contextmanager
def file_hub(root: Path) -> Iterator[FileHub]:
    """A Hub that is up."""
    hub = FileHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
