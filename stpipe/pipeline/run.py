"""One run in progress, and the guard that makes its status tell how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from stpipe.config.errors import PartialError
from stpipe.config.load import Loaded
from stpipe.config.sections import TrainerSection
from stpipe.engine.backend import Runtime
from stpipe.engine.checkpoint import Checkpoint
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.run_dir import Claim, RunDirectory
from stpipe.pipeline.status import Status


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

    @property
    def settings(self) -> TrainerSection:
        return self.parts.root.trainer

    @property
    def resumed(self) -> bool:
        return self.claim.mode == "resume"


def guarded(run: Run, stages: Callable[[Run], None]) -> int:
    """Run the stages and leave a status that tells the truth about how they ended; returns the exit code.

    Raises:
        PartialError: a stage after the weights were saved failed.
        Exception: whatever made training fail, after the status says so.
    """
    status = run.status
    try:
        stages(run)
    except KeyboardInterrupt:
        status.end("interrupted", 130, "interrupted by the user")
        run.out.print(f"Interrupted at step {status.data['step']}. Continue with trainer.resume=auto.")
        return 130
    except Exception as error:
        failed = next((name for name, stage in status.data["stages"].items() if stage["state"] == "failed"), "start")
        text = f"{failed}: {type(error).__name__}: {error}"
        if status.data["stages"].get("save", {}).get("state") != "finished":
            status.end("failed", getattr(error, "exit_code", 1), text)
            raise
        status.end("partial", PartialError.exit_code, text)
        raise PartialError(
            f"the model is saved in {run.directory.model}, but stage '{failed}' failed: {error}\n"
            "Finish the run with the same command and trainer.resume=auto."
        ) from error
    status.end("finished", 0)
    return 0
