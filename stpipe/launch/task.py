"""What the processes of a command do, in values that travel to processes which another one starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stpipe.config.load import Loaded
    from stpipe.core.peers import Peers


@dataclass(frozen=True)
class Task:
    """Train, or evaluate.

    model: the one to evaluate, as the user gave it; None trains. stage: of a training, run alone.
    """

    model: str | None = None
    stage: str | None = None

    def run(self, loaded: Loaded, *, peers: Peers | None = None, at_start: Callable[[Path], None] | None = None) -> int:
        """This process's part; returns the exit code.

        Args:
            loaded: the configuration.
            peers: the processes that do it; None: this one alone.
            at_start: called with the directory of a training once it is there.
        """
        if self.model is not None:
            from stpipe.pipeline.evaluate import run_evaluate

            return run_evaluate(self.model, loaded, peers=peers)
        from stpipe.pipeline.train import run_train

        return run_train(loaded, stage=self.stage, peers=peers, at_start=at_start)

    def as_text(self) -> str:
        """For an environment variable."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> Task:
        """What `as_text` gave."""
        return Task(**json.loads(text))
