"""What the processes of one run have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpipe.config.errors import DataError
from stpipe.core.peers import Peers
from stpipe.engine.checkpoint import Checkpoint


@dataclass(frozen=True)
class Together:
    """The processes of a run. at_start: called with the run directory once it is there."""

    peers: Peers
    at_start: Callable[[Path], None] | None = None

    def checkpoint(self, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """The checkpoint that rank 0 finds; all processes read the same one."""
        own: list[Checkpoint | None] = []

        def decide() -> tuple[str, int] | None:
            own.append(find())
            return None if own[0] is None else (str(own[0].path), own[0].step)

        found = self.peers.decided("checkpoint", decide)
        if own or found is None:
            return own[0] if own else None
        path, step = found
        return Checkpoint(Path(path), step)

    def same(self, what: str, value: Any) -> None:
        """Refuse to train on when a process has something else than rank 0 (a JSON value).

        Raises:
            DataError: naming what differs, and where.
        """
        found = self.peers.decided(what, lambda: value)
        if found != value:
            raise DataError(
                f"{what} is not the same on all processes: {found} on rank 0, {value} on rank {self.peers.rank}. Are all machines on the "
                "same files, and on the same versions of Python and of the packages?"
            )

    def started(self, folder: Path) -> None:
        """The run directory is there."""
        if self.at_start is not None:
            self.at_start(folder)
