"""Evaluation by all processes of a run: rank 0 runs the evaluators, the others compute what it asks for.

An evaluator need not know of it. Its calls of the model (`encode`, `predict`, ...) are divided among the processes below the
inference class, a search over a corpus by its documents; metrics, baselines and files are the work of rank 0, meanwhile the others
look for the next message now and then, and wait in no collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from stpipe.core.exchange import Exchange
from stpipe.core.peers import Peers
from stpipe.core.signals import Preempted
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.scan import DOCS, FOUND, SCAN, ScanHelp
from stpipe.models.base_model import BaseModel
from stpipe.models.team import COMPUTE, Team, answered, sharing

T = TypeVar("T")


def with_all(peers: Peers, model: BaseModel, name: str, work: Callable[[], T]) -> T | None:
    """Do the work on rank 0, with the help of all others where it uses the model; its result, None on the others.

    Every process calls it, with a model of the same weights. Where the work fails on one of them, all end with its message.

    Args:
        peers: the processes of the run.
        model: whose calls are divided.
        name: of the work, such as "evaluation".
        work: called by rank 0 only; it must leave the model as it is, for the others have their own.
    """
    exchange = peers.exchange(name)
    if exchange is None:
        return work()
    if not peers.is_main:
        help_out(model, exchange)
        return None
    try:
        with sharing(model, Team(exchange)):
            found = work()
    except Preempted:
        exchange.close()  # the others are told what follows, by whoever catches it
        raise
    exchange.close()
    return found


def help_out(model: BaseModel, exchange: Exchange) -> None:
    """Compute what rank 0 asks for, until it is done."""
    scans = ScanHelp(cast(EmbeddingModel, model), exchange)  # no model of pairs is ever asked for a scan
    tasks = {
        COMPUTE: lambda message: answered(model, exchange, message),
        SCAN: scans.begin,
        DOCS: scans.take_in,
        FOUND: scans.found,
    }
    for message in exchange.messages():
        tasks[message.value["do"]](message)
