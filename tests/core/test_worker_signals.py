"""Workers of a run do not end by a signal that a batch system sends to every process, but by that of the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest

from stpipe.core.signals import leave_to_parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="who sent a signal is told on Linux only")


def work(end: Connection, names: tuple[str, ...]) -> None:
    """A worker that says when it is ready, and answers as long as it lives."""
    leave_to_parent(names)
    end.send("ready")
    while True:
        end.send(end.recv())


def sent_by_another(pid: int, name: str) -> None:
    subprocess.run(["kill", f"-{name}", str(pid)], check=True)


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_worker_ends_by_its_parent_alone(name: str) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there, ("SIGTERM", "SIGUSR1")), daemon=True)
    process.start()
    assert process.pid is not None and here.poll(60) and here.recv() == "ready"
    for _ in range(2):
        sent_by_another(process.pid, name)
    time.sleep(0.2)
    here.send("alive?")
    assert here.poll(60) and here.recv() == "alive?"
    os.kill(process.pid, signal.Signals[f"SIG{name}"])
    process.join(60)
    assert process.exitcode == 0


def test_signals_that_are_not_named_do_what_they_always_do() -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there, ("SIGUSR1",)), daemon=True)
    process.start()
    assert process.pid is not None and here.poll(60) and here.recv() == "ready"
    sent_by_another(process.pid, "TERM")
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
