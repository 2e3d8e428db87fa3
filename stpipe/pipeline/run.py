"""One run in progress, and the guard that makes its status tell how it ended."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from stpipe.config.build import construct
from stpipe.config.errors import PartialError, PreemptedError, TrainingError
from stpipe.config.load import Loaded
from stpipe.config.redact import scrub
from stpipe.config.sections import PublishSection, TrainerSection
from stpipe.core.peers import Peers
from stpipe.core.signals import INTERRUPTED, PREEMPTED, Preempted, Signals
from stpipe.engine.backends import Runtime
from stpipe.engine.checkpoint import Checkpoint
from stpipe.evaluation.helping import with_all
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.run_dir import Claim, RunDirectory
from stpipe.pipeline.stage_table import BY_NAME, command, left
from stpipe.pipeline.status import Status
from stpipe.reports.report import write_report
from stpipe.trackers import Followers

T = TypeVar("T")

#: What the system says of a disk that takes no more.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Directory, status and processes of a run: what every stage has."""

    loaded: Loaded
    directory: RunDirectory
    status: Status
    claim: Claim
    peers: Peers
    out: Console
    signals: Signals

    def warn(self, text: str) -> None:
        """Say something that deserves a look, and keep it with the run."""
        text = scrub(text)
        self.status.write(warnings=[*self.status.data["warnings"], text])
        self.out.print(f"[yellow]warning[/] {escape(text)}")

    @property
    def resumed(self) -> bool:
        return self.claim.mode == "resume"

    @property
    def is_main(self) -> bool:
        """Whether this process writes, scores and speaks; the others wait for it."""
        return self.peers.is_main

    def on_main(self, stage: str, work: Callable[[], T]) -> T | None:
        """Do the work of a stage on rank 0, for which all others wait; its result, None on the others."""
        with self.status.stage(stage, **places(stage)), self.peers.main_first(stage):
            return work() if self.is_main else None

    @property
    def publish(self) -> PublishSection:
        """Where to publish; only asked for where the configuration says so."""
        return construct(PublishSection, self.loaded.values["publish"])

    def remedy(self) -> str:
        """The command that does what is left of the run."""
        own = self.loaded.values["backend"].get("num_processes")
        return command(self.directory, processes=self.peers.size if own is None else 1)


@dataclass(frozen=True, kw_only=True)
class Assembled(Frame):
    """The same with model and data."""

    parts: Parts

    @property
    def settings(self) -> TrainerSection:
        return self.parts.root.trainer

    def with_all(self, stage: str, work: Callable[[], T]) -> T | None:
        """As `on_main`, for a stage that uses the model: the others compute for rank 0 what it asks for, instead of waiting."""
        with self.status.stage(stage, **places(stage)):
            return with_all(self.peers, self.parts.model, stage, work)


@dataclass(frozen=True, kw_only=True)
class Run(Assembled):
    """A run that trains, with its backend, where it starts, and its trackers."""

    checkpoint: Checkpoint | None
    runtime: Runtime
    followers: Followers


def places(stage: str) -> dict[str, list[str]]:
    """What a stage reads and writes, as status.json keeps it."""
    found = BY_NAME.get(stage)
    return {} if found is None else {"reads": [*found.reads, *found.uses], "writes": list(found.writes)}


def guarded(run: Frame, stages: Callable[[], None]) -> int:
    """Run stages, leave a status that tells the truth about how they ended, and a report that shows it.

    Returns the exit code. After single stages the run is `partial` as long as others are left, which is no failure.

    Raises:
        PartialError: a stage after the weights were saved failed.
        PreemptedError: the run was asked to leave.
        Exception: whatever made training fail, after the status says so.
    """
    if not run.is_main:
        stages()
        return 0
    status = run.status
    status.reserve()
    run.peers.at_abort(lambda failure: status.end(state_of(failure.exit_code), failure.exit_code, str(failure)))
    with run.signals.noted():  # from here on only inside the stages a request ends anything
        try:
            with run.signals.at_once():
                with_cause(run, stages)
        except KeyboardInterrupt:
            status.end("interrupted", INTERRUPTED, "interrupted by the user")
            report_or_say(run)
            run.out.print(f"Interrupted at step {status.data['step']}. Continue with trainer.resume=auto.")
            return INTERRUPTED
        except Preempted as request:
            raise preempted(run, str(request)) from None
        except Exception as error:
            told = concluded(run, disk_named(error))
            if told is error:
                raise
            raise told from error
        return finished(run)


def state_of(exit_code: int) -> str:
    """State of a run that another process ended with this code."""
    return {PREEMPTED: "preempted", INTERRUPTED: "interrupted"}.get(exit_code, "failed")


def preempted(run: Frame, request: str) -> PreemptedError:
    """Write how the run was asked to leave; the error that says so."""
    at = next((name for name, stage in run.status.data["stages"].items() if stage["state"] in ("running", "stopped")), None)
    where = f"step {run.status.data['step']} of {run.status.data['num_steps']}" + (f", in stage '{at}'" if at else "")
    run.status.end("preempted", PREEMPTED, f"asked to leave: {request}")
    report_or_say(run)
    return PreemptedError(f"asked to leave ({request}) at {where}. The run goes on with: {run.remedy()}")


def concluded(run: Frame, error: Exception) -> Exception:
    """Write how the run failed; the error that the command ends with."""
    status = run.status
    code = getattr(error, "exit_code", 1)
    if code == PREEMPTED:
        return preempted(run, str(error))
    failed = next((name for name, stage in status.data["stages"].items() if stage["state"] == "failed"), "start")
    text = f"{failed}: {type(error).__name__}: {error}"
    saved = status.data["stages"].get("save", {}).get("state") == "finished"
    status.end("partial" if saved else state_of(code), PartialError.exit_code if saved else code, text)
    report_or_say(run)
    if not saved:
        return error
    own = error.remedy if isinstance(error, PartialError) else None
    return PartialError(
        f"the model is saved in {run.directory.model}, but stage '{failed}' failed: {error}\nFinish the run with {own or run.remedy()}"
    )


def disk_named(error: Exception) -> Exception:
    """A disk that takes no more is no defect of the program."""
    if not isinstance(error, OSError) or error.errno not in DISK:
        return error
    where = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
    return TrainingError(f"{where}: {error.strerror}. Make room, then go on with trainer.resume=auto; what was complete before is intact")


def finished(run: Frame) -> int:
    """Write that the stages are done, and the report; the exit code."""
    status = run.status
    todo = [name for name in left(run.loaded.values, status.data, run.directory) if name != "report"]
    if todo:
        status.end("partial", 0, f"left to do: {', '.join(todo)}. Go on with: {run.remedy()}")
        report_or_say(run)
        run.out.print(f"Left to do: {', '.join(todo)}. Go on with: {run.remedy()}", soft_wrap=True)
        return 0
    status.end("finished", 0)
    # The report comes last, because it shows how the run ended; when it fails, the run did not end well after all.
    try:
        with status.stage("report", **places("report")):
            write_report(run.directory.path)
    except Exception as error:
        status.end("partial", PartialError.exit_code, f"report: {type(error).__name__}: {error}")
        what = (
            f"the model is saved in {run.directory.model}, but its report could not be written: {error}\nFinish the run with {run.remedy()}"
        )
        raise PartialError(what) from error
    return 0


def with_cause(run: Frame, stages: Callable[[], None]) -> None:
    """Run the stages; an error that only follows from the end of another process is raised as that one's."""
    try:
        stages()
    except BaseException as error:
        cause = run.peers.cause(error)
        if cause is error:
            raise
        raise cause from error


def report_or_say(run: Frame) -> None:
    """The report of a run that did not finish; its own failure must not hide why the run ended."""
    try:
        write_report(run.directory.path)
    except Exception as error:
        run.out.print(f"The report could not be written: {type(error).__name__}: {error}")
