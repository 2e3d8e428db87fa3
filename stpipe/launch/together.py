"""What a command does in one of several processes, however they were started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stpipe.config.load import Loaded
from stpipe.config.offline import go_offline
from stpipe.core.peers import Peers
from stpipe.launch.task import Task


def run_together(peers: Peers, compose: Callable[[], Loaded], task: Task, *, at_start: Callable[[Path], None] | None = None) -> int:
    """Run the task; rank 0 composes, all others take the configuration that it came to. Returns the exit code.

    Args:
        peers: the processes.
        compose: gives the configuration; called by rank 0 only.
        task: what is done.
        at_start: called with the run directory once it is there.

    Raises:
        PeerError: another process failed; it has that one's message and exit code.
        Exception: what this process failed by; all others are told.
    """
    peers.begin()
    try:
        own: list[Loaded] = []

        def decide() -> dict[str, object]:
            own.append(compose())
            return own[0].as_json()

        found = peers.decided("configuration", decide)
        loaded = own[0] if own else Loaded.from_json(found)
        if loaded.values["offline"]:
            go_offline()
        return task.run(loaded, peers=peers, at_start=at_start)
    except BaseException as error:
        cause = peers.cause(error)
        peers.fail(cause)
        if cause is error:
            raise
        raise cause from error
