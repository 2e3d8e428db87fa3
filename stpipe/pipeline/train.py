"""`stpipe train`: compose, validate, prepare, train, save, evaluate, card, report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console

from stpipe.config.load import Loaded, redact, to_root
from stpipe.config.redact import redact_command
from stpipe.engine.backend import choose_device
from stpipe.engine.length import RunLength
from stpipe.pipeline.assemble import assemble
from stpipe.pipeline.console import console
from stpipe.pipeline.plan import make_plan, plan_table
from stpipe.pipeline.resume import find_checkpoint
from stpipe.pipeline.run import Run, guarded
from stpipe.pipeline.run_dir import RunDirectory, claim, start_fresh
from stpipe.pipeline.stages import run_stages
from stpipe.pipeline.status import Status
from stpipe.reports.report import write_report


def run_train(loaded: Loaded, *, dry_run: bool = False) -> int:
    """Run all stages of a training run; returns the exit code of the contract.

    Everything that can be wrong is found before the run directory is touched: errors up to the plan leave nothing behind.

    Args:
        loaded: the decoded configuration.
        dry_run: stop after the plan.
    """
    out = console(loaded.values["trainer"]["progress"])
    directory = RunDirectory(Path(loaded.values["run"]["dir"]))
    saved_values = redact(loaded)  # as config.yaml holds them, so that secrets are neither stored nor compared
    claimed = claim(directory, saved_values)
    if claimed.mode == "finished":
        out.print(f"{directory.path} already holds this run, finished.")
        if not (directory.path / "report.html").exists():
            write_report(directory.path)  # killed between the end of the run and its report
        report_places(out, directory)
        return 0
    root = to_root(loaded.values)
    device = choose_device(root.trainer.device)
    parts = assemble(root, out)
    runtime = root.backend.build(device=device, precision=root.trainer.precision)
    stream = parts.stream(rank=runtime.rank, world_size=runtime.world_size)
    length = RunLength.of(root.trainer, len(stream))
    warnings = (*loaded.warnings, *parts.data.scan.warnings)
    plan = make_plan(parts, length, world_size=runtime.world_size, device=device, warnings=warnings)
    out.print(plan_table(plan))
    checkpoint = find_checkpoint(directory, saved_values, parts, notify=out.print)
    if dry_run:
        out.print(f"Dry run: nothing was written to {directory.path}")
        return 0
    if claimed.mode == "fresh":
        start_fresh(directory, overwrite=root.run.overwrite)
    status = Status(directory.status, command=shlex.join(["stpipe", *redact_command(sys.argv[1:])]), previous=claimed.status)
    run = Run(loaded, parts, directory, status, claimed, checkpoint, runtime, out)
    code = guarded(run, lambda r: run_stages(r, stream, length, plan))
    if code == 0:
        report_places(out, directory)
    return code


def report_places(out: Console, directory: RunDirectory) -> None:
    """Say where the results lie."""
    out.print(f"Model   {directory.model}\nCard    {directory.model / 'README.md'}\nReport  {directory.path / 'report.html'}")
