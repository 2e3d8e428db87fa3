"""The processes of one run beside their collectives: what rank 0 decides, who waits for whom, and who has ended why.

Collectives need a device, a timeout and every process; they say neither which process is missing nor what its error was. So
the processes also meet at a small store of rank 0 (or of the launcher): values of rank 0 travel over it, each process counts up
its own heartbeat there, and the first one to fail leaves its message and exit code for all others.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from stpipe.config.errors import StpipeError, TrainingError
from stpipe.core.exchange import Exchange
from stpipe.core.watch import Failure, Watch
from stpipe.core.world import World

#: Seconds until all processes must have started.
JOIN = 600.0
#: Seconds between looks at the store: at first, and in the end.
POLL = (0.01, 0.5)
#: Seconds that a process which has the store stays for the others.
LINGER = 10.0
#: Seconds without a heartbeat after which a process counts as lost.
LOST_AFTER = 40.0
INTERRUPTED = 130


class PeerError(TrainingError):
    """Another process ended, and so does this one, with the same exit code. `failure`: which one and why."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self.exit_code = failure.exit_code
        super().__init__(str(failure))


class Peers:
    """A run of one process, which decides alone and waits for nobody. Base of `ConnectedPeers`."""

    rank = 0
    size = 1
    local_rank = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for the run."""
        return self.rank == 0

    def decided(self, name: str, decide: Callable[[], Any]) -> Any:
        """What rank 0 decides (a JSON value), on every process; only rank 0 calls `decide`."""
        return decide()

    @contextmanager
    def main_first(self, name: str) -> Iterator[None]:
        """Rank 0 runs the block first, then all others: what it leaves in a cache is found by them."""
        yield

    def all_here(self, name: str) -> None:
        """Wait until every process is at this place."""

    def exchange(self, name: str) -> Exchange | None:
        """Messages of rank 0 to the others and their answers; None where there are no others. Every process opens it."""
        return None

    def begin(self) -> None:
        """A run begins; there may have been others in the same processes."""

    def cause(self, error: BaseException) -> BaseException:
        """Why this process really ends: the error of another one where `error` only follows from that."""
        return error

    def fail(self, error: BaseException) -> None:
        """Tell all others that this process ends, unless another one failed first."""

    def at_abort(self, act: Callable[[Failure], None]) -> None:
        """What to do before the process is ended because its main thread hangs in a call that another process will never answer."""

    def close(self) -> None:
        """This process leaves."""


class ConnectedPeers(Peers):
    """The processes that a launcher started.

    Args:
        world: of this process.
        lost_after: seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, world: World, *, lost_after: float = LOST_AFTER) -> None:
        self.world, self.rank, self.size, self.local_rank = world, world.rank, world.size, world.local_rank
        # Under torchrun the agent has the store already.
        self.hosts_store = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        prefix = f"stpipe/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self.store = dist.PrefixStore(prefix, self._client(is_master=self.hosts_store))
        self.watch = Watch(dist.PrefixStore(prefix, self._client(is_master=False)), rank=self.rank, size=self.size, lost_after=lost_after)
        self._uses: dict[str, int] = {}
        self.runs = 0
        self.store.set(f"who/{self.rank}", f"pid {os.getpid()} on {socket.gethostname()}")
        self._join()
        self.watch.start()

    def _client(self, *, is_master: bool) -> Any:
        world, timeout = self.world, timedelta(seconds=JOIN)
        return dist.TCPStore(world.address, world.port, world.size, is_master, timeout, wait_for_workers=False)

    def _join(self) -> None:
        deadline = time.monotonic() + JOIN
        waiting = list(range(self.size))
        while waiting := [r for r in waiting if not self.store.check([f"who/{r}"])]:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"rank(s) {', '.join(map(str, waiting))} of {self.size} did not start within {JOIN:.0f} s. Are there as many processes as "
                    f"WORLD_SIZE says, and does {self.world.address}:{self.world.port} answer from their machines?"
                )
            time.sleep(0.05)

    def decided(self, name: str, decide: Callable[[], Any]) -> Any:
        key = self.key("value", name)
        if self.is_main:
            value = decide()
            self.store.set(key, json.dumps(value))
            return value
        self.wait(key)
        return json.loads(self.store.get(key))

    @contextmanager
    def main_first(self, name: str) -> Iterator[None]:
        key = self.key("first", name)
        if not self.is_main:
            self.wait(key)
        yield
        if self.is_main:
            self.store.set(key, "1")

    def all_here(self, name: str) -> None:
        key = self.key("here", name)
        if self.store.add(key, 1) == self.size:
            self.store.set(f"{key}/all", "1")
        self.wait(f"{key}/all")

    def exchange(self, name: str) -> Exchange | None:
        return Exchange(self, name) if self.size > 1 else None

    def begin(self) -> None:
        self.runs += 1
        self._uses = {}  # a run that failed has left the processes at different places
        self.watch.begin(str(self.runs))

    def key(self, kind: str, name: str) -> str:
        """Every use of a name in a run has a key of its own; all processes use the names in the same order."""
        number = self._uses[name] = self._uses.get(name, 0) + 1
        return f"{self.runs}/{kind}/{name}/{number}"

    def wait(self, key: str, *, longest: float = POLL[1]) -> None:
        """Until a key is set, however long that takes; another process that fails ends the wait.

        longest: seconds between two looks, in the end.
        """
        pause = POLL[0]
        while not self.store.check([key]):
            failure = self.watch.failure
            if failure is not None:
                self.watch.taken()
                raise PeerError(failure)
            time.sleep(pause)
            pause = min(pause * 1.5, longest)

    def cause(self, error: BaseException) -> BaseException:
        if isinstance(error, PeerError):
            self.watch.taken()
        interrupted = isinstance(error, KeyboardInterrupt)
        if isinstance(error, PeerError) or not (interrupted or is_communication_error(error)):
            return error
        failure = self.watch.blame(0.0 if interrupted else None)
        return error if failure is None else PeerError(failure)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, PeerError):
            return
        code = error.exit_code if isinstance(error, StpipeError) else INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        text = str(error) if isinstance(error, StpipeError) else f"{type(error).__name__}: {error}"
        self.watch.record(Failure(self.rank, self.watch.who(self.rank), code, text))

    def at_abort(self, act: Callable[[Failure], None]) -> None:
        self.watch.before_end = act

    def close(self) -> None:
        self.watch.leave(wait=LINGER if self.hosts_store else 0.0)


def is_communication_error(error: BaseException) -> bool:
    """Whether an error came from the connection to other processes, so that its cause may lie with them."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket", "store")
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words))
