"""Batch scripts: those of 1 x 1, 1 x 8 and 2 x 8 processes and of a sweep as they stand in golden/, and what bash makes of them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.slurm import Layout, SlurmSection
from stpipe.launch.slurm_script import Job, script

GOLDEN = Path(__file__).parent / "golden"
RUN = ("train", "+recipe=mnrl_all_nli", "run.dir=outputs/mnrl_all_nli/first", "trainer.resume=auto")
ONE = Job(
    name="first",
    folder=Path("/data/me/outputs/slurm/first-0a1b2c3d"),
    cwd=Path("/data/me"),
    python="/data/me/.venv/bin/python",
    section=SlurmSection(),
    layout=Layout(1, 1),
    commands=(RUN,),
)
FULL = SlurmSection(
    partition="gpu",
    account="nlp",
    qos="high",
    nodes=2,
    gpus_per_node=8,
    cpus_per_task=12,
    mem="400G",
    time="1-12:00:00",
    signal="USR1@300",
    setup=("module load cuda/12.4", 'source "$HOME/.venv/bin/activate"'),
    extra=("--constraint=a100", "--exclusive"),
)
JOBS = {
    "1x1": ONE,
    "1x8": replace(
        ONE,
        section=SlurmSection(partition="gpu", gpus_per_node=8, cpus_per_task=8, time="12:00:00"),
        layout=Layout(1, 8),
        commands=((*RUN, "backend=ddp", "trainer.batch_size=64"),),
    ),
    "2x8": replace(ONE, section=FULL, layout=Layout(2, 8), commands=((*RUN, "backend=deepspeed_zero2"),)),
    "sweep": replace(
        ONE,
        name="sweep-0a1b2c3d",
        folder=Path("/data/me/my runs/slurm=1/100%"),
        section=SlurmSection(array_parallelism=2, requeue=False, signal=None, mem=4000),
        commands=tuple((*RUN[:2], f"run.dir='outputs/it''s {n}'", f"dataset.prompts.query='a $HOME: {n}'") for n in range(3)),
        array=True,
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_scripts_are_those_that_were_read(name: str) -> None:
    """A change here is a change of what runs on clusters: read the new script, then store it."""
    assert script(JOBS[name]) == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


def test_every_golden_script_is_made_here() -> None:
    assert {place.stem for place in GOLDEN.glob("*.sh")} == set(JOBS)


#: Stand in for what SLURM brings along: srun prints its arguments one a line and ends as it is told.
SRUN = '#!/bin/bash\nprintf "%s\\n" "$@" > "$HERE/arguments"\nexit "${CODE:-0}"\n'
SCONTROL = '#!/bin/bash\necho "$@" >> "$HERE/scontrol"\n[ "$1" != show ] || echo "JobId=7 JobState=$STATE Reason=None"\n[ "$1" != requeue ] || exit 1\n'


def run_script(job: Job, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What bash does with the script where `srun` and `scontrol` only note how they were called."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    place = folder / "job.sh"
    place.write_text(script(job))
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "HERE": str(folder), "SLURM_JOB_ID": "7", "RANK": "3", **environment}
    return subprocess.run(["bash", str(place)], env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("task", [0, 2])
def test_bash_hands_on_the_arguments_as_they_are(task: int, tmp_path: Path) -> None:
    done = run_script(JOBS["sweep"], tmp_path, SLURM_ARRAY_TASK_ID=str(task))
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "arguments").read_text().splitlines()
    assert found[-4:] == list(JOBS["sweep"].commands[task])
    assert found[:4] == ["--kill-on-bad-exit=0", ONE.python, "-m", "stpipe"]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 130])
def test_the_exit_code_is_that_of_the_run(code: int, tmp_path: Path) -> None:
    assert run_script(ONE, tmp_path, CODE=str(code), STATE="RUNNING").returncode == code
    assert not (tmp_path / "scontrol").exists(), "nothing to queue again"


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False)])
def test_a_preempted_run_is_queued_again_unless_its_job_was_ended(state: str, requeued: bool, tmp_path: Path) -> None:
    assert run_script(ONE, tmp_path, CODE="75", STATE=state).returncode == 75
    assert ("requeue 7" in (tmp_path / "scontrol").read_text().splitlines()) == requeued


def test_without_requeue_nothing_is_asked(tmp_path: Path) -> None:
    job = replace(ONE, section=SlurmSection(requeue=False))
    assert run_script(job, tmp_path, CODE="75", STATE="RUNNING").returncode == 75
    assert not (tmp_path / "scontrol").exists()


def test_a_failing_line_of_setup_fails_the_job(tmp_path: Path) -> None:
    job = replace(ONE, section=SlurmSection(setup=("false", "true")))
    assert run_script(job, tmp_path).returncode == 1
    assert not (tmp_path / "arguments").exists(), "the run was started all the same"


def test_setup_sees_no_foreign_launcher_and_says_where_rank_0_is_met(tmp_path: Path) -> None:
    lines = ('echo "rank ${RANK-none}"', "export MASTER_ADDR=here", 'echo "threads $OMP_NUM_THREADS"')
    job = replace(ONE, section=SlurmSection(setup=lines, cpus_per_task=3))
    done = run_script(job, tmp_path)
    assert done.stdout.splitlines() == ["rank none", "threads 3"]
    assert "--cpus-per-task=3" in (tmp_path / "arguments").read_text().splitlines()


@pytest.mark.parametrize("odd", ["it's", 'a"b', "a\\b", "a\nb"])
def test_paths_that_slurm_would_take_apart_are_refused(odd: str) -> None:
    with pytest.raises(ConfigError, match="which SLURM takes apart"):
        script(replace(ONE, folder=Path("/data") / odd))
