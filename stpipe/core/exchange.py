"""What rank 0 asks of the other processes of a run, and what they answer, over the store where they all meet.

Not by collectives: there every process must come to the same call, and one that is late, or does something else, leaves all others
waiting in it. Here nobody waits but at a key of the store, which ends as soon as any process fails. Nor by files, which the machines
of a run would have to share. A message is JSON and tensors; large ones travel in pieces.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
from torch import Tensor

if TYPE_CHECKING:
    from stpipe.core.peers import ConnectedPeers

#: Bytes of one value of the store; it refuses more than 8 MB.
PIECE = 4 << 20
#: Messages that may wait for a process. What it has not taken lies in the memory of the store.
AHEAD = 2
#: Longest pause between two looks for a message or an answer, in seconds.
PAUSE = 0.05
HEAD = 8  # bytes that say how long the JSON is

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Message:
    """One message. number: of it in its exchange; value: JSON; tensors: on the CPU."""

    number: int
    value: Any
    tensors: dict[str, Tensor]


class Exchange:
    """Messages of rank 0 to others, in order, and answers to them. Every process opens it, rank 0 closes it.

    Args:
        peers: the processes.
        name: of this exchange; a name may be used again when the one before is closed.
    """

    def __init__(self, peers: ConnectedPeers, name: str) -> None:
        self.peers = peers
        self.store: Any = peers.store  # its type knows no bytes as values, which it takes
        self.rank, self.size = peers.rank, peers.size
        self.others = tuple(range(1, peers.size))
        self._base = peers.key("exchange", name)
        self._sent = 0
        self._waiting: dict[int, deque[int]] = {rank: deque() for rank in self.others}

    # Rank 0

    def tell(self, value: Any, tensors: Tensors | None = None, *, to: Sequence[int] | None = None) -> int:
        """Send a message to some processes (all others); returns its number. Waits while it is too far ahead of one of them."""
        ranks = self.others if to is None else tuple(to)
        for rank in ranks:
            waiting = self._waiting[rank]
            while len(waiting) >= AHEAD:
                self.peers.wait(f"{self._at(waiting[0])}/taken", longest=PAUSE)
                waiting.popleft()
            waiting.append(self._sent)
        return self._send({"to": ranks, "pieces": self._put(self._at(self._sent), pack(value, tensors or {}))})

    def answers(self, number: int, ranks: Sequence[int] | None = None) -> Iterator[Message]:
        """The answers of some processes (all others) to a message, in order of rank, as they come."""
        for rank in self.others if ranks is None else ranks:
            key = f"{self._at(number)}/answer/{rank}"
            self.peers.wait(key, longest=PAUSE)
            pieces = int(self.store.get(key))
            found = self._get(key, pieces)
            self._delete(key, pieces)
            self.store.delete_key(key)
            yield Message(number, *unpack(found))

    def close(self) -> None:
        """There are no more messages."""
        self._send(None)

    # All others

    def messages(self) -> Iterator[Message]:
        """The messages to this process, until rank 0 closes the exchange."""
        number = 0
        while True:
            key = self._at(number)
            self.peers.wait(key, longest=PAUSE)
            head = json.loads(self.store.get(key))
            if head is None:
                return
            if self.rank in head["to"]:
                found = self._get(key, head["pieces"])
                if self.store.add(f"{key}/read", 1) == len(head["to"]):
                    self._delete(key, head["pieces"])
                    self.store.set(f"{key}/taken", "1")
                yield Message(number, *unpack(found))
            number += 1

    def answer(self, message: Message, value: Any = None, tensors: Tensors | None = None) -> None:
        """Answer a message."""
        key = f"{self._at(message.number)}/answer/{self.rank}"
        self.store.set(key, str(self._put(key, pack(value, tensors or {}))))

    # The store

    def _at(self, number: int) -> str:
        return f"{self._base}/{number}"

    def _send(self, head: Any) -> int:
        """What a message consists of, set after its pieces: who sees it finds them all."""
        number = self._sent
        self._sent += 1
        self.store.set(self._at(number), json.dumps(head))
        return number

    def _put(self, key: str, data: bytes) -> int:
        starts = range(0, len(data), PIECE)
        for i, start in enumerate(starts):
            self.store.set(f"{key}/piece/{i}", data[start : start + PIECE])
        return len(starts)

    def _get(self, key: str, pieces: int) -> bytes:
        return b"".join(self.store.get(f"{key}/piece/{i}") for i in range(pieces))

    def _delete(self, key: str, pieces: int) -> None:
        for i in range(pieces):
            self.store.delete_key(f"{key}/piece/{i}")


def pack(value: Any, tensors: Tensors) -> bytes:
    """JSON and tensors as bytes; reading them runs no code, as unpickling would."""
    head = json.dumps(value).encode()
    body = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return len(head).to_bytes(HEAD, "little") + head + body


def unpack(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """What `pack` was given; tuples come back as lists."""
    start = HEAD + int.from_bytes(data[:HEAD], "little")
    return json.loads(data[HEAD:start]), safetensors.torch.load(data[start:])
