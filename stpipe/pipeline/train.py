"""`stpipe train`: compose, validate, prepare, train, save, evaluate, card, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from stpipe.cards.content import check_user_template
from stpipe.config.errors import PreemptedError
from stpipe.config.load import Loaded, redact, to_root
from stpipe.config.redact import redact_command
from stpipe.config.sections import TrainerSection
from stpipe.core.peers import Peers
from stpipe.core.signals import Preempted, Signals
from stpipe.engine.backends import choose_device
from stpipe.engine.length import RunLength
from stpipe.pipeline.assemble import assemble
from stpipe.pipeline.computing import with_strategies
from stpipe.pipeline.console import console
from stpipe.pipeline.evaluate import own_device
from stpipe.pipeline.later import continue_later, need_data
from stpipe.pipeline.mined_data import with_mined_data
from stpipe.pipeline.plan import make_plan, plan_table
from stpipe.pipeline.publish import check_access
from stpipe.pipeline.resume import find_checkpoint
from stpipe.pipeline.rounds import run_rounds
from stpipe.pipeline.run import Assembled, Frame, Run, guarded
from stpipe.pipeline.run_dir import Claim, RunDirectory, claim, start_fresh
from stpipe.pipeline.stage_table import LATER, check_stage, left
from stpipe.pipeline.stages import run_stages
from stpipe.pipeline.status import NoStatus, Status
from stpipe.pipeline.together import Together
from stpipe.pipeline.tracking import tracked
from stpipe.reports.report import write_report


def run_train(
    loaded: Loaded, *, stage: str | None = None, peers: Peers | None = None, at_start: Callable[[Path], None] | None = None
) -> int:
    """Run all stages of a training run, or of each of its parts under iterated mining; returns the exit code of the contract.

    Args:
        loaded: the decoded configuration.
        stage: run this one alone.
        peers: the processes of the run; None: this one alone.
        at_start: called with the run directory once it is there.

    Raises:
        PreemptedError: a signal asked the run to leave.
    """
    together = Together(peers or Peers(), at_start)
    with signals_of(loaded.values["trainer"], together.peers) as signals:
        try:
            if loaded.values["mine"] is not None and loaded.values["mine"]["rounds"] > 1:
                once = partial(train_once, together=together, signals=signals)
                return run_rounds(loaded, once, stage=stage, processes=together.peers.size)
            return train_once(loaded, loaded.values, stage, together=together, signals=signals)
        except Preempted as request:
            raise PreemptedError(f"asked to leave ({request}) before anything was begun; the same command begins again") from None


def signals_of(trainer: Mapping[str, Any], peers: Peers) -> Signals:
    """The requests that a run hears; rank 0 decides where they end something at once."""
    settings = TrainerSection()
    return Signals(
        trainer.get("preempt_signals", settings.preempt_signals),
        grace=trainer.get("grace_period", settings.grace_period),
        raises=peers.is_main,
    )


def end_by_force(status: Status, state: str, code: int) -> int:
    """The last word of a run that is ended whatever it does, unless it has said it; the exit code."""
    if status.data["state"] != "running":
        return int(status.data["exit_code"])
    for stage in status.data["stages"].values():
        if stage["state"] == "running":
            stage["state"] = "stopped"
    status.end(state, code, f"ended by force; the last complete checkpoint is of step {status.data['step']}")
    return code


def train_once(loaded: Loaded, values: Mapping[str, Any], stage: str | None, *, together: Together, signals: Signals) -> int:
    """Run all stages once, those that are left of a run whose model is saved, or one.

    Everything that can be wrong is found before the run directory is touched: errors up to the plan leave nothing behind.

    Args:
        loaded: the decoded configuration, which the run directory holds.
        values: what is trained by: the same, or the last part of it.
        stage: run this one alone.
        together: the processes that do this.
        signals: requests to leave.
    """
    peers = together.peers
    out = console(loaded.values["trainer"]["progress"] if peers.is_main else "off")
    directory = RunDirectory(Path(loaded.values["run"]["dir"]))
    saved_values = redact(loaded)  # as config.yaml holds them, so that secrets are neither stored nor compared
    claimed = Claim(**peers.decided("claim", lambda: asdict(claim(directory, saved_values))))
    if claimed.mode == "finished" and stage is None:
        if peers.is_main:
            show_finished(out, directory)
        return 0
    if stage is not None:
        peers.decided("stage", lambda: check_stage(stage, loaded.values, claimed.status, directory))
        claimed = Claim("resume" if claimed.status is not None else "fresh", claimed.status)
    names = peers.decided("stages", lambda: later_ones(loaded.values, claimed, stage, directory))
    if names:
        return run_later(loaded, values, claimed, names, together=together, signals=signals, out=out)
    return run_whole(loaded, values, claimed, stage, together=together, signals=signals, out=out)


def later_ones(values: Mapping[str, Any], claimed: Claim, stage: str | None, directory: RunDirectory) -> list[str]:
    """The stages after saving that are to be done, where that is all there is to do; else none."""
    if stage is not None:
        return [stage] if stage in LATER else []
    if claimed.mode != "resume" or values["trainer"]["resume"] != "auto":
        return []
    names = left(values, claimed.status, directory)
    return [] if "save" in names else names or ["report"]


def run_later(
    loaded: Loaded, values: Mapping[str, Any], claimed: Claim, names: list[str], *, together: Together, signals: Signals, out: Console
) -> int:
    """Stages of a run whose model is saved; returns the exit code."""
    peers, directory = together.peers, RunDirectory(Path(loaded.values["run"]["dir"]))
    if names == ["report"] and [name for name in left(loaded.values, claimed.status, directory) if name != "report"]:
        if peers.is_main:
            write_report(directory.path)  # of a run that is not done: it stays in the state that it is in
        return 0
    out.print(f"Continuing with: {', '.join(names)}")
    device, parts = own_device(choose_device(loaded.values["trainer"]["device"]), peers), None
    if need_data(names):
        with peers.main_first("mine"):
            mined = with_mined_data(to_root(values), out)
        with peers.main_first("data"):
            parts = assemble(mined.root, out)
    together.started(directory.path)
    status = status_of(directory, claimed, signals, is_main=peers.is_main)
    common: dict[str, Any] = {"loaded": loaded, "directory": directory, "status": status, "claim": claimed, "peers": peers, "out": out}
    with tracked(loaded, directory, status, out, is_main=peers.is_main, signals=signals):
        frame = Frame(**common, signals=signals) if parts is None else Assembled(**common, signals=signals, parts=parts)
        code = guarded(frame, lambda: continue_later(frame, names, device=device))
        if code == 0:
            report_places(out, directory)
    return code


def run_whole(
    loaded: Loaded, values: Mapping[str, Any], claimed: Claim, stage: str | None, *, together: Together, signals: Signals, out: Console
) -> int:
    """Prepare, train, and what follows; returns the exit code."""
    peers, directory, saved_values = together.peers, RunDirectory(Path(loaded.values["run"]["dir"])), redact(loaded)
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
    processes, num_steps = runtime.world_size, length.num_steps
    checkpoint = together.checkpoint(
        lambda: find_checkpoint(directory, saved_values, parts, processes=processes, num_steps=num_steps, notify=out.print)
    )
    parts = with_strategies(parts, stream, runtime, checkpoint)
    warnings = [*loaded.warnings, *parts.data.scan.warnings]
    if peers.is_main:
        check_access(root.publish, warnings.append)
    plan = make_plan(parts, stream, length, world_size=runtime.world_size, device=device, warnings=tuple(warnings))
    out.print(plan_table(plan))
    with peers.main_first("directory"):
        if peers.is_main and claimed.mode == "fresh":
            start_fresh(directory, overwrite=root.run.overwrite)
    together.started(directory.path)
    if peers.is_main:
        mined.write_report(directory.mining, title=str(loaded.values["run"]["name"]))
    status = status_of(directory, claimed, signals, is_main=peers.is_main)
    with tracked(loaded, directory, status, out, is_main=peers.is_main, signals=signals) as followers:
        run = Run(
            loaded=loaded,
            parts=parts,
            directory=directory,
            status=status,
            claim=claimed,
            peers=peers,
            checkpoint=checkpoint,
            runtime=runtime,
            out=out,
            signals=signals,
            followers=followers,
        )
        code = guarded(run, lambda: run_stages(run, stream, length, plan, only=stage))
        if code == 0:
            report_places(out, directory)
            runtime.close()
    return code


def status_of(directory: RunDirectory, claimed: Claim, signals: Signals, *, is_main: bool) -> Status:
    """The status of a run that starts or goes on; from now on it is what a forced end writes."""
    command = shlex.join(["stpipe", *redact_command(sys.argv[1:])])
    status = (Status if is_main else NoStatus)(directory.status, command=command, previous=claimed.status)
    signals.at_end = partial(end_by_force, status)
    return status


def show_finished(out: Console, directory: RunDirectory) -> None:
    """Say that there is nothing to do, and make up for what is missing."""
    out.print(f"{directory.path} already holds this run, finished.")
    if not (directory.path / "report.html").exists():
        write_report(directory.path)  # killed between the end of the run and its report
    report_places(out, directory)


def report_places(out: Console, directory: RunDirectory) -> None:
    """Say where the results lie."""
    out.print(f"Model   {directory.model}\nCard    {directory.model / 'README.md'}\nReport  {directory.path / 'report.html'}")
