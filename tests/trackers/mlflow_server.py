"""A real MLflow server with sqlite, and its REST API as a client of ours would use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Server:
    """address: of a server that is up; artifacts: folder that holds them."""

    address: str
    artifacts: Path

    def ask(self, path: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request; POST with values, else GET."""
        data = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(f"{self.address}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def experiment(self, name: str) -> str:
        return self.ask(f"experiments/get-by-name?experiment_name={name}")["experiment"]["experiment_id"]

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """All runs of an experiment, oldest first."""
        found = self.ask("runs/search", {"experiment_ids": [self.experiment(experiment)], "max_results": 100})
        return sorted(found.get("runs", []), key=lambda run: run["info"]["start_time"])

    def history(self, run_id: str, key: str) -> list[dict[str, Any]]:
        """Values of a metric: step, value, timestamp."""
        found = self.ask(f"metrics/get-history?run_id={run_id}&metric_key={urllib.request.quote(key, safe='')}").get("metrics", [])
        return sorted(found, key=lambda metric: int(metric["step"]))

    def files(self, run_id: str, path: str = "") -> list[str]:
        """Files kept with a run, in all folders."""
        query = f"artifacts/list?run_id={run_id}" + (f"&path={urllib.request.quote(path)}" if path else "")
        found: list[str] = []
        for entry in self.ask(query).get("files", []):
            found += self.files(run_id, entry["path"]) if entry["is_dir"] else [entry["path"]]
        return sorted(found)


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def parameters(run: dict[str, Any]) -> dict[str, str]:
    return {found["key"]: found["value"] for found in run["data"].get("params", [])}


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """A server of its own, up and answering."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        while not up(address):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield Server(address, folder / "artifacts")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
