"""What every tracker is: a configuration that makes a connection, and what it remembers about a run."""

from __future__ import annotations

import json
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from stpipe.config.fields import option
from stpipe.config.file_names import file_name
from stpipe.config.sweep import Sweep
from stpipe.trackers.records import Record

#: Folder inside the run directory with what the trackers remember.
FOLDER = "trackers"
#: Files of the run directory that are kept with a run, by pattern: what holds numbers and settings, and what may show texts of the data.
RECORDS = ("config.yaml", "recipe.json", "environment.json", "plan.json", "status.json", "metrics.jsonl", "evaluation/**/metrics.json")
REPORTS = ("data.json", "report.html", "report.json", "evaluation/**/*")
MODEL = "model"

Artifacts = Literal["none", "records", "reports", "model"]
KEEPS = "Files kept with the run: none; its records (settings, versions, numbers); also its reports, which may show texts of the data; or also the model."


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it.

    config: as config.yaml holds it, without secrets; offline: whether the run asks no hub; sweep: that it is a job of;
    owner: process that computes it, None when it is over.
    """

    folder: Path
    config: Mapping[str, Any]
    offline: bool = False
    sweep: Sweep | None = None
    owner: int | None = None

    @property
    def name(self) -> str:
        return str(self.config["run"]["name"])

    @property
    def tags(self) -> list[str]:
        return [str(tag) for tag in self.config["run"]["tags"]]

    def parameters(self) -> dict[str, Any]:
        """Key path -> value of every leaf of the configuration; lists and empty mappings are leaves."""
        return dict(_leaves(self.config))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class Ending:
    """How a run ended, as its status.json says; `killed` when that still says running and nobody is."""

    state: str
    exit_code: int | None = None
    error: str | None = None

    @property
    def good(self) -> bool:
        return self.state == "finished"

    @property
    def stopped(self) -> bool:
        """Whether somebody or something stopped it, rather than an error."""
        return self.state in ("interrupted", "preempted", "killed")

    @staticmethod
    def of(folder: Path) -> Ending:
        """The ending of a run whose process is gone."""
        try:
            found = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Ending("killed")
        if found["state"] == "running":
            return Ending("killed")
        return Ending(found["state"], found["exit_code"], found["error"])


def is_running(folder: Path, *, besides: int) -> bool:
    """Whether the process that status.json names works on a run, as far as this machine can tell; `besides` is never meant."""
    try:
        found = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if found["state"] != "running" or found["pid"] == besides:
            return False
        os.kill(found["pid"], 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return True


@dataclass
class Memory:
    """What a tracker knows about a run, kept in trackers/NAME.json so that a continued run and a later `stpipe track` go on with it.

    uid: given before anything is sent, so that what a server made without our hearing of it is found again; id: of the run at
    the tracker; sent: series -> last step; files: name -> (size, modification time) when it was uploaded; notes: what
    else a tracker remembers; state: `running`, `behind` (something could not be sent) or `finished`; ended: how the run ended, as the tracker was told.
    """

    path: Path
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    id: str | None = None
    url: str | None = None
    sweep: dict[str, Any] | None = None
    sent: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    ended: str | None = None
    error: str | None = None

    @staticmethod
    def place(folder: Path, name: str) -> Path:
        """File of a tracker by its name in the configuration."""
        return folder / FOLDER / f"{file_name(name)}.json"

    @staticmethod
    def load(path: Path) -> Memory:
        """What is remembered; a new memory when there is nothing, or only a broken file."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return Memory(path, **found)
        except (OSError, ValueError, TypeError):
            return Memory(path)

    def behind(self, error: str) -> None:
        """Save that something could not be sent, and why (a text without secrets)."""
        text = " ".join(error.split())
        self.state, self.error = "behind", text if len(text) <= 500 else text[:497] + "..."
        self.save()

    def save(self) -> None:
        """Write it aside and rename; each write also shows that the tracker makes progress."""
        values = asdict(self)
        values.pop("path")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            aside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)


class Session(ABC):
    """An open connection, used by one thread. Any method may raise: the session is then dropped and made anew later."""

    @abstractmethod
    def log(self, records: Sequence[Record]) -> None:
        """Send some records, in the order of the file."""

    @abstractmethod
    def finish(self, ending: Ending) -> None:
        """Say how the run ended, and close."""

    def upload(self, files: Mapping[str, Path], *, model: bool, done: Callable[[str], None]) -> None:  # noqa: B027 - not every tracker keeps files
        """Keep files with the run, by their name in the run directory; `done` is called with each name that is safe.

        Args:
            files: name -> file.
            model: whether they are the model; the names then start with `model/`.
            done: to be called as early as possible: it shows that something moves.
        """

    def last_step(self, key: str) -> int | None:
        """Last step of a series that the tracker has; None when it has none or cannot tell."""
        return None


@dataclass(frozen=True, kw_only=True)  # so that fields of a subclass need no default
class Tracker(ABC):
    """A tracker as the configuration describes it."""

    #: Python package that it needs, and the extra of stpipe that brings it.
    package: ClassVar[str | None] = None
    extra: ClassVar[str | None] = None

    timeout: float = option(
        60.0,
        gt=0,
        help="Seconds without any progress after which the end of the run no longer waits for it; `stpipe track RUN` sends the rest.",
    )

    @property
    def keeps(self) -> Artifacts:
        """Which files it wants, besides the model."""
        return "none"

    @property
    def keeps_model(self) -> bool:
        """Whether it wants the model, too."""
        return self.keeps == "model"

    @abstractmethod
    def connect(self, run: TrackedRun, memory: Memory) -> Session:
        """Open the run at the tracker: the one that `memory.id` names, else a new one whose id is put there and saved."""


def kept_files(folder: Path, level: Artifacts) -> dict[str, Path]:
    """Name -> file of what is kept with the run, besides the model."""
    patterns = {"none": (), "records": RECORDS}.get(level, (*RECORDS, *REPORTS))
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return {path.relative_to(folder).as_posix(): path for path in found if path.is_file() and not path.name.startswith(".")}


def model_files(folder: Path) -> dict[str, Path]:
    """Files of the saved model."""
    return {path.relative_to(folder).as_posix(): path for path in sorted((folder / MODEL).rglob("*")) if path.is_file()}
