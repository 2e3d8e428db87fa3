"""Publishing a model to a Hub: only when asked, in one commit, with a token from the environment."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, PartialError, Problem
from stpipe.config.redact import scrub
from stpipe.config.sections import PublishSection
from stpipe.engine.callbacks import Callback
from stpipe.engine.loop import Trainer
from stpipe.pipeline.run_dir import RunDirectory
from stpipe.pipeline.status import amend_status
from stpipe.reports.report import write_report

EXPORTS = "exports"
REJECTED = "rejected"
#: Folder with models of checkpoints that are on their way.
ASIDE = ".publishing"
#: Seconds that the end of training waits for the upload of a checkpoint; what comes after it publishes the model anyway.
PATIENCE = 60.0


def check_access(publish: PublishSection | None, warn: Callable[[str], None], *, ask: bool = True) -> None:
    """Before training: is there a token, and does the Hub know it? A Hub that cannot be reached now is only a warning.

    ask: False looks at the environment alone.

    Raises:
        ConfigError: without a token, or with one that the Hub refuses, publishing must fail.
    """
    if publish is None:
        return
    from huggingface_hub import HfApi, get_token, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    if is_offline_mode():
        what = "publishing needs a Hub, but the environment (HF_HUB_OFFLINE) forbids to ask one. Unset it, or leave `publish` out (publish=null)"
        raise ConfigError(Problem("publish", what))
    if get_token() is None:
        what = f"publishing to {publish.repo_id} needs a token. Set HF_TOKEN in the environment, or log in with: hf auth login"
        raise ConfigError(Problem("publish", what))
    if not ask:
        return
    try:
        api.whoami()
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            what = f"{api.endpoint} does not know the token of the environment (HF_TOKEN). Make one that may write at {api.endpoint}/settings/tokens"
            raise ConfigError(Problem("publish", what)) from error
        warn(cannot_reach(api.endpoint, error))
    except Exception as error:
        warn(cannot_reach(api.endpoint, error))


def cannot_reach(endpoint: str, error: Exception) -> str:
    return f"publish: {endpoint} cannot be reached now ({scrub(f'{type(error).__name__}: {error}').splitlines()[0]}); it is tried when the model is ready"


def publish_run(directory: RunDirectory, publish: PublishSection, *, name: str) -> str:
    """Publish the saved model, with its card, and where asked its exports, as one commit. Returns its address.

    Raises:
        PartialError: what the Hub, or the way to it, said.
    """
    files = files_below(directory.model)
    if publish.exports:
        found = files_below(directory.path / EXPORTS).items()
        files |= {f"{EXPORTS}/{inner}": path for inner, path in found if Path(inner).parts[0] != REJECTED}
    try:
        return upload(publish, files, message=publish.message or f"{name}, trained with stpipe")
    except Exception as error:
        what = f"the model is not published to {publish.repo_id}: {scrub(f'{type(error).__name__}: {error}')}"
        raise PartialError(what, remedy=f"stpipe publish {directory.path}") from error


def files_below(folder: Path) -> dict[str, Path]:
    """Name -> file, for all files that are not hidden."""
    found = {p.relative_to(folder): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {inner.as_posix(): path for inner, path in found.items() if not any(part.startswith(".") for part in inner.parts)}


def upload(publish: PublishSection, files: dict[str, Path], *, message: str) -> str:
    """One commit with some files; repository and branch are made where there are none. Files that are there already are not touched."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they would be drawn over that of training
    if not files:
        raise FileNotFoundError("there is no file to publish")
    api = HfApi()
    repo_id = api.create_repo(publish.repo_id, private=publish.private, exist_ok=True).repo_id
    if publish.revision is not None:
        api.create_branch(repo_id, branch=publish.revision, exist_ok=True)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    return str(api.create_commit(repo_id, operations, commit_message=message, revision=publish.revision).commit_url)


def publish_finished(folder: Path, publish: PublishSection, *, name: str) -> str:
    """Publish the model of a run that is over, and note it in its status. Returns the address.

    Raises:
        ConfigError: there is no saved model, or no token that the Hub knows.
        PartialError: the Hub cannot be reached, or does not take it.
    """
    directory = RunDirectory(folder)
    if not directory.model.is_dir():
        raise ConfigError(Problem("RUN", f"{folder} has no model/: the run did not get as far as saving its weights"))
    check_access(publish, lambda text: None)
    address = publish_run(directory, publish, name=name)
    note_published(directory, address)
    return address


def note_published(directory: RunDirectory, address: str) -> None:
    """Write into status.json that the stage has succeeded after all; a run that lacked only that is finished then, and its report says so."""

    def change(status: dict[str, Any]) -> None:
        status["stages"]["publish"] = {"state": "finished", "seconds": 0.0}
        status["published"] = address
        if status["state"] == "partial" and all(stage["state"] == "finished" for stage in status["stages"].values()):
            status.update(state="finished", exit_code=0, error=None)

    amend_status(directory.status, change)
    if (directory.path / "report.html").exists():
        write_report(directory.path)


class PublishCheckpoints(Callback):
    """At each checkpoint the model as it is then, uploaded in the background. A failure or a slow Hub costs the run nothing but a warning.

    All processes have it, because weights may have to be gathered; the first one writes and uploads. A checkpoint that comes
    while the one before it is still on its way takes the place of any other that waits.

    Args:
        publish: where to.
        folder: run directory, below which the model is written.
        name: of the run.
        warn: takes what went wrong, in the thread of training.
    """

    def __init__(self, publish: PublishSection, folder: Path, *, name: str, warn: Callable[[str], None]) -> None:
        self.publish, self.folder, self.name, self.warn = publish, folder / ASIDE, name, warn
        self._waiting: queue.Queue[tuple[Path, int] | None] = queue.Queue(maxsize=1)
        self._failures: queue.Queue[str] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._told = False

    def on_train_start(self, trainer: Trainer) -> None:
        if trainer.runtime.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)

    def on_checkpoint(self, trainer: Trainer) -> None:
        place, step = self.folder / f"step-{trainer.state.step:08d}", trainer.state.step
        with weights_as_saved(trainer):
            written = trainer.runtime.is_main and self._write(trainer, place)
        if not written:
            return
        if self._thread is None:  # not earlier: the workers that load data are forked before the first checkpoint
            self._thread = threading.Thread(target=self._upload_all, daemon=True)
            self._thread.start()
        while True:
            try:
                self._waiting.put_nowait((place, step))
                break
            except queue.Full:
                self._drop_waiting()

    def on_log(self, trainer: Trainer, values: Any) -> None:
        self._tell()

    def on_train_end(self, trainer: Trainer) -> None:
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)
        except queue.Full:
            pass
        self._tell()
        if not self._thread.is_alive():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, trainer: Trainer, place: Path) -> bool:
        """Save the model aside; whether there was room for it."""
        try:
            place.mkdir(parents=True, exist_ok=True)
            trainer.model.save_pretrained(place)  # type: ignore[operator]  # an inference class
            return True
        except OSError as error:
            self._failures.put(f"step {trainer.state.step} is not written: {error}")
            shutil.rmtree(place, ignore_errors=True)
            return False

    def _drop_waiting(self) -> None:
        try:
            dropped = self._waiting.get_nowait()
        except queue.Empty:
            return
        if dropped is not None:
            shutil.rmtree(dropped[0], ignore_errors=True)

    def _upload_all(self) -> None:
        while (found := self._waiting.get()) is not None:
            place, step = found
            try:
                upload(self.publish, files_below(place), message=f"{self.name}, step {step}")
            except Exception as error:
                self._failures.put(f"step {step} is not published: {scrub(f'{type(error).__name__}: {error}').splitlines()[0]}")
            shutil.rmtree(place, ignore_errors=True)

    def _tell(self) -> None:
        while not self._failures.empty():
            text = self._failures.get()
            if not self._told:
                self._told = True
                self.warn(f"publish.checkpoints: {text}. The run goes on; the model is published in the end")


@contextmanager
def weights_as_saved(trainer: Trainer) -> Iterator[None]:
    """Inside, the model of the first process has the weights that would be saved now: whole, and averaged where they are."""
    with nullcontext() if trainer.average is None else trainer.average.swapped(), trainer.runtime.whole_model():
        yield
