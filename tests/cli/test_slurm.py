"""`stpipe slurm` without a SLURM: what is planned, printed and refused. tests/launch/test_slurm_cluster.py has a real one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stpipe.cli.main import main

BASE = ("model=dense", "model.name_or_path=org/model", "dataset.train=org/data", "dataset.format=pair", "run.name=first")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `stpipe` in an empty folder; exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def arguments_of(text: str) -> list[list[str]]:
    """What bash makes of the arguments in a script, in their order."""
    lines = [line.strip().removesuffix(" ;;").partition("arguments=")[2] for line in text.splitlines() if "arguments=(" in line]
    found = []
    for line in lines:
        done = subprocess.run(["bash", "-c", f'a={line}; printf "%s\\n" "${{a[@]}}"'], capture_output=True, text=True, check=True)
        found.append(done.stdout.splitlines())
    return found


def test_a_script_trains_what_was_checked_and_touches_nothing(command: Command, tmp_path: Path) -> None:
    code, out, err = command("slurm", "script", *BASE, "slurm.time=12:00:00", "slurm.gpus_per_node=2", "backend=ddp")
    assert code == 0, err
    given = [*BASE, "slurm.time=12:00:00", "slurm.gpus_per_node=2", "backend=ddp"]
    assert arguments_of(out) == [["train", *given, "run.dir=outputs/custom/first", "trainer.resume=auto"]]
    assert f"#SBATCH --chdir={tmp_path}\n" in out
    assert "#SBATCH --time=12:00:00\n" in out and "#SBATCH --ntasks-per-node=2\n" in out
    assert list(tmp_path.iterdir()) == []


def test_flags_that_say_where_the_configuration_comes_from_are_repeated(command: Command, tmp_path: Path) -> None:
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text(
        "# @package _global_\nmodel: {name: dense, name_or_path: org/model}\ndataset: {train: org/data, format: pair}\n"
    )
    code, out, err = command("slurm", "script", "+recipe=mine", "run.dir=out put", "trainer.resume=auto", "--config-dir", "conf")
    assert code == 0, err
    assert arguments_of(out) == [["train", "--config-dir", "conf", "+recipe=mine", "run.dir=out put", "trainer.resume=auto"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slurm.nodes=2",), "backend.name: 'single' is one process, but slurm.nodes=2"),
        (("trainer.resume=never",), "trainer.resume: is never, but a job that is queued again"),
        (("trainer.grace_period=300",), "slurm.signal: 120 s before the time limit is too late"),
        (("dataset.train=https://me:secret-word-1@host/x.jsonl",), "a secret on the command line would be written into the script"),
        (("trainer.seed=1,2", "-m"), "a sweep is submitted with: stpipe train ... -m hydra/launcher=slurm"),
        (("--cfg", "job"), "--cfg, --info and --hydra-help go with"),
        (("loss=cosent",), "'cosent' trains on"),
    ],
)
def test_what_is_refused_before_slurm_is_asked(arguments: tuple[str, ...], message: str, command: Command, tmp_path: Path) -> None:
    for action in ("script", "submit"):
        code, out, err = command("slurm", action, *BASE, *arguments)
        assert (code, out) == (2, "")
        assert message in err and "secret-word-1" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_another_configuration_made_is_refused_at_submission(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/custom/first"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    code, _, err = command("slurm", "script", *BASE)
    assert code == 2 and "holds files but no run" in err


def test_actions(command: Command) -> None:
    assert command("slurm")[0] == 2
    code, out, _ = command("slurm", "script", "--help")
    assert code == 0 and "stpipe slurm status" in out
    code, _, err = command("slurm", "submitt")
    assert code == 2 and "Did you mean 'submit'?" in err
    code, _, err = command("slurm", "status")
    assert code == 2 and "no job below outputs/slurm" in err
    assert command("slurm", "status", "--json")[:2] == (0, "[]\n")


def test_status_without_slurm_still_shows_the_runs(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "outputs/slurm/first-0a1b2c3d"
    place.mkdir(parents=True)
    record = {"job_id": "7", "name": "first", "script": "job.sh", "cwd": str(tmp_path), "submitted": 1.0, "array": False}
    (place / "job.json").write_text(json.dumps({**record, "run_dirs": ["outputs/custom/first"], "logs": ["7.log"]}))
    run = tmp_path / "outputs/custom/first"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": "preempted", "step": 3, "num_steps": 8}))
    monkeypatch.setenv("PATH", "")
    code, out, err = command("slurm", "status", "outputs/custom/first")
    assert code == 0, err
    assert out.splitlines()[1].split() == ["7", "UNKNOWN", "outputs/custom/first", "preempted", "3/8", "-"]


def test_the_launcher_needs_a_sweep(command: Command) -> None:
    code, _, err = command("train", *BASE, "hydra/launcher=slurm")
    assert code == 2 and "launchers start the jobs of --multirun" in err


def test_a_sweep_is_checked_whole_before_anything_is_submitted(command: Command, tmp_path: Path) -> None:
    code, _, err = command("train", "-m", "hydra/launcher=slurm", *BASE, "trainer.seed=1,2")
    assert code == 2 and "jobs 0 and 1 of the sweep are the same run, outputs/custom/first" in err
    code, _, err = command("train", "-m", "hydra/launcher=slurm", *BASE[:-1], "trainer.seed=1,2", "slurm.mem=1GB")
    assert code == 2 and "'1GB' is no amount of memory" in err
    code, _, err = command("validate", "-m", "hydra/launcher=slurm", *BASE[:-1], "trainer.seed=1,2")
    assert code == 2 and "slurm runs whole trainings" in err
    assert list(tmp_path.iterdir()) == []
