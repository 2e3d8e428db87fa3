"""Starts the processes of a run on this machine, and tells the truth about how they ended. Needs no torch."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stpipe.config.errors import TrainingError
from stpipe.config.load import Loaded
from stpipe.core.watch import LAUNCHER, NEWS, Failure
from stpipe.core.world import FIRST_PORT, PORTS, World
from stpipe.launch.task import Task
from stpipe.pipeline.status import Status, read_status

#: The module that a started process runs.
ENTRY = "stpipe.cli.process"
#: Environment variables: the file into which a process writes until there is a run directory; what it is to do.
LOG, TASK = "STPIPE_RANK_LOG", "STPIPE_TASK"
INTERRUPTED, PREEMPTED = 130, 75
#: Seconds between looks at the processes.
POLL = 0.1
#: Seconds that a process that failed leaves the others to end by themselves before they are told; then until they are ended, by force in the end.
TELL, TERMINATE, KILL = 5.0, 60.0, 10.0
LINES_SHOWN = 20


@dataclass
class _Process:
    rank: int
    popen: subprocess.Popen[bytes]
    log: Path | None


def run_processes(loaded: Loaded, task: Task, *, num_processes: int) -> int:
    """Run `num_processes` processes of the task; returns the exit code of the first that failed, else 0.

    The output of rank 0 is that of this process; all others write into `logs/` of the run directory where there is one.
    """
    with tempfile.TemporaryDirectory(prefix="stpipe-launch-") as scratch:
        processes = start(loaded, task, num_processes, Path(scratch))
        requests = loaded.values["trainer"].get("preempt_signals", ()) if task.model is None else ()
        return _Supervisor(processes, Path(loaded.values["run"]["dir"]), Path(scratch), requests=requests).run()


def start(loaded: Loaded, task: Task, count: int, scratch: Path) -> list[_Process]:
    """Start all processes; rank 0 gets the configuration through a pipe, because it may hold secrets."""
    port = free_port()
    found: list[_Process] = []
    threads = str(max((os.cpu_count() or 1) // count, 1))
    for rank in range(count):
        world = World(rank, count, rank, "127.0.0.1", port)
        log = None if rank == 0 else scratch / f"rank-{rank}.log"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            **world.variables(),
            LAUNCHER: str(os.getpid()),
            NEWS: str(scratch / "news.json"),
            **({} if log is None else {LOG: str(log)}),
            TASK: task.as_text(),
        }
        output = None if log is None else log.open("wb")
        popen = subprocess.Popen(
            [sys.executable, "-m", ENTRY],
            stdin=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # an interrupt at the terminal comes to this process alone, which hands it on once
        )
        if output is not None:
            output.close()
        found.append(_Process(rank, popen, log))
    pipe = found[0].popen.stdin
    assert pipe is not None
    try:
        pipe.write(json.dumps({"loaded": loaded.as_json(), "command": sys.argv[1:]}).encode())
        pipe.close()
    except BrokenPipeError:  # it has ended already, which is seen below
        pass
    return found


class _Supervisor:
    """Waits for all processes. The first that fails decides the exit code; the others are told, then ended."""

    def __init__(self, processes: Sequence[_Process], folder: Path, scratch: Path, *, requests: Sequence[str] = ()) -> None:
        self.processes, self.folder, self.scratch = processes, folder, scratch
        self.requests = [signal.Signals[name] for name in requests]
        self.requested: signal.Signals | None = None
        self.failed: tuple[_Process, int, float] | None = None
        self.interrupted = False
        self.told = False

    def run(self) -> int:
        handles = threading.current_thread() is threading.main_thread()  # only there Python lets a signal be handled
        # Handlers that act instead of raising: an exception could come between any two lines, and the run would be left as running.
        ending = dict.fromkeys((signal.SIGINT, signal.SIGTERM), self._on_interrupt)
        hearing = {**ending, **dict.fromkeys(self.requests, self._on_request)}
        previous = {number: signal.signal(number, handler) for number, handler in hearing.items()} if handles else {}
        try:
            while any(p.popen.poll() is None for p in self.processes):
                self._look()
                time.sleep(POLL)
            self._look()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for process in self.processes:
                process.popen.kill()  # does nothing to one that has ended
        if self.interrupted:
            self._mark_ended("interrupted", INTERRUPTED, "interrupted by the user")
            return INTERRUPTED
        return 0 if self.failed is None else self._conclude(*self.failed[:2])

    def _on_interrupt(self, number: int, frame: object) -> None:
        """Every process is told; the second time they are ended."""
        self._send(signal.SIGKILL if self.interrupted else signal.SIGINT)
        self.interrupted = True
        if self.failed is None:
            self.failed = (self.processes[0], INTERRUPTED, time.monotonic())
            self.told = True

    def _on_request(self, number: int, frame: object) -> None:
        """Every process hears of it and agrees with the others after which step they leave; each sees to its grace period itself."""
        self.requested = signal.Signals(number)
        self._send(self.requested)

    def _look(self) -> None:
        """Note the first process that failed, and see to it that the others end."""
        if self.failed is None:
            codes = [(p, p.popen.poll()) for p in self.processes]
            # One that was killed is the cause of errors of others that ended in the same moment.
            bad = sorted(((p, c) for p, c in codes if c), key=lambda found: found[1] > 0)
            if not bad:
                return
            self.failed = (*bad[0], time.monotonic())
        process, code, since = self.failed
        passed = time.monotonic() - since
        if not self.told and (code < 0 or passed > TELL):
            self.told = True
            self._tell(process, code)
        if passed > TERMINATE:
            self._send(signal.SIGKILL if passed > TERMINATE + KILL else signal.SIGTERM)

    def _tell(self, process: _Process, code: int) -> None:
        aside = self.scratch / "news.tmp"
        failure = Failure(process.rank, f"pid {process.popen.pid}", exit_code(code), how_it_ended(code))
        aside.write_text(json.dumps(asdict(failure)), encoding="utf-8")
        aside.rename(self.scratch / "news.json")

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(number)

    def _conclude(self, process: _Process, code: int) -> int:
        """Say what only this process knows: which one was killed, what the first failed one wrote. Returns the exit code."""
        who = f"rank {process.rank} (pid {process.popen.pid})"
        if self.requested is not None and code in (PREEMPTED, -self.requested):  # by the signal itself: before it could hear it
            self._mark_ended("preempted", PREEMPTED, f"asked to leave: {self.requested.name}")
            return PREEMPTED
        if code < 0 and (process.rank == 0 or self.processes[0].popen.returncode < 0):  # otherwise rank 0 has said it
            print(f"stpipe: {who} {how_it_ended(code)}", file=sys.stderr)
            self._mark_ended("failed", 1, f"{who} {how_it_ended(code)}")
        elif process.log is not None and process.log.exists():
            lines = process.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
            print(f"stpipe: {who} {how_it_ended(code)}. Its last lines:", *lines, sep="\n  ", file=sys.stderr)
        elif process.rank:
            print(f"stpipe: the log of {who} is {self.folder / log_name(process.rank)}", file=sys.stderr)
        return exit_code(code)

    def _mark_ended(self, state: str, code: int, message: str) -> None:
        """A status that rank 0 could no longer write, because it was the one."""
        place = self.folder / "status.json"
        found = read_status(place)
        if found is not None and found["state"] == "running" and found.get("pid") == self.processes[0].popen.pid:
            status = Status(place, command=found["command"])
            status.data.update(found)
            for stage in status.data["stages"].values():
                if stage["state"] == "running":
                    stage["state"] = "failed" if state == "failed" else "stopped"
            status.end(state, code, message)


def log_name(rank: int) -> str:
    """Place of a process's log in the run directory."""
    return f"logs/rank-{rank}.log"


def exit_code(code: int) -> int:
    """Exit code of the contract for how a process ended; a signal is a failure of training."""
    return 1 if code < 0 else code


def how_it_ended(code: int) -> str:
    """A return code of subprocess in words."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}. Continue with trainer.resume=auto"
    return f"ended with exit code {code}"


def free_port() -> int:
    """A port of this machine that nobody uses now.

    Not one of those that the system gives to clients: there the next connection of any program may take it before rank 0 does.
    """
    for port in random.SystemRandom().sample(range(FIRST_PORT, FIRST_PORT + PORTS), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise TrainingError(f"none of 100 ports of this machine from {FIRST_PORT} to {FIRST_PORT + PORTS} was free")
