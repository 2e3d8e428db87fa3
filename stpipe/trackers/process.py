"""The process that follows a run for one tracker: `python -m stpipe.trackers.process`, told what to do on its standard input.

The first line is JSON (it may hold secrets, so it goes through no file and no command line). A further line, or the end of the
input, says that the run is over: the end comes also when the process of the run was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from stpipe.config.build import build_component
from stpipe.config.builtin import load_components
from stpipe.config.redact import remember_secrets, scrub, secrets_of
from stpipe.config.sweep import Sweep
from stpipe.trackers.base import Memory, TrackedRun, Tracker
from stpipe.trackers.follow import Follower

FINISHED, BEHIND, TAKEN = 0, 1, 3
#: Seconds to wait for another process that follows the same run, which may be about to end.
LOCK = 5.0


def main() -> NoReturn:
    """Follow one run. Ends without exit handlers: those of a tracker's library may wait for its server."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # a batch system sends them to every process of a job; the run says when it is over
    job = json.loads(sys.stdin.readline())
    over = threading.Event()
    threading.Thread(target=wait_for_end, args=(over,), daemon=True).start()
    code = BEHIND
    try:
        code = run(job, over)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for_end(over: threading.Event) -> None:
    sys.stdin.readline()
    over.set()


def run(job: dict[str, Any], over: threading.Event) -> int:
    """Follow the run that `job` describes; the exit code of this process."""
    folder = Path(job["folder"])
    path = Memory.place(folder, job["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=LOCK)
    except Timeout:
        return TAKEN
    with lock:
        memory = Memory.load(path)
        memory.sweep = memory.sweep or job["sweep"]  # a run that is continued stays where it was
        tracked = TrackedRun(folder, job["config"], job["offline"], Sweep.from_json(memory.sweep), job["owner"])
        log = path.with_suffix(".log")

        def note(text: str) -> None:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")

        remember_secrets(job["values"])
        secrets = secrets_of(job["values"])
        try:
            tracker = build(job["values"], tuple(job["imports"]))
        except Exception as error:
            memory.behind(scrub(f"{type(error).__name__}: {error}", secrets))
            return BEHIND
        return FINISHED if Follower(tracker, tracked, memory, over, secrets=secrets, log=note).follow() else BEHIND


def build(values: dict[str, Any], imports: tuple[str, ...]) -> Tracker:
    """The tracker; only trackers and the user's modules are imported, so there is no torch here unless these ask for it."""
    load_components(imports, modules=("stpipe.trackers",))
    found: Tracker = build_component("tracker", values)
    return found


if __name__ == "__main__":
    main()
