"""The trackers of a run, from its start until everything that they are to see is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape

from stpipe.config.load import Loaded, redact
from stpipe.config.sweep import Sweep
from stpipe.core.signals import Signals
from stpipe.engine.callbacks import Callback
from stpipe.engine.loop import Trainer
from stpipe.pipeline.run_dir import RunDirectory
from stpipe.pipeline.status import Status
from stpipe.trackers import Followers


class TrackerNews(Callback):
    """Says once for each tracker that something could not be sent."""

    def __init__(self, followers: Followers, warn: Callable[[str], None]) -> None:
        self.followers = followers
        self.warn = warn

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        for text in self.followers.news():
            self.warn(text)


@contextmanager
def tracked(
    loaded: Loaded, directory: RunDirectory, status: Status, out: Console, *, is_main: bool, signals: Signals
) -> Iterator[Followers]:
    """Inside, the trackers of the configuration follow the run; afterwards status.json says which of them have everything.

    The run's outcome is decided and written before they are waited for.

    Args:
        loaded: the configuration of the run.
        directory: which is there.
        status: of the run.
        out: where is said what could not be sent.
        is_main: whether this process writes; the others have no trackers.
        signals: requests to leave; the wait for the trackers is part of the grace period.
    """
    trackers: Mapping[str, Any] = (loaded.values.get("tracker") or {}) if is_main else {}
    if not trackers:
        yield Followers(directory.path, {})
        return
    values = loaded.values
    followers = Followers(
        directory.path,
        trackers,
        config=redact(loaded),
        imports=values["imports"],
        sweep=Sweep.of_environment(),
        offline=values["offline"],
        owner=os.getpid(),
    )
    try:
        yield followers
    finally:
        with signals.noted():
            told: list[str] = []
            found = followers.close(told.append)
            with suppress(OSError):  # a full disk; the outcome stands
                status.write(trackers=found, warnings=[*status.data["warnings"], *told])
            for text in told:
                out.print(f"[yellow]warning[/] {escape(text)}")
