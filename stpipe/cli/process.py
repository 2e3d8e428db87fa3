"""What a process does that launch/local.py started: `python -m stpipe.cli.process`, the configuration on the standard input of rank 0."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from stpipe.cli.failures import report_failure
from stpipe.config.load import Loaded
from stpipe.core.peers import ConnectedPeers
from stpipe.core.world import find_world
from stpipe.launch.local import INTERRUPTED, LOG, TASK, log_name
from stpipe.launch.task import Task
from stpipe.launch.together import run_together


def main() -> int:
    """Run this process's part; returns its exit code."""
    world = find_world(os.environ)
    assert world is not None, "started by launch/local.py"
    peers = None
    try:
        peers = ConnectedPeers(world)
        return run_together(
            peers,
            handed_over,
            Task.from_text(os.environ[TASK]),
            at_start=lambda folder: move_log(folder, world.rank),
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return report_failure(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if peers is not None:
            peers.close()


def handed_over() -> Loaded:
    """The configuration, and the command that asked for it, from the process that started this one."""
    found = json.load(sys.stdin)
    sys.argv[1:] = found["command"]
    return Loaded.from_json(found["loaded"])


def move_log(folder: Path, rank: int) -> None:
    """Continue the log of this process in the run directory; rank 0 writes to the terminal instead."""
    old = os.environ.get(LOG)
    if old is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    place = folder / log_name(rank)
    place.parent.mkdir(exist_ok=True)
    with place.open("ab") as file:
        file.write(Path(old).read_bytes())
        file.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    Path(old).unlink()


if __name__ == "__main__":
    sys.exit(main())
