"""A callback of a user that holds a secret, and tells of it when it fails. Imports no torch: trackers import it, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stpipe.config.fields import option
from stpipe.config.registry import CALLBACKS


@CALLBACKS.register("leaky")
@dataclass(frozen=True)
class LeakyCallback:
    """Logs in somewhere with its token; `fail` makes it fail, as libraries do, with what it was given in the message."""

    hub_token: str = option("", help="A secret.")
    address: str = option("", help="Where to; may hold a password.")
    fail: bool = option(False, help="Fail at the second step.")

    def on_step_end(self, trainer: Any) -> None:
        if self.fail and trainer.state.step == 2:
            raise RuntimeError(f"401 for {self.address} with 'Authorization: Bearer {self.hub_token}'")

    def on_train_start(self, trainer: Any) -> None:
        """Nothing."""

    def on_log(self, trainer: Any, values: Mapping[str, float]) -> None:
        """Nothing."""

    def on_evaluate(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def on_checkpoint(self, trainer: Any) -> None:
        """Nothing."""

    def on_train_end(self, trainer: Any) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
