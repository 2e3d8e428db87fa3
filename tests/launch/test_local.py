"""The launching process: ports, how processes ended in words, and the status of a run whose rank 0 was killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stpipe.core.world import FIRST_PORT, PORTS
from stpipe.launch.local import _Process, _Supervisor, exit_code, free_port, how_it_ended
from stpipe.pipeline.status import Status, read_status


def test_a_port_is_free_and_not_one_that_clients_get() -> None:
    found = {free_port() for _ in range(20)}
    assert len(found) > 5 and all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in found)
    with socket.socket() as server:
        server.bind(("127.0.0.1", found.pop()))


@pytest.mark.parametrize(
    ("code", "contract", "words"), [(-9, 1, "was killed by SIGKILL. Continue with trainer.resume=auto"), (3, 3, "ended with exit code 3")]
)
def test_how_a_process_ended(code: int, contract: int, words: str) -> None:
    assert (exit_code(code), how_it_ended(code)) == (contract, words)


def test_the_status_of_a_killed_rank_0_is_written_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was at a stage, which has failed with it; that of another run in the same place is left alone."""
    popen = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    status = Status(tmp_path / "status.json", command="stpipe train")
    status.write(stages={"prepare": {"state": "finished", "seconds": 1.0}, "train": {"state": "running", "seconds": 0.0}}, pid=popen.pid)
    assert _Supervisor([_Process(0, popen, None)], tmp_path, tmp_path).run() == 1
    found = read_status(tmp_path / "status.json")
    assert found is not None
    assert (found["state"], found["exit_code"]) == ("failed", 1)
    assert found["error"] == f"rank 0 (pid {popen.pid}) was killed by SIGKILL. Continue with trainer.resume=auto"
    assert {name: stage["state"] for name, stage in found["stages"].items()} == {"prepare": "finished", "train": "failed"}
    assert "rank 0" in capsys.readouterr().err
    other = {**found, "state": "running", "pid": popen.pid + 1}
    (tmp_path / "status.json").write_text(json.dumps(other))
    assert _Supervisor([_Process(0, popen, None)], tmp_path, tmp_path).run() == 1
    assert read_status(tmp_path / "status.json") == other
