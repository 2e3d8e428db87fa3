"""Processes that compute together what one of them is asked for.

Rank 0 calls a model as ever. Its encoder divides the micro-batches of each call among all processes: they are planned from the
inputs alone, each process computes its share of them, and rank 0 puts the results in order. So a result has the same bits for any
number of processes, provided that each computes with as many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpipe.config.errors import TrainingError
from stpipe.core.exchange import Exchange, Message
from stpipe.models.base_model import BaseModel
from stpipe.models.inference import DIVIDED, Place, Share, Sharing, Work, sharing_of

#: What the other processes are asked to do with a work.
COMPUTE = "compute"

Own = Callable[[Share, Place], None]


class Part:
    """One share of what is computed; the results of all other inputs stay zero.

    Args:
        share: which one.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self._places: list[Tensor] = []

    def compute(self, work: Work, own: Own, place: Place) -> None:
        own(self.share, noting(self._places, place))

    @property
    def rows(self) -> NDArray[np.int64]:
        """(n,) places of the inputs that were computed, rising."""
        return np.sort(torch.cat(self._places).numpy()) if self._places else np.empty(0, dtype=np.int64)


class Team:
    """All processes, seen from rank 0.

    Args:
        exchange: to the others.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.size = exchange.size

    def compute(self, work: Work, own: Own, place: Place) -> None:
        count = len(work.job.texts)
        if count < 2 * self.size:  # an exchange takes longer than a forward of a few texts
            own(Share(), place)
            return
        places: list[Tensor] = []
        noted = noting(places, place)
        number = self.exchange.tell({"do": COMPUTE, "work": work.as_json()})
        own(Share(0, self.size), noted)
        for answer in self.exchange.answers(number):
            if answer.tensors:
                noted(*(answer.tensors[str(i)] for i in range(len(answer.tensors))))
        if not torch.equal(torch.cat(places).sort().values, torch.arange(count)):
            raise TrainingError(
                f"the processes do not agree on how {count} texts are cut into micro-batches, so some would have no embedding. Are all machines on "
                "the same versions of Python and of the packages, and on the same files of the model?"
            )


def answered(model: BaseModel, exchange: Exchange, message: Message) -> None:
    """Compute this process's share of the work in a message of COMPUTE, and answer with it."""
    found: list[tuple[Tensor, ...]] = []
    share = Share(exchange.rank, exchange.size)
    model.perform(Work.from_json(message.value["work"]), share, lambda *tensors: found.append(tuple(t.cpu() for t in tensors)))
    exchange.answer(message, tensors={str(i): torch.cat(parts) for i, parts in enumerate(zip(*found, strict=True))})


def noting(places: list[Tensor], place: Place) -> Place:
    """The same `place`, with the places noted in a list."""

    def noted(where: Tensor, *values: Tensor) -> None:
        places.append(where)
        place(where, *values)

    return noted


@contextmanager
def sharing(model: Any, how: Sharing) -> Iterator[None]:
    """Within the context, and in this thread, what the model is asked for is divided this way."""
    token = DIVIDED.set((model.encoder, how))
    try:
        yield
    finally:
        DIVIDED.reset(token)


def team_of(model: Any) -> Team | None:
    """The processes that this model computes with; None when it is alone."""
    found = sharing_of(model.encoder) if hasattr(model, "encoder") else None
    return found if isinstance(found, Team) else None
