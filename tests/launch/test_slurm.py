"""States of jobs from what SLURM prints (lines of 22.05), exit codes, records, newest metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.slurm import Layout, SlurmSection
from stpipe.launch.slurm import (
    RECORD,
    JobState,
    Record,
    call,
    end_of,
    from_accounting,
    from_controller,
    last_metric,
    records,
    submit,
    task_numbers,
)
from stpipe.launch.slurm_script import Job
from stpipe.pipeline.status import Status

CONTROLLER = """\
JobId=12 ArrayJobId=12 ArrayTaskId=2-3,5%2 JobName=sweep UserId=me(1) JobState=PENDING Reason=JobArrayTaskLimit Requeue=1 Restarts=0 ExitCode=0:0
JobId=14 ArrayJobId=12 ArrayTaskId=1 JobName=sweep UserId=me(1) JobState=FAILED Reason=NonZeroExitCode Requeue=1 Restarts=0 ExitCode=3:0
JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=sweep UserId=me(1) JobState=RUNNING Reason=None Requeue=1 Restarts=2 ExitCode=0:0
"""
ACCOUNTING = "12_0|COMPLETED|0:0\n12_1|FAILED|3:0\n12_2|CANCELLED by 1000|0:15\n12_[3-4]|PENDING|0:0\n"


def test_what_the_controller_says() -> None:
    found = from_controller(CONTROLLER)
    assert sorted(found) == [0, 1, 2, 3, 5]
    assert found[0] == JobState("RUNNING", 0, 0, 2, "")
    assert found[1] == JobState("FAILED", 3, 0, 0, "NonZeroExitCode")
    assert found[5] == JobState("PENDING", 0, 0, 0, "JobArrayTaskLimit")
    assert from_controller("JobId=7 JobName=one JobState=COMPLETED Reason=None Restarts=1 ExitCode=0:0") == {
        0: JobState("COMPLETED", 0, 0, 1)
    }


def test_what_the_accounting_says() -> None:
    found = from_accounting(ACCOUNTING)
    assert {i: state.state for i, state in found.items()} == {0: "COMPLETED", 1: "FAILED", 2: "CANCELLED", 3: "PENDING", 4: "PENDING"}
    assert (found[1].exit_code, found[2].signal) == (3, 15)
    assert from_accounting("7|TIMEOUT|0:0\n") == {0: JobState("TIMEOUT", 0, 0)}


def test_task_numbers() -> None:
    assert task_numbers("0-2,5%2") == [0, 1, 2, 5]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (JobState("COMPLETED", 0), 0),
        (JobState("FAILED", 3), 3),
        (JobState("FAILED", 137), 1),
        (JobState("FAILED", 0, 11), 1),
        (JobState("CANCELLED", 0, 15), 130),
        (JobState("TIMEOUT", 0), 1),
        (JobState("NODE_FAIL", 0), 1),
    ],
)
def test_exit_codes_of_the_contract(state: JobState, code: int) -> None:
    assert state.contract_code == code and not state.active


def record(folder: Path, **changes: object) -> Record:
    given = {"job_id": "12", "name": "first", "script": "job.sh", "cwd": str(folder), "submitted": 1.0, "array": False}
    return Record(**{**given, "run_dirs": ("runs/first",), "logs": ("12.log",), **changes})  # type: ignore[arg-type]


def test_the_end_of_a_job_that_slurm_has_forgotten_is_the_one_that_the_run_left(tmp_path: Path) -> None:
    unknown = JobState("UNKNOWN")
    assert end_of(record(tmp_path), 0, JobState("FAILED", 3)) == 3
    assert end_of(record(tmp_path), 0, unknown) == 1, "no status: it never began"
    (tmp_path / "runs/first").mkdir(parents=True)
    status = Status(tmp_path / "runs/first/status.json", command="stpipe train")
    status.write()
    assert end_of(record(tmp_path), 0, unknown) == 1, "it did not end"
    status.end("partial", 5)
    assert end_of(record(tmp_path), 0, unknown) == 5


def test_records_are_found_again(tmp_path: Path) -> None:
    for name, when in (("b", 1.0), ("a", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD).write_text(json.dumps({**vars(record(tmp_path, submitted=when)), "run_dirs": [name], "logs": ["x"]}))
    (tmp_path / "empty").mkdir()
    assert [found.run_dirs for found in records(tmp_path)] == [("b",), ("a",)]
    assert records(tmp_path / "nowhere") == []


def test_the_newest_metric_is_of_the_evaluation_where_there_is_one(tmp_path: Path) -> None:
    place = tmp_path / "metrics.jsonl"
    assert last_metric(place) is None
    rows = [
        {"step": 1, "split": "train", "name": "loss", "value": 2.0},
        {"step": 2, "split": "train", "name": "loss", "value": 1.5},
        {"step": 2, "split": "train", "name": "lr", "value": 0.1},
    ]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "spl')
    assert last_metric(place) == "loss 1.5000 (step 2)"
    with place.open("a") as file:
        file.write(
            "\n" + json.dumps({"step": 2, "split": "eval", "name": "dev_ndcg@10", "value": 0.25}) + "\n" + json.dumps(rows[1]) + "\n"
        )
    assert last_metric(place) == "dev_ndcg@10 0.2500 (step 2)"


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    job = Job("first", tmp_path / "jobs", tmp_path, "python", SlurmSection(), Layout(1, 1), (("train",),))
    with pytest.raises(ConfigError, match="`sbatch` is not on this machine's PATH"):
        submit(job, ["runs/first"])
    assert Record.load(tmp_path / "jobs") is None


def test_a_refusal_of_slurm_is_handed_on_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpuu' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ConfigError, match="exit code 1: sbatch: error: invalid partition specified: gpuu"):
        call(["sbatch", "--parsable", "job.sh"])
