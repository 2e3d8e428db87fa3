"""Jobs on a real SLURM on this machine (tests/launch/slurm_cluster.py): what is submitted trains, comes back, and is shown as it ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.runs import OWN, Runs, write_pairs
from tests.launch.slurm_cluster import Cluster, missing_programs

MISSING = missing_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"NO SLURM: no job was submitted. Not installed: {', '.join(MISSING)} (scripts/test --all installs them as root)",
    ),
]
#: Seconds that a job may take on a slow machine.
PATIENCE = 800.0
#: A callback that makes the steps of a job's first life slow enough to be caught by a signal; its second one is in no hurry for any.
PACE = '''
import os
import time
from dataclasses import dataclass

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.registry import CALLBACKS
from stpipe.engine.callbacks import Callback


@CALLBACKS.register("pace")
@dataclass
class Pace(Callback):
    """Sleeps after each step until the job was queued again; fails at one."""

    seconds: float = option(1.5, help="Pause.")
    fail_at: int = option(0, help="Step; 0 is none.")

    def on_step_end(self, trainer):
        if self.fail_at and trainer.state.step >= self.fail_at:
            raise DataError("row 7 is no good")
        if os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            time.sleep(self.seconds)
'''
PACED = ("imports=[pace]", "+callbacks.pace.name=pace", "trainer.max_steps=12", "trainer.grace_period=100")
#: One machine has one name only, so the second node cannot find the first one by its name; one thread, as everywhere in the tests.
JOB = ("slurm.setup=['export MASTER_ADDR=127.0.0.1']", "slurm.cpus_per_task=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Running, and ended with the module. Its folder has a short path, because sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    found = Cluster(folder)
    try:
        found.up()
        yield found
    finally:
        found.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runs:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "work").mkdir()
    (folder / "work" / "pace.py").write_text(PACE)
    return Runs(folder / "work", tiny_model, write_pairs(folder / "pairs.jsonl"))


def stpipe(runs: Runs, cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Any verb, in the folder of the runs, with the cluster in sight."""
    environment = {**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*OWN, *arguments], cwd=runs.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL
    )  # fmt: skip


def submit(runs: Runs, cluster: Cluster, *overrides: str) -> str:
    """Submit a run; the number of its job."""
    done = stpipe(runs, cluster, "slurm", "submit", *runs.given, *JOB, *overrides)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("Job", "Log")))
    assert Path(lines["Log"]).parent.is_dir(), "the log has no place"
    return lines["Job"]


def until(what: str, ready: Callable[[], object]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.2)


def at_step(runs: Runs, name: str, step: int) -> Callable[[], bool]:
    place = runs.folder / name / "metrics.jsonl"
    return lambda: place.exists() and f'"step": {step},' in place.read_text()


def ended(cluster: Cluster, job: str, *states: str) -> None:
    """Wait until the accounting says that a job has ended for good, and how."""
    until(
        f"job {job}",
        lambda: (
            cluster.accounting(job, "State,End")[-1][1] != "Unknown" and not cluster.run("squeue", "-h", "-j", job, check=False).strip()
        ),
    )
    assert [row[0].split()[0] for row in cluster.accounting(job, all_lives=True)] == list(states)


def log(runs: Runs, job: str) -> str:
    (place,) = (runs.folder / "outputs/slurm").glob(f"*/{job}.log")
    return place.read_text()


def test_two_nodes_preempted_by_a_signal_end_as_an_uninterrupted_run(runs: Runs, cluster: Cluster) -> None:
    """USR1, as before a time limit; in the same run directory, bit for bit, and the accounting says what happened."""
    two = ("backend=ddp", "slurm.nodes=2", "slurm.tasks_per_node=1")
    job = submit(runs, cluster, *PACED, *two, "run.dir=signalled")
    until("step 3", at_step(runs, "signalled", 3))
    cluster.run("scancel", "--signal=USR1", job)
    whole = runs.run("trainer.max_steps=12", "backend.num_processes=2", "run.dir=whole-2", timeout=PATIENCE)
    assert whole.returncode == 0, whole.stderr
    ended(cluster, job, "REQUEUED", "COMPLETED")
    assert cluster.accounting(job) == [["COMPLETED", "0:0"]]
    status = runs.status("signalled")
    assert (status["state"], status["exit_code"], status["step"], len(status["resumed"])) == ("finished", 0, 12, 1), log(runs, job)
    assert runs.weights("signalled") == runs.weights("whole-2")
    assert runs.records("signalled", "loss") == runs.records("whole-2", "loss") and len(runs.records("signalled", "loss")) == 12
    assert "queueing job" in log(runs, job)
    (row,) = json.loads(stpipe(runs, cluster, "slurm", "status", job, "--json").stdout)
    assert (row["slurm"], row["exit_code"], row["restarts"], row["state"]) == ("COMPLETED", 0, 1, "finished")
    assert row["metric"].startswith("dev_")


def test_a_job_that_makes_room_for_another_comes_back(runs: Runs, cluster: Cluster) -> None:
    """SLURM sends SIGTERM to every process of the job, the loader's workers included, and queues it again itself or lets it do so."""
    job = submit(runs, cluster, *PACED, "slurm.partition=low", "run.dir=displaced", "trainer.num_workers=1")
    until("step 3", at_step(runs, "displaced", 3))
    other = cluster.run("sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "--wrap", "sleep 1").strip()
    whole = runs.run("trainer.max_steps=12", "run.dir=whole-1", timeout=PATIENCE)
    assert whole.returncode == 0, whole.stderr
    until("the other job", lambda: cluster.accounting(other)[0][0] == "COMPLETED")
    until(f"job {job}", lambda: cluster.accounting(job)[-1][0] not in ("PENDING", "RUNNING", "REQUEUED", "PREEMPTED"))
    lives = [row[0] for row in cluster.accounting(job, all_lives=True)]
    assert lives[-1] == "COMPLETED" and len(lives) == 2 and lives[0] in ("PREEMPTED", "REQUEUED"), log(runs, job)
    status = runs.status("displaced")
    assert (status["state"], status["step"], len(status["resumed"])) == ("finished", 12, 1)
    assert runs.weights("displaced") == runs.weights("whole-1")


def test_a_sweep_of_jobs_ends_with_what_became_of_each(runs: Runs, cluster: Cluster) -> None:
    """An array of two runs, of which one fails: FAILED in the accounting, 5 for the sweep. Odd paths are no problem."""
    done = stpipe(
        runs, cluster, "train", "-m", "hydra/launcher=slurm", "hydra.launcher.poll=1", *runs.given, *JOB, "imports=[pace]",
        "+callbacks.pace.name=pace", "+callbacks.pace.seconds=0", "+callbacks.pace.fail_at=0,3", "trainer.max_steps=4",
        "slurm.folder='odd jobs/a=1'", "slurm.array_parallelism=2", "run.dir=swept-${callbacks.pace.fail_at}",
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    (record,) = [json.loads(place.read_text()) for place in (runs.folder / "odd jobs/a=1").glob("*/job.json")]
    assert record["run_dirs"] == ["swept-0", "swept-3"]
    assert cluster.accounting(record["job_id"]) == [["COMPLETED", "0:0"], ["FAILED", "3:0"]]
    assert (runs.status("swept-0")["state"], runs.status("swept-3")["state"]) == ("finished", "failed")
    assert all(Path(place).is_file() for place in record["logs"])
    assert "row 7 is no good" in Path(record["logs"][1]).read_text()
    shown = stpipe(runs, cluster, "slurm", "status", "swept-3", "--folder", "odd jobs/a=1").stdout
    assert f"{record['job_id']}_1" in shown and "FAILED" in shown and "exit 3" in shown and "finished" not in shown


def test_a_job_that_is_cancelled_stays_so(runs: Runs, cluster: Cluster) -> None:
    """It saves and leaves with 75, but nobody wants it back; meanwhile no second job for the run is taken."""
    job = submit(runs, cluster, *PACED, "run.dir=cancelled")
    until("step 2", at_step(runs, "cancelled", 2))
    again = stpipe(runs, cluster, "slurm", "submit", *runs.given, *JOB, *PACED, "run.dir=cancelled")
    assert again.returncode == 2 and f"job {job} (RUNNING) is for the same run" in again.stderr
    cluster.run("scancel", job)
    ended(cluster, job, "CANCELLED")
    assert runs.status("cancelled")["state"] == "preempted"
    assert "queueing job" not in log(runs, job)
