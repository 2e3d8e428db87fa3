"""Watches the number of active terms that a sparse loss logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stpipe.engine.callbacks.base import Callback
from stpipe.engine.sparsity import SparsityGuard

if TYPE_CHECKING:
    from stpipe.engine.loop import Trainer


class SparsityWatch(Callback):
    """Ends training when representations have collapsed, and warns once when they do not become sparse (see SparsityGuard).

    Args:
        vocabulary: width of a representation.
        warn: what shows a warning.
    """

    def __init__(self, vocabulary: int, warn: Callable[[str], None]) -> None:
        self.vocabulary = vocabulary
        self.warn = warn
        self.guard = SparsityGuard()

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        query, document = values.get("query_active_dims"), values.get("document_active_dims")
        warning = self.guard.observe(trainer.state.step, query, document, self.vocabulary)
        if warning is not None:
            self.warn(warning)

    def state_dict(self) -> dict[str, Any]:
        return self.guard.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.guard.load_state_dict(state)
