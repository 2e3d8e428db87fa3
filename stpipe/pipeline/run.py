"""One run in progress, and the guard that makes its status tell how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from stpipe.config.errors import PartialError
from stpipe.config.load import Loaded
from stpipe.config.sections import TrainerSection
from stpipe.engine.backends import Runtime
from stpipe.engine.checkpoint import Checkpoint
from stpipe.evaluation.helping import with_all
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.run_dir import Claim, RunDirectory
from stpipe.pipeline.status import Status
from stpipe.reports.report import write_report
from stpipe.trackers import Followers

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Parts, directory, status and backend of a run that has started."""

    loaded: Loaded
    parts: Parts
    directory: RunDirectory
    status: Status
    claim: Claim
    checkpoint: Checkpoint | None
    runtime: Runtime
    out: Console
    followers: Followers

    @property
    def settings(self) -> TrainerSection:
        return self.parts.root.trainer

    def warn(self, text: str) -> None:
        """Say something that deserves a look, and keep it with the run."""
        self.status.write(warnings=[*self.status.data["warnings"], text])
        self.out.print(f"[yellow]warning[/] {escape(text)}")

    @property
    def resumed(self) -> bool:
        return self.claim.mode == "resume"

    @property
    def is_main(self) -> bool:
        """Whether this process writes, scores and speaks; the others wait for it."""
        return self.runtime.is_main

    def on_main(self, stage: str, work: Callable[[], T]) -> T | None:
        """Do the work of a stage on rank 0, for which all others wait; its result, None on the others."""
        with self.status.stage(stage), self.runtime.peers.main_first(stage):
            return work() if self.is_main else None

    def with_all(self, stage: str, work: Callable[[], T]) -> T | None:
        """The same for a stage that uses the model: the others compute for rank 0 what it asks for, instead of waiting."""
        with self.status.stage(stage):
            return with_all(self.runtime.peers, self.parts.model, stage, work)


def guarded(run: Run, stages: Callable[[Run], None]) -> int:
    """Run the stages, leave a status that tells the truth about how they ended, and a report that shows it.

    Returns the exit code.

    Raises:
        PartialError: a stage after the weights were saved failed.
        Exception: whatever made training fail, after the status says so.
    """
    status = run.status
    if not run.is_main:
        stages(run)
        return 0
    run.runtime.peers.at_abort(lambda failure: status.end("failed", failure.exit_code, str(failure)))
    try:
        with_cause(run, stages)
    except KeyboardInterrupt:
        status.end("interrupted", 130, "interrupted by the user")
        report_or_say(run)
        run.out.print(f"Interrupted at step {status.data['step']}. Continue with trainer.resume=auto.")
        return 130
    except Exception as error:
        failed = next((name for name, stage in status.data["stages"].items() if stage["state"] == "failed"), "start")
        text = f"{failed}: {type(error).__name__}: {error}"
        saved = status.data["stages"].get("save", {}).get("state") == "finished"
        status.end("partial" if saved else "failed", PartialError.exit_code if saved else getattr(error, "exit_code", 1), text)
        report_or_say(run)
        if not saved:
            raise
        own = error.remedy if isinstance(error, PartialError) else None
        raise PartialError(
            f"the model is saved in {run.directory.model}, but stage '{failed}' failed: {error}\n"
            f"Finish the run with {own or 'the same command and trainer.resume=auto'}."
        ) from error
    status.end("finished", 0)
    # The report comes last, because it shows how the run ended; when it fails, the run did not end well after all.
    try:
        write_report(run.directory.path)
    except Exception as error:
        status.end("partial", PartialError.exit_code, f"report: {type(error).__name__}: {error}")
        raise PartialError(f"the model is saved in {run.directory.model}, but its report could not be written: {error}") from error
    return 0


def with_cause(run: Run, stages: Callable[[Run], None]) -> None:
    """Run the stages; an error that only follows from the end of another process is raised as that one's."""
    try:
        stages(run)
    except BaseException as error:
        cause = run.runtime.peers.cause(error)
        if cause is error:
            raise
        raise cause from error


def report_or_say(run: Run) -> None:
    """The report of a run that did not finish; its own failure must not hide why the run ended."""
    try:
        write_report(run.directory.path)
    except Exception as error:
        run.out.print(f"The report could not be written: {type(error).__name__}: {error}")
