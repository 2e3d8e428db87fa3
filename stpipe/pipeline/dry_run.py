"""`stpipe train --dry-run`: everything that a run would check and do, in numbers, without touching a file or a network.

It goes the way of the run itself up to the plan: the same configuration, data checks, model and strategies, so that what it accepts is
not refused later. What a run would make on the way (tokens in the cache, mined data, labels of teachers) is made in a temporary folder
or replaced by stand-ins (pipeline/stand_ins.py). What is not on this machine cannot be looked at, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from stpipe.cards.content import check_user_template
from stpipe.config.errors import UnreachableError
from stpipe.config.load import Loaded, redact, to_root
from stpipe.config.offline import SWITCHES
from stpipe.config.sections import MineSection, RootConfig
from stpipe.config.variables import variables
from stpipe.data.cache import cache_root
from stpipe.engine.backends import choose_device
from stpipe.engine.length import RunLength
from stpipe.engine.strategies import in_words
from stpipe.pipeline.assemble import Asked, Parts, assemble
from stpipe.pipeline.cache_view import cache_view, is_hit
from stpipe.pipeline.computing import with_strategies
from stpipe.pipeline.estimate import Estimate, estimate
from stpipe.pipeline.mined_data import MinedData, with_mined_data
from stpipe.pipeline.plan import make_plan, plan_table
from stpipe.pipeline.publish import check_access
from stpipe.pipeline.resume import find_checkpoint
from stpipe.pipeline.rounds import check_settings, round_values
from stpipe.pipeline.run_dir import Claim, RunDirectory, check_looks_writable, claim
from stpipe.pipeline.stage_table import check_stage, left, wanted
from stpipe.pipeline.stand_ins import FrozenStandIn, MinerStandIn, PackagedStandIn

#: Columns where the output is no terminal.
WIDTH = 200


@dataclass(frozen=True)
class PlannedRuntime:
    """What the choice of a strategy asks of a backend, of one that is not started."""

    device: torch.device
    world_size: int

    def maximum(self, value: Tensor) -> Tensor:
        return value


@dataclass
class Notes:
    """What the plan of a dry run says beyond that of a run: lines (title, text)."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def add(self, title: str, text: str) -> None:
        self.lines.append((title, text))


def run_dry(loaded: Loaded, *, stage: str | None = None, processes: int = 1) -> int:
    """Print the plan of a run; returns the exit code.

    Args:
        loaded: the decoded configuration.
        stage: the one that would be run alone.
        processes: that the run would have.

    Raises:
        StpipeError: what the run would be refused with.
    """
    directory, notes, values = RunDirectory(Path(loaded.values["run"]["dir"])), Notes(), loaded.values
    claimed = claim(directory, redact(loaded), touch=False)
    out = screen()
    out.print(escape(f"Dry run of {values['run']['name']}"))
    if stage is not None:
        check_stage(stage, values, claimed.status, directory)
    elif claimed.mode == "finished":
        out.print(f"{directory.path} already holds this run, finished: nothing would be done.")
        return 0
    notes.add("directory", f"{directory.path} ({ {'fresh': 'new', 'resume': 'continued', 'finished': 'as it is'}[claimed.mode] })")
    notes.add("processes", "this one" if processes == 1 else f"{processes}, backend {values['backend']['name']}")
    if values["mine"] is not None and values["mine"]["rounds"] > 1:
        check_settings(values)
        notes.add("rounds", f"{values['mine']['rounds']} parts, each mined anew; this is the plan of the first")
        loaded = replace(loaded, values=round_values(values, 1, None))
    add_stages(notes, values, claimed, directory, stage)
    with variables(dict.fromkeys(SWITCHES, "1")):
        planned = plan_of(loaded, directory, claimed, notes, processes=processes)
    if planned is not None:
        out.print(planned)
    for title, text in notes.lines:
        out.print(escape(f"{title:<28} {text}"))
    out.print("Dry run: nothing was written, and no network was asked.")
    return 0


def add_stages(notes: Notes, values: Mapping[str, Any], claimed: Claim, directory: RunDirectory, only: str | None) -> None:
    """A line for each stage: what it reads and writes, and whether it is done."""
    todo = [only] if only is not None else left(values, claimed.status if claimed.mode == "resume" else None, directory)
    for stage in wanted(values):
        places = (
            f"reads {', '.join((*stage.reads, *stage.uses)) or 'data and start weights'}; writes {', '.join(stage.writes) or 'to the Hub'}"
        )
        notes.add(f"stage {stage.name}", places if stage.name in todo else f"done; {places}" if only is None else f"not now; {places}")


def plan_of(loaded: Loaded, directory: RunDirectory, claimed: Claim, notes: Notes, *, processes: int) -> Table | None:
    """The plan as the run would print it, and further lines; None where something that it needs is not on this machine."""
    asked = to_root(loaded.values)
    device = choose_device(asked.trainer.device)
    asked.backend.check(device=device, precision=asked.trainer.precision, processes=processes)
    check_looks_writable(cache_root(asked.dataset.cache_dir), key="dataset.cache_dir")
    if asked.card.template is not None:
        check_user_template(Path(asked.card.template).expanduser())
    check_access(asked.publish, lambda text: None, ask=False)
    quiet = Console(quiet=True)
    with cache_view(replace(asked, offline=True)) as root:
        try:
            mined, miners = mined_or_drawn(root, quiet)
            parts = assemble(mined.root, quiet, Asked(FrozenStandIn, PackagedStandIn))
        except UnreachableError as error:
            if asked.offline:
                raise
            notes.add("not here", f"{error.asset}: the run would download it; what depends on it is not checked")
            return None
        parts_here(parts, mined, miners, notes)
        stream = parts.stream(rank=0, world_size=processes)
        length = RunLength.of(root.trainer, len(stream))
        checkpoint = find_checkpoint(
            directory,
            redact(loaded),
            parts,
            processes=processes,
            num_steps=length.num_steps,
            notify=lambda text: notes.add("checkpoint", text),
        )
        if claimed.mode == "resume" and checkpoint is not None:
            notes.add("checkpoint", f"step {checkpoint.step} in {checkpoint.path}")
        runtime: Any = PlannedRuntime(torch.device(device), processes)
        parts = with_strategies(parts, stream, runtime, checkpoint)
        warnings = (*loaded.warnings, *parts.data.scan.warnings)
        plan = make_plan(parts, stream, length, world_size=processes, device=device, warnings=warnings)
        add_estimate(notes, estimate(parts, stream, plan, device=device), plan, device)
        return plan_table(plan)


def mined_or_drawn(root: RootConfig, out: Console) -> tuple[MinedData, list[MinerStandIn]]:
    """The data after mining, as far as it was mined before; the miners that were made."""
    miners: list[MinerStandIn] = []

    def make(root: RootConfig, mine: MineSection, out: Console) -> MinerStandIn:
        miners.append(MinerStandIn(root, mine, out))
        return miners[-1]

    return with_mined_data(root, out, make_miner=make), miners


def parts_here(parts: Parts, mined: MinedData, miners: list[MinerStandIn], notes: Notes) -> None:
    """What the caches have, and what would be computed for them."""
    for name, splits in mined.parts.items():
        for split, part in splits.items():
            notes.add(f"mined '{name}' {split}", "in the cache" if is_hit(part.folder) else "would be mined; random negatives stand in")
    standing_in = {name for name in parts.data.train if parts.source(name).teacher is not None} | (
        {name for name, found in mined.parts.items() if any(not is_hit(part.folder) for part in found.values())}
    )
    for split, found in (("train", parts.data.train), ("held out", parts.data.eval)):
        for name, source in found.items():
            hit = "in the cache" if is_hit(source.folder) else "would be tokenised (`stpipe prepare` does it beforehand)"
            notes.add(f"tokens '{name}' {split}", "known when mining and teachers are done" if name in standing_in else hit)
    for name in parts.data.train:
        teacher = parts.source(name).teacher
        if teacher is not None:
            notes.add(
                f"labels '{name}'", f"would be asked of {teacher.model}, as far as they are not kept; its answer to one text stands in"
            )


def add_estimate(notes: Notes, found: Estimate, plan: Mapping[str, Any], device: str) -> None:
    """Memory and time."""
    listed = ", ".join(f"{name} {in_words(value)}" for name, value in found.bytes.items())
    notes.add("memory", f"about {in_words(found.total_bytes)} of each process: {listed}")
    evaluation = f", evaluations about {duration(found.evaluation_seconds)}" if found.evaluation_seconds else ""
    notes.add("time", f"training about {duration(found.train_seconds)} on this machine's {device}{evaluation}; {plan['steps']:,} steps")


def duration(seconds: float) -> str:
    """Seconds in words, as exact as an estimate is."""
    for size, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else "a moment"


def screen() -> Console:
    """Standard output: what a dry run says is its result. Wide where there is no terminal, so that lines can be searched."""
    wide = Console(highlight=False, soft_wrap=True)
    return wide if wide.is_terminal else Console(highlight=False, soft_wrap=True, width=WIDTH)
