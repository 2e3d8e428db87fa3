"""The real command in two processes: what it leaves behind, what it trains, and how it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from stpipe.launch.local import free_port
from stpipe.models.sentence_transformer import SentenceTransformer
from tests.launch.runs import OWN, TORCHRUN, Runs, trouble

TWO = "backend.num_processes=2"
ACCELERATE = (OWN[0], "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no", "--num_machines", "1",
              "--dynamo_backend", "no", "--main_process_port", str(free_port()), "-m", "stpipe")  # fmt: skip
LAUNCHERS = {"own": (OWN, TWO), "torchrun": (TORCHRUN, "backend=ddp"), "accelerate": (ACCELERATE, "backend=ddp")}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).parts[0] for p in folder.rglob("*") if p.name != "__pycache__" and p.suffix != ".pyc"}


def test_two_processes_train_like_one(runs: Runs) -> None:
    """Whoever starts them: the losses and the model of one process with the whole batch, without dropout."""
    off = ("model.hidden_dropout=0", "model.attention_dropout=0")
    assert runs.run("run.dir=one", "trainer.batch_size=8", *off).returncode == 0
    one = runs.records("one", "loss")
    assert len(one) == 8
    assert one[0][1] != pytest.approx(one[-1][1], rel=1e-2), "it must have learned something"
    expected = SentenceTransformer(str(runs.folder / "one" / "model")).encode(["w1 w2", "w9"])
    for name, (start, backend) in LAUNCHERS.items():
        done = runs.run(f"run.dir={name}", backend, *off, start=start)
        assert done.returncode == 0, done.stderr[-2000:]
        assert runs.records(name, "loss") == [(step, pytest.approx(value, rel=1e-5)) for step, value in one]
        found = SentenceTransformer(str(runs.folder / name / "model")).encode(["w1 w2", "w9"])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert runs.status(name)["state"] == "finished"
    assert tree(runs.folder) == {"trouble.py", "one", *LAUNCHERS}, "one run directory a run and nothing beside"
    assert (runs.folder / "own" / "logs" / "rank-1.log").exists()


def test_a_killed_process_is_named_and_the_run_continues_exactly(runs: Runs) -> None:
    assert runs.run("run.dir=whole", TWO, *trouble("kill"), NO_TROUBLE="1").returncode == 0
    for rank in (0, 1):
        name = f"killed-{rank}"
        done = runs.run(f"run.dir={name}", TWO, "trainer.resume=auto", *trouble("kill", rank=rank))
        assert done.returncode == 1, done.stderr[-2000:]
        assert time.time() - float((runs.folder / "killed-at").read_text()) < 60, "the others end within a minute"
        assert f"rank {rank} (pid" in done.stderr and "SIGKILL" in done.stderr
        status = runs.status(name)
        assert (status["state"], status["exit_code"]) == ("failed", 1)
        assert f"rank {rank} (pid" in status["error"] and "SIGKILL" in status["error"]
        assert status["stages"]["train"]["state"] == "failed"
        assert not runs.processes(), "none is left behind"
        done = runs.run(f"run.dir={name}", TWO, "trainer.resume=auto", *trouble("kill", rank=rank), NO_TROUBLE="1")
        assert done.returncode == 0, done.stderr[-2000:]
        assert runs.weights(name) == runs.weights("whole")
        assert runs.records(name, "loss") == runs.records("whole", "loss")
        assert [r["step"] for r in runs.status(name)["resumed"]] == [4]


def test_a_killed_process_under_torchrun(runs: Runs) -> None:
    done = runs.run("run.dir=out", "backend=ddp", *trouble("kill"), start=TORCHRUN)
    assert done.returncode == 1
    assert "rank: 1" in done.stderr or "rank 1" in done.stderr


@pytest.mark.parametrize(("kind", "code", "message"), [("data", 3, "row 7 is no good"), ("error", 1, "ValueError: a defect")])
def test_an_error_on_one_process_ends_all_with_its_message_and_code(runs: Runs, kind: str, code: int, message: str) -> None:
    done = runs.run("run.dir=out", TWO, *trouble(kind))
    assert done.returncode == code, done.stderr[-2000:]
    assert message in done.stderr
    assert "rank 1" in done.stderr
    assert message in runs.status("out")["error"]
    assert runs.status("out")["exit_code"] == code
    assert message in (runs.folder / "out" / "logs" / "rank-1.log").read_text()


def test_one_process_may_end_training_for_all(runs: Runs) -> None:
    done = runs.run("run.dir=out", TWO, *trouble("stop", rank=1, step=3))
    assert done.returncode == 0, done.stderr[-2000:]
    assert runs.status("out")["step"] == 3


def test_a_preempted_run_leaves_on_all_processes_after_the_same_step(runs: Runs) -> None:
    """The signal comes to the process that started them; the run goes on to the bits of one that was never stopped."""
    assert runs.run("run.dir=whole", TWO, *trouble("SIGTERM"), NO_TROUBLE="1").returncode == 0
    done = runs.run("run.dir=cut", TWO, "trainer.resume=auto", *trouble("SIGTERM", step=3))
    assert done.returncode == 75, done.stderr[-2000:]
    assert (
        "asked to leave" in done.stderr and "stpipe train --from cut trainer.resume=auto" in done.stderr and "Traceback" not in done.stderr
    )
    status = runs.status("cut")
    assert (status["state"], status["exit_code"]) == ("preempted", 75) and 3 <= status["step"] < 8
    assert max(p.name for p in (runs.folder / "cut" / "checkpoints").iterdir()) == f"step-{status['step']:08d}", (
        "the step that it left after"
    )
    assert not runs.processes(), "none is left behind"
    done = runs.run("run.dir=cut", TWO, "trainer.resume=auto", *trouble("SIGTERM", step=3), NO_TROUBLE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert runs.weights("cut") == runs.weights("whole")
    assert runs.records("cut", "loss") == runs.records("whole", "loss")


def test_an_interrupted_run_ends_with_130(runs: Runs) -> None:
    done = runs.run("run.dir=out", TWO, *trouble("SIGINT", step=3))
    assert done.returncode == 130, done.stderr[-2000:]
    assert (runs.status("out")["state"], runs.status("out")["exit_code"]) == ("interrupted", 130)
    assert not runs.processes(), "none is left behind"


def test_the_configuration_is_refused_before_processes_start(runs: Runs) -> None:
    done = runs.run("run.dir=out", TWO, "optimizer.lrr=1")
    assert done.returncode == 2
    assert "lrr" in done.stderr
    assert not (runs.folder / "out").exists()
    done = runs.run("run.dir=out", "backend=ddp", "optimizer.lrr=1", start=TORCHRUN)
    assert done.returncode != 0  # torchrun has codes of its own
    assert "lrr" in done.stderr
    assert not (runs.folder / "out").exists()


def test_data_that_is_wrong_ends_all_with_code_3(runs: Runs) -> None:
    runs.data.write_text(runs.data.read_text() + '{"anchor": "", "positive": "x"}\n')
    done = runs.run("run.dir=out", TWO)
    assert done.returncode == 3, done.stderr[-2000:]
    assert not (runs.folder / "out").exists()


@pytest.mark.parametrize("start", ["own", "torchrun"])
def test_a_sweep_of_runs_in_two_processes(runs: Runs, start: str) -> None:
    command, backend = LAUNCHERS[start]
    done = runs.run("run.dir=seed-${trainer.seed}", backend, "trainer.seed=1,2", "trainer.max_steps=2", "-m", start=command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert tree(runs.folder) == {"trouble.py", "seed-1", "seed-2"}
    assert [runs.status(f"seed-{s}")["state"] for s in (1, 2)] == ["finished", "finished"]
    assert runs.weights("seed-1") != runs.weights("seed-2")


def test_another_number_of_processes_is_refused_on_resume(runs: Runs) -> None:
    assert runs.run("run.dir=out", TWO, "trainer.resume=auto", *trouble("data")).returncode == 3
    done = runs.run("run.dir=out", "backend.num_processes=1", "trainer.resume=auto", *trouble("data"), NO_TROUBLE="1")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "number of processes: 2 in the checkpoint, 1 now" in done.stderr


def test_half_set_variables_and_a_launcher_without_a_backend_are_refused(runs: Runs) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = runs.run("run.dir=out", WORLD_SIZE="2", **environment)
    assert done.returncode == 2
    assert "WORLD_SIZE=2" in done.stderr and "RANK" in done.stderr
    done = runs.run("run.dir=out", start=TORCHRUN)
    assert "backend=ddp" in done.stderr
    assert not (runs.folder / "out").exists()
