"""The stages of a run as data: what each reads, what it writes, and which of them are left to do.

Places are relative to the run directory. The plan prints this table, status.json keeps it with what became of each stage,
`stpipe train --stage NAME` refuses a stage whose inputs are not there, and a continued run does what is left.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stpipe.config.errors import ConfigError, Problem
from stpipe.engine.checkpoint import list_checkpoints
from stpipe.pipeline.run_dir import RunDirectory

FINISHED = "finished"


@dataclass(frozen=True)
class Stage:
    """One stage.

    reads: must be there; uses: read where it is there; writes: complete under these names when the stage is finished; after: stages
    that must be finished; section: of the configuration that asks for it, None where every run has it; needs_data: whether data and
    model are loaded for it.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    uses: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    section: str | None = None
    needs_data: bool = False

    def wanted(self, values: Mapping[str, Any]) -> bool:
        """Whether a configuration asks for it."""
        return self.section is None or bool(values[self.section])

    def as_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {"name": self.name, "reads": [*self.reads, *self.uses], "writes": list(self.writes)}

    def missing(self, directory: RunDirectory) -> list[str]:
        """Inputs that are not there."""
        return [place for place in self.reads if not (directory.path / place).exists()]

    def left_its_outputs(self, directory: RunDirectory) -> bool:
        """Whether everything that it writes is there."""
        return all((directory.path / place).exists() for place in self.writes)


#: In their order. The report comes last, because it shows how the run ended.
STAGES = (
    Stage("train", (), ("checkpoints", "metrics.jsonl"), uses=("checkpoints",), needs_data=True),
    Stage("save", ("checkpoints",), ("model",), after=("train",), needs_data=True),
    Stage("evaluate", ("model",), ("evaluation", "metrics.jsonl"), after=("save",), section="evaluator", needs_data=True),
    Stage("export", ("model",), ("exports",), after=("save",), section="export", needs_data=True),
    Stage("card", ("model", "config.yaml"), ("model/README.md",), uses=("card.json", "evaluation", "exports"), after=("save",)),
    Stage("publish", ("model",), (), uses=("model/README.md", "exports"), after=("save",), section="publish"),
    Stage("report", ("config.yaml", "status.json"), ("report.html", "report.json"), uses=("metrics.jsonl", "evaluation", "exports")),
)
BY_NAME: Mapping[str, Stage] = {stage.name: stage for stage in STAGES}
#: Stages that need no trained state of the loop, so that they can be done when the model is saved.
LATER = tuple(stage.name for stage in STAGES if stage.name not in ("train", "save"))


def wanted(values: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of a configuration, in order."""
    return tuple(stage for stage in STAGES if stage.wanted(values))


def left(values: Mapping[str, Any], status: Mapping[str, Any] | None, directory: RunDirectory) -> list[str]:
    """Names of the stages that are not finished, or whose outputs are gone. A model that is saved needs its checkpoints no more."""
    known = {} if status is None else status["stages"]
    found = [s.name for s in wanted(values) if known.get(s.name, {}).get("state") != FINISHED or not s.left_its_outputs(directory)]
    return found if "save" in found else [name for name in found if name != "train"]


def check_stage(name: str, values: Mapping[str, Any], status: Mapping[str, Any] | None, directory: RunDirectory) -> None:
    """Refuse to run one stage when it is not of this run, or something that it reads is not there.

    Raises:
        ConfigError: with the reason, and the command that comes first.
    """
    stage = BY_NAME[name]
    if not stage.wanted(values):
        raise ConfigError(Problem("--stage", f"the configuration has no stage '{name}': its section `{stage.section}` is empty"))
    known = {} if status is None else status["stages"]
    for earlier in stage.after:
        if known.get(earlier, {}).get("state") != FINISHED:
            found = (
                ""
                if status is None
                else f" ({known.get(earlier, {}).get('state', 'not begun')}, step {status['step']} of {status['num_steps']})"
            )
            what = f"'{name}' comes after '{earlier}', which has not finished in {directory.path}{found}. First run: {command(directory, earlier)}"
            raise ConfigError(Problem("--stage", what))
    missing = stage.missing(directory)
    if name == "save" and not list_checkpoints(directory.checkpoints):
        missing = missing or ["checkpoints/step-..."]
    if missing:
        first = next((s for s in STAGES for place in missing if place in s.writes), None)
        how = f" First run: {command(directory, first.name)}" if first is not None else ""
        raise ConfigError(Problem("--stage", f"'{name}' reads {', '.join(missing)} of {directory.path}, which is not there.{how}"))


def command(directory: RunDirectory, stage: str | None = None, *, processes: int = 1) -> str:
    """The command that does one stage of a run, or all that are left.

    processes: to start where no launcher starts them.
    """
    words = ["stpipe", "train", "--from", str(directory.path)]
    words += ["trainer.resume=auto"] if stage is None else ["--stage", stage]
    words += [f"backend.num_processes={processes}"] if processes > 1 else []
    return shlex.join(words)
