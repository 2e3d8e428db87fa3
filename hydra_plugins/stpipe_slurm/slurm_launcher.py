"""`hydra/launcher=slurm`: the jobs of a sweep as arrays of SLURM. What SLURM is asked for are the keys `slurm.*` of the jobs themselves.

Hydra imports this at every start, so it imports nothing heavy.
"""

# Hydra executes this module before it is in sys.modules, where dataclasses with postponed annotations look it up: no __future__ import.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SlurmLauncherConf:
    """wait: until all jobs have ended, and end with their exit codes; poll: seconds between two looks."""

    _target_: str = "hydra_plugins.stpipe_slurm.slurm_launcher.SlurmLauncher"
    wait: bool = True
    poll: float = 5.0


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmLauncherConf, provider="stpipe")


class SlurmLauncher(Launcher):
    """Hands the overrides of all jobs to the command that runs the sweep, which submits them."""

    def __init__(self, wait: bool = True, poll: float = 5.0) -> None:
        self.wait, self.poll = wait, poll
        self.task: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if not hasattr(task_function, "on_slurm"):
            raise HydraException("hydra/launcher=slurm runs jobs of stpipe: stpipe train ... -m hydra/launcher=slurm")
        self.task = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [filter_overrides(overrides) for overrides in job_overrides]
        codes = self.task.on_slurm(jobs, first=initial_job_idx, wait_for=self.wait, every=self.poll)
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED, _return_value=code) for job, code in zip(jobs, codes, strict=True)]
