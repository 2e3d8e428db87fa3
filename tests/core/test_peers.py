"""What processes tell each other beside collectives: values of rank 0, order, and who ended why."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp

from stpipe.config.errors import DataError, TrainingError
from stpipe.core import watch
from stpipe.core.peers import ConnectedPeers, PeerError, Peers, is_communication_error
from stpipe.core.world import World
from stpipe.launch.local import free_port

Part = Callable[[ConnectedPeers], Any]


def together(*parts: Part, lost_after: float = 40.0) -> list[Any]:
    """Run the parts as ranks, each in a thread of this process; what they return or raise."""
    port = free_port()
    found: list[Any] = [None] * len(parts)

    def run(rank: int) -> None:
        peers = ConnectedPeers(World(rank, len(parts), rank, "127.0.0.1", port), lost_after=lost_after)
        peers.begin()
        try:
            found[rank] = parts[rank](peers)
        except Exception as error:
            found[rank] = peers.cause(error)
            peers.fail(error)
        finally:
            peers.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


def test_one_process_decides_alone() -> None:
    peers = Peers()
    assert peers.is_main and peers.decided("x", lambda: 3) == 3
    with peers.main_first("x"):
        pass
    error = ValueError()
    assert peers.cause(error) is error


def test_rank_0_decides_and_goes_first() -> None:
    order: list[int] = []

    def part(peers: ConnectedPeers) -> list[Any]:
        values = [peers.decided("v", lambda n=n: {"from": peers.rank, "n": n}) for n in (1, 2)]
        with peers.main_first("cache"):
            time.sleep(0.0 if peers.rank else 0.3)
            order.append(peers.rank)
        peers.all_here("end")
        return values

    found = together(part, part, part)
    assert found[0] == found[1] == found[2] == [{"from": 0, "n": 1}, {"from": 0, "n": 2}]
    assert order[0] == 0 and sorted(order) == [0, 1, 2]


def test_a_failure_reaches_those_who_wait() -> None:
    def fails(peers: ConnectedPeers) -> None:
        time.sleep(0.5)
        raise DataError("row 7")

    def waits(peers: ConnectedPeers) -> Any:
        return peers.decided("never", lambda: time.sleep(0))

    found = together(waits_for_failure, fails, waits)
    assert isinstance(found[1], DataError)
    for error in (found[0], found[2]):
        assert isinstance(error, PeerError)
        assert (error.exit_code, error.failure.rank) == (3, 1)
        assert "rank 1" in str(error) and "row 7" in str(error)


def waits_for_failure(peers: ConnectedPeers) -> None:
    """Rank 0 that works in Python and meets the failure in its next exchange."""
    while peers.watch.failure is None:
        time.sleep(0.05)
    raise PeerError(peers.watch.failure)


def test_a_broken_connection_is_explained_by_the_failure_behind_it() -> None:
    def fails(peers: ConnectedPeers) -> None:
        raise TrainingError("no memory")

    def notices(peers: ConnectedPeers) -> None:
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    found = together(notices, fails)
    assert isinstance(found[0], PeerError) and "no memory" in str(found[0])


def test_the_first_failure_stays() -> None:
    def part(peers: ConnectedPeers) -> str:
        peers.all_here("start")
        if peers.rank:
            peers.fail(DataError("first"))
            peers.all_here("told")
        else:
            peers.all_here("told")
            peers.fail(DataError("second"))
        record: str = json.loads(peers.watch.store.get(peers.watch._key))["message"]
        peers.all_here("end")
        return record

    assert together(part, part) == ["first", "first"]


def test_a_second_run_starts_without_the_failure_of_the_first() -> None:
    def part(peers: ConnectedPeers) -> int:
        peers.all_here("start")
        if peers.rank:
            peers.fail(DataError("in the first run"))
        peers.all_here("failed")
        if peers.is_main:
            peers.decided("value", lambda: 4)  # rank 1 has failed before it came here
        peers.begin()
        return int(peers.decided("value", lambda: 5))

    assert together(part, part) == [5, 5]


def test_what_is_a_communication_error() -> None:
    assert is_communication_error(RuntimeError("[gloo] Connection closed by peer"))
    assert is_communication_error(RuntimeError("NCCL error: remote process exited"))
    assert not is_communication_error(RuntimeError("shape mismatch"))
    assert not is_communication_error(ValueError("socket"))


def _silent(rank: int, port: int, folder: str, broken: bool) -> None:
    peers = ConnectedPeers(World(rank, 2, rank, "127.0.0.1", port), lost_after=1000.0 if broken else 8.0)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        if broken:  # as when a collective meets the closed connection
            raise RuntimeError("[gloo] Connection closed by peer")
        peers.all_here("never")
    except (RuntimeError, PeerError, KeyboardInterrupt) as error:
        cause = peers.cause(error)
        Path(folder, "found").write_text(f"{time.monotonic() - began:.1f} {cause}")
    peers.close()


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_a_process_that_falls_silent_is_named(tmp_path: Path, broken: bool) -> None:
    """Nobody but its heartbeat tells of it; sooner when a connection has broken."""
    context = mp.get_context("spawn")
    port = free_port()
    processes = [context.Process(target=_silent, args=(rank, port, str(tmp_path), broken)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    seconds, text = (tmp_path / "found").read_text().split(" ", 1)
    assert 5 < float(seconds) < 40
    assert "rank 1 (pid" in text and "no longer answers" in text
    assert processes[1].exitcode == -signal.SIGKILL


def test_news_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watch.NEWS, str(tmp_path / "news.json"))

    def part(peers: ConnectedPeers) -> None:
        if peers.rank:
            (tmp_path / "news.json").write_text(json.dumps({"rank": 2, "who": "pid 5", "exit_code": 1, "message": "was killed by SIGKILL"}))
        peers.decided("never", lambda: waits_for_failure(peers))

    found = together(part, part)
    assert [str(error) for error in found] == ["rank 2 (pid 5): was killed by SIGKILL"] * 2
