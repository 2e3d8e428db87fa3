"""The sweep that a run is part of: how the jobs of one `--multirun` find each other, whoever launches them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stpipe.config.redact import redact_command

#: Environment variable that the jobs of a sweep inherit; launchers of Hydra hand the environment on.
VARIABLE = "STPIPE_SWEEP"


@dataclass(frozen=True)
class Sweep:
    """id: the same for the same overrides in the same folder, so that a sweep that is started again continues; overrides: without secrets."""

    id: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"sweep-{self.id[:8]}"

    @staticmethod
    def of(overrides: Sequence[str]) -> Sweep:
        """The sweep that these overrides ask for in the current folder."""
        shown = redact_command(overrides)
        return Sweep(hashlib.sha256(json.dumps([os.getcwd(), shown]).encode()).hexdigest()[:16], tuple(shown))

    @staticmethod
    def of_environment() -> Sweep | None:
        """The sweep that this process is a job of; None outside of one."""
        text = os.environ.get(VARIABLE)
        return Sweep.from_json(json.loads(text)) if text else None

    @staticmethod
    def from_json(found: Mapping[str, Any] | None) -> Sweep | None:
        """Take back what `as_json` gave."""
        return None if found is None else Sweep(found["id"], tuple(found["overrides"]))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def variable(self) -> dict[str, str]:
        """What the environment of its jobs holds."""
        return {VARIABLE: json.dumps(self.as_json())}
