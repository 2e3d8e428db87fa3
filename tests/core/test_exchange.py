"""Messages of rank 0 and answers: their order, their size, what is left of them, and what happens when a process fails."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from stpipe.config.errors import DataError
from stpipe.core import exchange as module
from stpipe.core.exchange import Exchange, pack, unpack
from stpipe.core.peers import ConnectedPeers, PeerError, Peers
from tests.core.test_peers import together

TENSORS = {
    "f32": torch.tensor([[0.1, -0.0], [float("nan"), float("inf")]]),
    "f64": torch.tensor([0.1], dtype=torch.float64),
    "bf16": torch.tensor([1.5, 2.0], dtype=torch.bfloat16),
    "int": torch.tensor([[1 << 62]]),
    "part": torch.arange(6).reshape(2, 3).T,
    "none": torch.empty(0, 4),
    "number": torch.tensor(7),
}


def opened(peers: ConnectedPeers) -> Exchange:
    found = peers.exchange("x")
    assert found is not None
    return found


def test_one_process_has_nobody_to_ask() -> None:
    assert Peers().exchange("x") is None


def test_what_is_packed_comes_back() -> None:
    value = {"texts": ["a", "\u00e9\U0001f600", "lone \ud800", ""], "pairs": [["a", "b"]], "n": None, "x": 0.1}
    found, tensors = unpack(pack(value, TENSORS))
    assert found == value
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and tensors[name].shape == tensor.shape
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert unpack(pack(None, {})) == (None, {})


def test_messages_come_in_order_to_those_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 100)  # so that every message has several

    def asks(peers: ConnectedPeers) -> Any:
        exchange = opened(peers)
        numbers = [exchange.tell({"n": 1}, TENSORS), exchange.tell({"n": 2}, to=(2,)), exchange.tell({"n": 3})]
        found = [
            [(a.number, a.value, a.tensors["sum"].item()) for a in exchange.answers(n, to)]
            for n, to in zip(numbers, (None, (2,), None), strict=True)
        ]
        exchange.close()
        peers.all_here("end")
        left = [f"{exchange._at(n)}/piece/0" for n in numbers] + [f"{exchange._at(0)}/answer/1", f"{exchange._at(0)}/answer/1/piece/0"]
        return found, [key for key in left if peers.store.check([key])], numbers

    def answers(peers: ConnectedPeers) -> list[int]:
        exchange, seen = opened(peers), []
        for message in exchange.messages():
            seen.append(message.value["n"])
            exchange.answer(
                message,
                [peers.rank, message.value["n"]],
                {"sum": sum((t.sum().double() for t in message.tensors.values() if not t.isnan().any()), torch.zeros(()))},
            )
        peers.all_here("end")
        return seen

    (found, left, numbers), *seen = together(asks, answers, answers)
    assert seen == [[1, 3], [1, 2, 3]]
    total = sum(float(t.sum()) for name, t in TENSORS.items() if name != "f32")
    assert total > 1
    assert found == [[(0, [1, 1], total), (0, [2, 1], total)], [(1, [2, 2], 0.0)], [(2, [1, 3], 0.0), (2, [2, 3], 0.0)]]
    assert numbers == [0, 1, 2]
    assert left == [], "what was read is not kept in the store"


def test_more_than_the_store_takes_at_once() -> None:
    large = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))  # 20 MB; the store takes 8

    def asks(peers: ConnectedPeers) -> bool:
        exchange = opened(peers)
        (answer,) = exchange.answers(exchange.tell(None, {"x": large}))
        exchange.close()
        return torch.equal(answer.tensors["y"], large + 1)

    def answers(peers: ConnectedPeers) -> None:
        exchange = opened(peers)
        for message in exchange.messages():
            exchange.answer(message, tensors={"y": message.tensors["x"] + 1})

    assert together(asks, answers)[0] is True


def test_rank_0_does_not_run_ahead() -> None:
    """The messages that wait for a slow process are few, however many there are."""
    sent: list[int] = []
    ahead: list[int] = []

    def asks(peers: ConnectedPeers) -> None:
        exchange = opened(peers)
        for n in range(8):
            exchange.tell(n)
            sent.append(n)
        exchange.close()

    def slow(peers: ConnectedPeers) -> list[int]:
        exchange, seen = opened(peers), []
        for message in exchange.messages():
            time.sleep(0.1)
            seen.append(message.value)
            ahead.append(len(sent) - len(seen))
        return seen

    assert together(asks, slow)[1] == list(range(8))
    assert 1 <= max(ahead) <= module.AHEAD + 1


def test_a_name_may_be_used_again() -> None:
    def asks(peers: ConnectedPeers) -> None:
        for n in range(3):
            exchange = opened(peers)
            exchange.tell(n)
            exchange.close()

    def hears(peers: ConnectedPeers) -> list[Any]:
        return [[message.value for message in opened(peers).messages()] for _ in range(3)]

    assert together(asks, hears)[1] == [[0], [1], [2]]


def test_a_failure_ends_the_wait_for_messages_and_for_answers() -> None:
    def asks(peers: ConnectedPeers) -> None:
        exchange = opened(peers)
        list(exchange.answers(exchange.tell(1)))

    def fails(peers: ConnectedPeers) -> None:
        for _ in opened(peers).messages():
            raise DataError("row 7")

    def waits(peers: ConnectedPeers) -> None:
        exchange = opened(peers)
        for message in exchange.messages():
            exchange.answer(message)

    found = together(asks, fails, waits)
    assert isinstance(found[1], DataError)
    for error in (found[0], found[2]):
        assert isinstance(error, PeerError) and (error.exit_code, error.failure.rank) == (3, 1) and "row 7" in str(error)
