"""Runs that meet a fault: a full disk for real, and what tells a run from its copy afterwards.

`python -m tests.pipeline.faulty WHERE ARGUMENTS...` is `stpipe ARGUMENTS...` that fills the disk it runs on at a moment: `step-3`
(before the checkpoint after it), or `evaluation` (when results are written).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: On a small disk of its own, in a name space of mounts that ends with the command: run into the fault, keep a copy of the run, make
#: room, and do what the run said. $0 is Python.
ON_SMALL_DISK = """
mount -t tmpfs -o size=24m small disk || exit 99
"$0" -m tests.pipeline.faulty "$@"
echo "code $?"
cp -r disk/run failed
rm -f disk/filler
"$0" -m stpipe train --from disk/run trainer.resume=auto trainer.progress=off
echo "code $?"
cp -r disk/run done
"""


def fill() -> None:
    """Until there is no room."""
    with Path("disk/filler").open("wb", buffering=0) as file:
        size = 1 << 20
        while size >= 1:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 16
    assert shutil.disk_usage("disk").free == 0


def before(work: Callable[..., Any], act: Callable[..., bool]) -> Callable[..., Any]:
    """The same work, after the disk is filled where `act` says so."""

    def hook(*given: Any, **named: Any) -> Any:
        if act(*given):
            fill()
        return work(*given, **named)

    return hook


def can_mount() -> bool:
    """Whether this machine lets a test have a disk of its own."""
    command = ["unshare", "-m", "sh", "-c", "d=$(mktemp -d) && mount -t tmpfs -o size=1m small $d"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def main(where: str, arguments: list[str]) -> int:
    from stpipe.cli.main import main as stpipe
    from stpipe.engine.callbacks.metrics_log import MetricsLog
    from stpipe.pipeline import later

    if where == "step-3":
        MetricsLog.on_step_end = before(MetricsLog.on_step_end, lambda log, trainer: trainer.state.step == 3)
    else:
        assert where == "evaluation"
        later.write_evaluation = before(later.write_evaluation, lambda *given: True)
    return stpipe(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
