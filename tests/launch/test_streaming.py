"""A stream in two processes by the real command: the batches of one process, and an exact end after a killed one."""

from __future__ import annotations

import pytest

from tests.launch.runs import Runs, trouble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TWO = ("backend.num_processes=2", "dataset.streaming=true", "dataset.shuffle_buffer=16", "trainer.num_workers=1")


def test_a_killed_process_changes_nothing(runs: Runs) -> None:
    done = runs.run("run.dir=whole", *TWO, *trouble("kill"), NO_TROUBLE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert runs.run("run.dir=cut", *TWO, *trouble("kill"), "trainer.resume=auto").returncode == 1
    done = runs.run("run.dir=cut", *TWO, *trouble("kill"), "trainer.resume=auto", NO_TROUBLE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [r["step"] for r in runs.status("cut")["resumed"]] == [4]
    assert runs.weights("cut") == runs.weights("whole")
    assert runs.records("cut", "loss") == runs.records("whole", "loss") and len(runs.records("whole", "loss")) == 8
