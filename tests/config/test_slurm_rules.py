"""What is refused of a SLURM job before anything is submitted, and what a process does by itself inside one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.finding import Rules
from stpipe.config.load import Loaded, load_config
from stpipe.config.slurm import Layout, section_of, under_slurm
from stpipe.config.slurm_rules import layout

BASE = ("model=dense", "model.name_or_path=org/model", "dataset.train=org/data", "dataset.format=pair")


def loaded(*overrides: str) -> Loaded:
    return load_config([*BASE, *overrides])


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("slurm.time=60", "slurm.time: found the number 60: YAML reads an unquoted 12:00:00 as one"),
        ("slurm.time=12h", "slurm.time: '12h' is no time limit: expected minutes, HH:MM:SS or D-HH:MM:SS"),
        ("slurm.mem=64GB", "slurm.mem: '64GB' is no amount of memory"),
        ("slurm.partition='a b'", "slurm.partition: 'a b' is no name of SLURM"),
        ("slurm.signal=USR1", "slurm.signal: 'USR1' is not NAME@SECONDS, like USR1@120"),
        ("slurm.signal='B:USR1@120'", "never to the shell (B:)"),
        ("slurm.signal=INT@120", "SIGINT would kill the run: trainer.preempt_signals"),
        ("slurm.signal=USR1@20", "20 s before the time limit is too late: saving may take trainer.grace_period=25 s"),
        ("slurm.extra=['constraint=a100']", "slurm.extra[0]: 'constraint=a100' is no directive"),
        ("slurm.extra=['--exclusive','--nodes=2']", "slurm.extra[1]: --nodes is written by slurm.nodes; set that instead"),
        ("slurm.setup=['#SBATCH --gpus=1']", "slurm.setup[0]: SLURM reads no directives after the first command"),
        ("slurm.folder='it\\'s'", "has a quote, a backslash or a line break"),
        ("slurm.nodes=0", "slurm.nodes: expected an integer >= 1"),
        ("slurm.gpus=8", "slurm.gpus: unknown key"),
    ],
)
def test_what_is_refused(override: str, message: str) -> None:
    assert message in problems(override)


@pytest.mark.parametrize("time", ["90", "12:00:00", "1-12", "2-00:30:00", "UNLIMITED"])
def test_times_that_slurm_reads(time: str) -> None:
    assert loaded(f"slurm.time='{time}'").values["slurm"]["time"] == time


def test_the_defaults_are_those_of_the_schema() -> None:
    assert loaded().values["slurm"] is None
    assert section_of(loaded().values) == loaded("slurm.nodes=1").values["slurm"]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ((), Layout(1, 1)),
        (("slurm.gpus_per_node=1",), Layout(1, 1)),
        (("backend=ddp", "slurm.gpus_per_node=8"), Layout(1, 8)),
        (("backend=ddp", "slurm.gpus_per_node=8", "slurm.nodes=2"), Layout(2, 8)),
        (("backend=ddp", "slurm.gpus_per_node=8", "slurm.tasks_per_node=4"), Layout(1, 4)),
        (("backend.num_processes=6", "slurm.nodes=2"), Layout(2, 3)),
        (("backend=deepspeed_zero2", "slurm.tasks_per_node=2", "slurm.nodes=2"), Layout(2, 2)),
    ],
)
def test_processes_of_a_job(overrides: tuple[str, ...], found: Layout) -> None:
    run = loaded(*overrides)
    rules = Rules(run.values, run.schema, run.origins)
    assert layout(rules) == found
    assert rules.finding.problems == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("slurm.nodes=2",), "backend.name: 'single' is one process, but slurm.nodes=2"),
        (("backend=ddp",), "slurm.tasks_per_node: nothing says how many processes backend 'ddp' has"),
        (
            ("backend.num_processes=4", "slurm.gpus_per_node=8"),
            "backend.num_processes: is 4, but slurm.nodes=1 with 8 process(es) each makes 8",
        ),
        (("backend.num_processes=3", "slurm.nodes=2"), "backend.num_processes: is 3, but slurm.nodes=2 with 1 process(es) each makes 2"),
    ],
)
def test_processes_that_do_not_fit_the_backend(overrides: tuple[str, ...], message: str) -> None:
    run = loaded(*overrides)  # valid as it is: only a job asks
    rules = Rules(run.values, run.schema, run.origins)
    layout(rules)
    assert [message in str(problem) for problem in rules.finding.problems] == [True]


def test_a_job_has_no_part_in_the_name_of_a_run() -> None:
    assert loaded("slurm.partition=gpu").values["run"] == loaded().values["run"]


@pytest.mark.parametrize(
    ("given", "environment", "overwrite", "resume"),
    [
        ({}, {}, False, "never"),
        ({}, {"SLURM_JOB_ID": "1"}, False, "auto"),
        ({"trainer": {"resume": "never"}}, {"SLURM_JOB_ID": "1"}, False, "never"),
        ({"run": {"overwrite": True}}, {"SLURM_JOB_ID": "1"}, True, "never"),
        ({"run": {"overwrite": True}}, {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "0"}, True, "never"),
        ({"run": {"overwrite": True}}, {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "2"}, False, "auto"),
    ],
)
def test_inside_a_job_a_run_continues_and_a_restart_replaces_nothing(
    given: dict[str, Any], environment: dict[str, str], overwrite: bool, resume: str
) -> None:
    values: dict[str, Any] = {"trainer": {"resume": "never"}, "run": {"overwrite": False}}
    for section, keys in copy.deepcopy(given).items():
        values[section].update(keys)
    under_slurm(values, given, environment)
    assert values == {"trainer": {"resume": resume}, "run": {"overwrite": overwrite}}


def test_the_environment_is_asked_when_a_configuration_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded().values["trainer"]["resume"] == "never"
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert loaded().values["trainer"]["resume"] == "auto"
    assert loaded("trainer.resume=never").values["trainer"]["resume"] == "never"
