"""A small HTTP server that stores documents with token weights and answers as Elasticsearch and OpenSearch would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


def stored(weight: float) -> float:
    """A feature as the engines keep it: float32 cut to 9 significant bits (sign and exponent, then 8 of the fraction)."""
    bits = np.float32(weight).view(np.int32) >> 15 << 15
    return float(bits.view(np.float32))


class Engine:
    """Indices by name, and every request: (method, path, parsed body)."""

    def __init__(self) -> None:
        self.url = ""
        self.mappings: dict[str, Any] = {}
        self.docs: dict[str, dict[str, dict[str, float]]] = {}
        self.requests: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, body))
        index, _, action = path.strip("/").partition("/")
        if index == "_bulk":
            return 200, self._bulk(body)
        if method == "PUT" and not action:
            self.mappings[index], self.docs[index] = body["mappings"], {}
            return 200, {"acknowledged": True, "index": index}
        if index not in self.docs:
            return 404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{index}]"}, "status": 404}
        if action == "_refresh":
            return 200, {"_shards": {"total": 1, "successful": 1, "failed": 0}}
        assert action == "_search", path
        return 200, self._search(index, body)

    def _bulk(self, lines: list[Any]) -> Any:
        items = []
        for head, source in zip(lines[::2], lines[1::2], strict=True):
            place = head["index"]
            for token, weight in source["tokens"].items():
                assert "." not in token, "features with a dot are refused by the engines"
                assert weight > 0, "so are weights that are not positive"
            self.docs[place["_index"]][place["_id"]] = {token: stored(weight) for token, weight in source["tokens"].items()}
            items.append({"index": {"_id": place["_id"], "status": 201}})
        return {"errors": False, "items": items}

    def _search(self, index: str, body: Any) -> Any:
        scores = {
            doc: sum(w * weights.get(t, 0.0) for t, w in query_tokens(body["query"]).items()) for doc, weights in self.docs[index].items()
        }
        best = sorted((s for s in scores.items() if s[1] > 0), key=lambda s: (-s[1], int(s[0])))[: body["size"]]
        return {"hits": {"hits": [{"_id": doc, "_score": score} for doc, score in best]}}


def query_tokens(query: Any) -> dict[str, float]:
    """Token -> weight of either form of query."""
    if "neural_sparse" in query:
        weights: dict[str, float] = query["neural_sparse"]["tokens"]["query_tokens"]
        return weights
    clauses = [clause["rank_feature"] for clause in query["bool"]["should"]]
    assert all(clause["linear"] == {} for clause in clauses)
    return {clause["field"].removeprefix("tokens."): clause["boost"] for clause in clauses}


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine that listens on a free port of this machine."""
    state = Engine()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            path = self.path.split("?")[0]
            lines = [json.loads(line) for line in text.splitlines() if line] if path == "/_bulk" else json.loads(text or "null")
            status, found = state.answer(self.command, path, lines)
            payload = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = handle_any

        def log_message(self, *args: Any) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
