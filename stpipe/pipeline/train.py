"""`stpipe train`: compose, validate, prepare, train, save, evaluate, card, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from stpipe.cards.content import check_user_template
from stpipe.config.load import Loaded, redact, to_root
from stpipe.config.redact import redact_command
from stpipe.core.peers import Peers
from stpipe.engine.backends import choose_device
from stpipe.engine.length import RunLength
from stpipe.pipeline.assemble import assemble
from stpipe.pipeline.computing import with_strategies
from stpipe.pipeline.console import console
from stpipe.pipeline.mined_data import with_mined_data
from stpipe.pipeline.plan import make_plan, plan_table
from stpipe.pipeline.publish import check_access
from stpipe.pipeline.resume import find_checkpoint
from stpipe.pipeline.rounds import run_rounds
from stpipe.pipeline.run import Run, guarded
from stpipe.pipeline.run_dir import Claim, RunDirectory, claim, start_fresh
from stpipe.pipeline.stages import run_stages
from stpipe.pipeline.status import NoStatus, Status
from stpipe.pipeline.together import Together
from stpipe.pipeline.tracking import tracked
from stpipe.reports.report import write_report


def run_train(loaded: Loaded, *, dry_run: bool = False, peers: Peers | None = None, at_start: Callable[[Path], None] | None = None) -> int:
    """Run all stages of a training run, or of each of its parts under iterated mining; returns the exit code of the contract.

    Args:
        loaded: the decoded configuration.
        dry_run: stop after the plan.
        peers: the processes of the run; None: this one alone.
        at_start: called with the run directory once it is there.
    """
    together = Together(peers or Peers(), at_start)
    if loaded.values["mine"] is not None and loaded.values["mine"]["rounds"] > 1:
        return run_rounds(loaded, train_once, dry_run=dry_run, processes=together.peers.size)
    return train_once(loaded, loaded.values, dry_run, together)


def train_once(loaded: Loaded, values: Mapping[str, Any], dry_run: bool, together: Together | None = None) -> int:
    """Run all stages once.

    Everything that can be wrong is found before the run directory is touched: errors up to the plan leave nothing behind.

    Args:
        loaded: the decoded configuration, which the run directory holds.
        values: what is trained by: the same, or the last part of it.
        dry_run: stop after the plan.
        together: the processes that do this; None: this one alone.
    """
    together = together or Together(Peers())
    peers = together.peers
    out = console(loaded.values["trainer"]["progress"] if peers.is_main else "off")
    directory = RunDirectory(Path(loaded.values["run"]["dir"]))
    saved_values = redact(loaded)  # as config.yaml holds them, so that secrets are neither stored nor compared
    claimed = Claim(**peers.decided("claim", lambda: asdict(claim(directory, saved_values))))
    if claimed.mode == "finished":
        if peers.is_main:
            show_finished(out, directory)
        return 0
    with peers.main_first("mine"):
        mined = with_mined_data(to_root(values), out)
    root = mined.root
    if root.card.template is not None:
        check_user_template(Path(root.card.template).expanduser())
    device = choose_device(root.trainer.device)
    with peers.main_first("data"):
        parts = assemble(root, out)
    together.same("training data", {name: source.fingerprint for name, source in parts.data.train.items()})
    runtime = root.backend.build(device=device, precision=root.trainer.precision, max_grad_norm=root.trainer.max_grad_norm, peers=peers)
    stream = parts.stream(rank=runtime.rank, world_size=runtime.world_size)
    length = RunLength.of(root.trainer, len(stream))
    checkpoint = together.checkpoint(
        lambda: find_checkpoint(directory, saved_values, parts, processes=runtime.world_size, notify=out.print)
    )
    parts = with_strategies(parts, stream, runtime, checkpoint)
    warnings = [*loaded.warnings, *parts.data.scan.warnings]
    if peers.is_main:
        check_access(root.publish, warnings.append)
    plan = make_plan(parts, stream, length, world_size=runtime.world_size, device=device, warnings=tuple(warnings))
    out.print(plan_table(plan))
    if dry_run:
        out.print(f"Dry run: nothing was written to {directory.path}")
        return 0
    with peers.main_first("directory"):
        if peers.is_main and claimed.mode == "fresh":
            start_fresh(directory, overwrite=root.run.overwrite)
    together.started(directory.path)
    if peers.is_main:
        mined.write_report(directory.mining, title=str(loaded.values["run"]["name"]))
    status = (Status if peers.is_main else NoStatus)(
        directory.status, command=shlex.join(["stpipe", *redact_command(sys.argv[1:])]), previous=claimed.status
    )
    with tracked(loaded, directory, status, out, is_main=peers.is_main) as followers:
        run = Run(loaded, parts, directory, status, claimed, checkpoint, runtime, out, followers)
        code = guarded(run, lambda r: run_stages(r, stream, length, plan))
        if code == 0:
            report_places(out, directory)
            runtime.close()
    return code


def show_finished(out: Console, directory: RunDirectory) -> None:
    """Say that there is nothing to do, and make up for what is missing."""
    out.print(f"{directory.path} already holds this run, finished.")
    if not (directory.path / "report.html").exists():
        write_report(directory.path)  # killed between the end of the run and its report
    report_places(out, directory)


def report_places(out: Console, directory: RunDirectory) -> None:
    """Say where the results lie."""
    out.print(f"Model   {directory.model}\nCard    {directory.model / 'README.md'}\nReport  {directory.path / 'report.html'}")
