"""What Hydra's launchers get to run: each job here, or all of them on SLURM."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

SLURM_LAUNCHER = "hydra/launcher=slurm"


@dataclass
class SweepTask:
    """run: one job, in this process; args: of the command. hydra_plugins/stpipe_slurm calls `on_slurm` instead."""

    run: Callable[[Any], int]
    args: argparse.Namespace
    seen: list[list[str]] = field(default_factory=list)

    def __call__(self, config: Any) -> int:
        from hydra.core.hydra_config import HydraConfig

        self.seen.append([str(text) for text in HydraConfig.get().overrides.task])
        return self.run(config)

    def on_slurm(self, sweep: Sequence[Sequence[str]], *, first: int, wait_for: bool, every: float) -> list[int]:
        """Submit all jobs; the exit code of each."""
        from stpipe.cli.slurm_jobs import launch_sweep

        return launch_sweep(self.args, sweep, first=first, wait_for=wait_for, every=every)

    def show_scripts(self) -> None:
        """Print the scripts of the jobs that ran: those of a dry run, which SLURM would get."""
        from stpipe.cli.slurm_jobs import print_scripts

        print_scripts(self.args, self.seen)
