"""From a command line to jobs of SLURM: one run, or the runs of a sweep as arrays."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stpipe.cli.arguments import load
from stpipe.cli.failures import stderr
from stpipe.config.build import construct
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.finding import Rules
from stpipe.config.load import Loaded, redact
from stpipe.config.redact import redact_command
from stpipe.config.slurm import Layout, SlurmSection, section_of
from stpipe.config.slurm_rules import SLURM_RULES, layout
from stpipe.config.sweep import Sweep
from stpipe.launch.slurm import SCRIPT, Record, submit, wait
from stpipe.launch.slurm_script import Job, script
from stpipe.pipeline.run_dir import RunDirectory, claim

#: Flags of the composing verbs that a job repeats.
REPEATED = {"from_dir": "--from", "config_dir": "--config-dir", "config_path": "--config-path", "config_name": "--config-name"}
PRIMARY = "train"


@dataclass(frozen=True)
class Planned:
    """A checked run: its configuration, what SLURM is asked for, and the arguments with which the job trains."""

    loaded: Loaded
    section: SlurmSection
    layout: Layout
    arguments: tuple[str, ...]

    @property
    def run_dir(self) -> str:
        return str(self.loaded.values["run"]["dir"])

    @property
    def name(self) -> str:
        return str(self.loaded.values["run"]["name"])


def plan(args: argparse.Namespace, overrides: Sequence[str]) -> Planned:
    """Check a run and its job, as far as that goes without SLURM, data and weights.

    Raises:
        ConfigError: with everything that would keep the job from being submitted or from running.
    """
    overrides = [o.lstrip("+") if o.startswith("++") else o for o in overrides]
    refuse_secrets(overrides)
    loaded = load(args, overrides)
    values = loaded.values
    fixed = [] if "run.dir" in keys_of(overrides) else [f"run.dir={quoted(values['run']['dir'])}"]
    resume = values["trainer"]["resume"]
    if resume == "never" and ("trainer", "resume") not in loaded.origins.places:
        resume = "auto"  # what the job would do by itself, said where everybody sees it
        fixed.append("trainer.resume=auto")
    values["trainer"]["resume"] = resume
    rules = Rules(values, loaded.schema, loaded.origins)
    found = layout(rules)
    section = construct(SlurmSection, section_of(values))
    if values.get("slurm") is None:
        for rule in SLURM_RULES:  # the defaults, against what else is set
            rule(rules)
    if section.requeue and resume == "never":
        rules.problem(
            ("trainer", "resume"),
            "is never, but a job that is queued again (slurm.requeue) has to continue. Leave trainer.resume out, or set slurm.requeue=false",
        )
    if rules.finding.problems:
        raise ConfigError(rules.finding.problems)
    claim(RunDirectory(Path(values["run"]["dir"])), redact(loaded))
    return Planned(loaded, section, found, ("train", *flags_of(args), *overrides, *fixed))


def keys_of(overrides: Sequence[str]) -> set[str]:
    """The keys that overrides set."""
    return {o.lstrip("+").partition("=")[0] for o in overrides}


def quoted(text: str) -> str:
    """A value of an override that Hydra's grammar leaves alone."""
    if re.fullmatch(r"[\w./-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def refuse_secrets(overrides: Sequence[str]) -> None:
    """A script is a file that others may read, and SLURM keeps a copy."""
    shown = redact_command(overrides)
    problems = [
        Problem(
            hidden.partition("=")[0], "a secret on the command line would be written into the script. Give it by a variable: ${oc.env:NAME}"
        )
        for text, hidden in zip(overrides, shown, strict=True)
        if text != hidden
    ]
    if problems:
        raise ConfigError(problems)


def flags_of(args: argparse.Namespace) -> list[str]:
    """The flags that say where the configuration comes from."""
    given = {name: getattr(args, name) for name in REPEATED}
    return [text for name, value in given.items() if value not in (None, PRIMARY) for text in (REPEATED[name], value)]


def job_of(planned: Planned) -> Job:
    """One run as a job. Its folder is told by the run directory, so a second job for it meets the first one's record."""
    cwd = Path.cwd()
    digest = hashlib.sha256(str((cwd / planned.run_dir).resolve()).encode()).hexdigest()[:8]
    name = f"{planned.name}-{digest}"
    return _job([planned], name=planned.name, folder=name, array=False)


def _job(plans: Sequence[Planned], *, name: str, folder: str, array: bool) -> Job:
    first = plans[0]
    return Job(
        name=name,
        folder=(Path.cwd() / first.section.folder).resolve() / folder,
        cwd=Path.cwd(),
        python=first.section.python or sys.executable,
        section=first.section,
        layout=first.layout,
        commands=tuple(p.arguments for p in plans),
        array=array,
    )


def arrays_of(plans: Sequence[Planned], *, first: int) -> list[tuple[Job, list[int]]]:
    """The runs of a sweep as few jobs: an array for each way of asking SLURM, with the positions of its runs in the sweep.

    Args:
        plans: in order.
        first: number of the first one in the sweep, which a sweeper may launch in parts.
    """
    places: dict[str, int] = {}
    for i, planned in enumerate(plans):
        place = os.path.realpath(planned.run_dir)
        if place in places:
            raise ConfigError(
                Problem(
                    "run.dir",
                    f"jobs {first + places[place]} and {first + i} of the sweep are the same run, {planned.run_dir}. Leave run.name and run.dir out, "
                    "or give each job its own",
                )
            )
        places[place] = i
    groups: dict[tuple[SlurmSection, Layout], list[int]] = {}
    for i, planned in enumerate(plans):
        groups.setdefault((planned.section, planned.layout), []).append(i)
    sweep = Sweep.of_environment()
    name = sweep.name if sweep is not None else "sweep"
    return [
        (_job([plans[i] for i in members], name=name, folder=f"{name}-{first + members[0]}", array=True), members)
        for members in groups.values()
    ]


def _sweep(args: argparse.Namespace, sweep: Sequence[Sequence[str]], first: int) -> tuple[list[Planned], list[tuple[Job, list[int]]]]:
    if args.verb != "train" or args.stage is not None:
        what = f"stpipe {args.verb}" + ("" if args.verb != "train" else f" --stage {args.stage}")
        raise ConfigError(Problem("hydra/launcher", f"slurm runs whole trainings (`stpipe train`), not `{what}`", "hydra/launcher=slurm"))
    plans = [plan(args, overrides) for overrides in sweep]
    return plans, arrays_of(plans, first=first)


def print_scripts(args: argparse.Namespace, sweep: Sequence[Sequence[str]]) -> None:
    """The scripts of a sweep, each below the path that it would have."""
    for job, _ in _sweep(args, sweep, 0)[1]:
        print(f"# {job.folder / SCRIPT}\n{script(job)}", end="")


def launch_sweep(args: argparse.Namespace, sweep: Sequence[Sequence[str]], *, first: int, wait_for: bool, every: float) -> list[int]:
    """Submit the runs of a sweep and wait for them; the exit code of each.

    Args:
        args: of the command.
        sweep: overrides of each run.
        first: number of the first one.
        wait_for: whether to wait; a job that is not waited for counts as done.
        every: seconds between two looks.
    """
    plans, jobs = _sweep(args, sweep, first)
    codes = [0] * len(sweep)
    say = stderr().print
    submitted: list[tuple[Record, list[int]]] = []
    for job, members in jobs:
        record = submit(job, [plans[i].run_dir for i in members])
        say(f"submitted job {record.job_id}, {len(members)} run(s); logs in {job.folder}")
        submitted.append((record, members))
    try:
        for record, members in submitted if wait_for else ():
            for i, code in zip(members, wait(record, every=every, say=say), strict=True):
                codes[i] = code
    except KeyboardInterrupt:
        say("The jobs go on. `stpipe slurm status` shows them, `scancel JOB` ends one.")
        raise
    return codes


def submit_run(planned: Planned) -> Record:
    """Submit one run."""
    return submit(job_of(planned), [planned.run_dir])
