"""Weights & Biases, online or into files of the run directory that `wandb sync` uploads later."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stpipe.config.fields import option
from stpipe.config.redact import scrub
from stpipe.config.registry import TRACKERS
from stpipe.trackers.base import KEEPS, Artifacts, Ending, Memory, Session, TrackedRun, Tracker
from stpipe.trackers.records import Record

PROJECT = "stpipe"


@TRACKERS.register("wandb")
@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Weights & Biases. The key comes from the environment (WANDB_API_KEY) or from `wandb login`.

    What WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_RUN_GROUP and WANDB_DIR say holds where the configuration says nothing.
    """

    package: ClassVar[str | None] = "wandb"
    extra: ClassVar[str | None] = "wandb"

    project: str | None = option(None, help="Project; None is $WANDB_PROJECT or `stpipe`.")
    entity: str | None = option(None, help="User or team; None is $WANDB_ENTITY or that of the key.")
    mode: Literal["online", "offline"] | None = option(
        None, help="online, or offline: into files for `wandb sync`; None is offline with offline=true, else $WANDB_MODE or online."
    )
    group: str | None = option(None, help="Group of the run; None is its sweep if there is one, else $WANDB_RUN_GROUP.")
    artifacts: Artifacts = option("records", help=KEEPS)

    @property
    def keeps(self) -> Artifacts:
        return self.artifacts

    def connect(self, run: TrackedRun, memory: Memory) -> Session:
        return WandbSession(self, run, memory)


class WandbSession(Session):
    """A run at Weights & Biases. Its id is chosen here and kept, so that a continued run is the same run there."""

    def __init__(self, tracker: WandbTracker, run: TrackedRun, memory: Memory) -> None:
        place = run.folder.absolute() / "wandb"
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):  # else in the user's home
            os.environ.setdefault(name, str(place / ".cache"))
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.memory = memory
        memory.id = memory.id or memory.uid[:16]
        memory.save()
        mode = tracker.mode or ("offline" if run.offline else None)
        pid = {} if run.owner is None else {"x_stats_pid": run.owner}  # measure the process that trains, not this one
        self.session = wandb.init(
            project=tracker.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=tracker.entity,
            name=run.name,
            id=memory.id,
            resume="allow",
            group=tracker.group or (run.sweep.name if run.sweep is not None else None),
            tags=run.tags or None,
            config=dict(run.config),
            dir=None if "WANDB_DIR" in os.environ else str(run.folder),
            mode=mode,
            # Nothing of the surroundings that could hold a secret: no remote of git, no source, no output.
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True, init_timeout=60, **pid),
        )
        # Steps of their own: W&B's must never fall, which those of a continued run do.
        self.session.define_metric("step")
        self.session.define_metric("*", step_metric="step")
        if self.session.url:
            memory.url = scrub(self.session.url)
        elif self.session.settings.sync_dir:
            memory.url = str(Path(self.session.settings.sync_dir).absolute())
        memory.save()

    def log(self, records: Sequence[Record]) -> None:
        for (step, epoch), some in itertools.groupby(records, key=lambda r: (r.step, r.epoch)):
            self.session.log({"step": step, "epoch": epoch, **{r.key: r.value for r in some}})

    def upload(self, files: Mapping[str, Path], *, model: bool, done: Callable[[str], None]) -> None:
        import wandb

        kind = "model" if model else "run-files"
        artifact = wandb.Artifact(f"{artifact_name(str(self.session.name or self.session.id))}-{kind}", type=kind)
        for name, path in files.items():
            artifact.add_file(str(path), name=name.removeprefix("model/") if model else name, skip_cache=True, policy="immutable")
        self.session.log_artifact(artifact)
        for name in files:
            done(name)

    def finish(self, ending: Ending) -> None:
        self.session.summary.update({"stpipe/state": ending.state, "stpipe/exit_code": ending.exit_code})
        if ending.state == "preempted":
            self.session.mark_preempting()
        self.session.finish(exit_code=0 if ending.good else ending.exit_code or 1)


def artifact_name(name: str) -> str:
    """A name that artifacts may have."""
    return re.sub(r"[^\w.\-]", "-", name)[:100]
