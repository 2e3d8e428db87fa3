"""The batch script of a SLURM job, as text. Nothing is looked up here, so the same job has the same script on any machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.slurm import Layout, SlurmSection

#: Variables that would make the processes of a job believe in a launcher that is not there.
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PREEMPTED = 75
#: Seconds that a script waits for SLURM to end it after it asked to be queued again.
REQUEUE_WAIT = 60


@dataclass(frozen=True)
class Job:
    """A job, or the jobs of a sweep, which are alike but for their arguments.

    name: in the queue; folder: of script and logs, absolute; cwd: where commands run, absolute; python: that runs them;
    section, layout: what SLURM is asked for; commands: arguments of stpipe, one tuple a run; array: whether it is a sweep.
    """

    name: str
    folder: Path
    cwd: Path
    python: str
    section: SlurmSection
    layout: Layout
    commands: tuple[tuple[str, ...], ...]
    array: bool = False

    @property
    def log(self) -> Path:
        """With %j, or %A and %a, for the numbers that SLURM gives."""
        return self.folder / ("%A_%a.log" if self.array else "%j.log")


def script(job: Job) -> str:
    """Text of the script.

    Each process of the run is a task of one `srun`, started by SLURM itself on every node: no ssh, no torchrun in between
    that a signal would kill, and signals reach the processes that save.

    Raises:
        ConfigError: a path cannot stand in a directive.
    """
    parts = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {text}" for text in directives(job)),
        "# Written by stpipe. Exit code 75: the run was asked to leave, has saved a checkpoint, and goes on when it is queued again.",
        "set -e",
        "",
        "# A signal is for the processes of the run; this shell waits until they have saved.",
        "trap : TERM USR1 USR2 HUP",
        f"unset {' '.join(FOREIGN)}",
        *setup(job),
        "",
        *commands(job),
        "",
        "code=0",
        f'{srun(job)} "${{arguments[@]}}" || code=$?',
        *(requeue() if job.section.requeue else ()),
        'exit "$code"',
    ]
    return "\n".join(parts) + "\n"


def directives(job: Job) -> list[str]:
    """The options of sbatch."""
    section, limit = job.section, job.section.array_parallelism
    found: list[tuple[str, object]] = [
        ("job-name", re.sub(r"[^\w.-]", "-", job.name)),
        ("chdir", _quoted(str(job.cwd))),
        ("output", _quoted(_logs(job))),
        ("open-mode", "append"),
        *((name, getattr(section, name)) for name in ("partition", "account", "qos")),
        ("array", f"0-{len(job.commands) - 1}" + (f"%{limit}" if limit else "") if job.array else None),
        ("nodes", section.nodes),
        ("ntasks-per-node", job.layout.tasks_per_node),
        ("gpus-per-node", section.gpus_per_node),
        ("cpus-per-task", section.cpus_per_task),
        ("mem", section.mem),
        ("time", section.time),
        ("signal", section.signal.removeprefix("SIG") if section.signal else None),
    ]
    again = "--requeue" if section.requeue else "--no-requeue"
    return [*(f"--{name}={value}" for name, value in found if value is not None), again, *section.extra]


def _logs(job: Job) -> str:
    """The log's path, in which only the file's name is a pattern."""
    return str(job.folder).replace("%", "%%") + "/" + job.log.name


def _quoted(path: str) -> str:
    if re.search(r"[\"'\\\n]", path):
        raise ConfigError(Problem("slurm.folder", f"{path!r} has a quote, a backslash or a line break, which SLURM takes apart"))
    return path if re.fullmatch(r"[\w./%+:@,-]+", path) else f'"{path}"'


def setup(job: Job) -> list[str]:
    """Threads, then the user's lines."""
    threads = [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{job.section.cpus_per_task}}}"] if job.section.cpus_per_task else []
    return [*threads, *job.section.setup]


def commands(job: Job) -> list[str]:
    """The arguments of stpipe, in a sweep those of this job."""
    if not job.array:
        return [_array(job.commands[0])]
    cases = [f"{i}) {_array(arguments)} ;;" for i, arguments in enumerate(job.commands)]
    return ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac"]


def _array(arguments: Sequence[str]) -> str:
    return f"arguments=({shlex.join(arguments)})"


def srun(job: Job) -> str:
    """The step. A process that fails tells the others itself, why; SLURM ending them at once would hide it.

    srun of SLURM 22.05 and later does not take the cores of a task from the job.
    """
    cores = f" --cpus-per-task={job.section.cpus_per_task}" if job.section.cpus_per_task else ""
    return f"srun --kill-on-bad-exit=0{cores} {shlex.quote(job.python)} -m stpipe"


def requeue() -> list[str]:
    """Ask to be queued again after exit code 75, unless SLURM or the user has ended the job: its state tells."""
    return [
        f'if [ "$code" -eq {PREEMPTED} ] && [[ "$(scontrol show job --oneliner "$SLURM_JOB_ID")" == *" JobState=RUNNING "* ]]; then',
        '    echo "stpipe: preempted with a checkpoint; queueing job $SLURM_JOB_ID again" >&2',
        f'    scontrol requeue "$SLURM_JOB_ID" && sleep {REQUEUE_WAIT} # SLURM ends this script',
        "fi",
    ]
