"""The keys of a SLURM job, and what a process does by itself in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from stpipe.config.fields import option


@dataclass(frozen=True)
class SlurmSection:
    """A run as a SLURM job: `stpipe slurm` and `hydra/launcher=slurm` read these keys, a run that is started otherwise ignores them."""

    partition: str | None = option(None, help="Partition; None is the cluster's default.")
    account: str | None = option(None, help="Account that is charged; None is the user's default.")
    qos: str | None = option(None, help="Quality of service; None is the default.")
    nodes: int = option(1, ge=1, help="Nodes.")
    tasks_per_node: int | None = option(
        None, ge=1, help="Processes on each node; None is one for each GPU, or by backend.num_processes, where the backend has several."
    )
    gpus_per_node: int | None = option(None, ge=1, help="GPUs of each node; None asks for none.")
    cpus_per_task: int | None = option(None, ge=1, help="Cores, and threads, of each process; None is the cluster's default.")
    mem: int | str | None = option(None, help="Memory of each node, like 64G; a number is megabytes. None is the cluster's default.")
    time: int | str | None = option(
        None, help="Time limit as text: '12:00:00', '1-00:00:00' or minutes like '90'. None is the partition's."
    )
    signal: str | None = option(
        "USR1@120",
        help="Signal, and seconds before the time limit at which every process gets it, saves a checkpoint and leaves (exit code 75). None sends none.",
    )
    requeue: bool = option(True, help="Queue the job again when it was preempted, when it left with exit code 75, or when a node failed.")
    setup: tuple[str, ...] = option(
        help="Lines of shell before the run, like `module load cuda`; the job fails where one of them does.", factory=tuple
    )
    extra: tuple[str, ...] = option(help="Further directives, like `--constraint=a100`.", factory=tuple)
    array_parallelism: int | None = option(None, ge=1, help="Jobs of a sweep that may run at the same time; None leaves it to the cluster.")
    folder: str = option("outputs/slurm", help="Folder of scripts, records and logs of jobs, one folder in it for each job.")
    python: str | None = option(None, help="Python of the jobs, where it is another one than that of the command.")


@dataclass(frozen=True)
class Layout:
    """nodes; tasks_per_node: processes on each."""

    nodes: int
    tasks_per_node: int

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node


def section_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The decoded section; where the configuration has none, its defaults."""
    given = values.get("slurm")
    if given is not None:
        return dict(given)
    return {f.name: f.default if f.default is not MISSING else [] for f in fields(SlurmSection)}


def under_slurm(values: dict[str, Any], given: Any, environment: Mapping[str, str]) -> None:
    """What a job of SLURM does when nobody says otherwise, in place: it continues, and a restart never replaces what the run has.

    Args:
        values: decoded.
        given: what was set before decoding.
        environment: of the process.
    """
    if "SLURM_JOB_ID" not in environment:
        return
    trainer, run = values["trainer"], values["run"]
    restarted = environment.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
    said = isinstance(given, Mapping) and isinstance(given.get("trainer"), Mapping) and "resume" in given["trainer"]
    if restarted and run["overwrite"]:
        run["overwrite"] = False
        trainer["resume"] = "auto"
    elif not said and not run["overwrite"]:
        trainer["resume"] = "auto"
