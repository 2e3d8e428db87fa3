"""What the cross-field rules see and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stpipe.config.errors import Problem
from stpipe.config.origins import Origins, Path, dotted
from stpipe.config.schema import Schema, component


@dataclass
class Finding:
    """Problems stop the run, warnings do not; metrics are the valid names of trainer.best_metric."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    metrics: tuple[str, ...] = ()


@dataclass
class Rules:
    """A decoded configuration with the facts of its components."""

    values: Mapping[str, Any]
    schema: Schema
    origins: Origins
    finding: Finding = field(default_factory=Finding)

    def component(self, group: str, name: str) -> Schema:
        """Schema of a component, its facts under `x-<fact>`; empty for a name that is not registered."""
        return component(self.schema, group, name) or {}

    def problem(self, path: Path, message: str) -> None:
        """Report a problem once, at a key."""
        found = Problem(dotted(path), message, self.origins.where(path))
        if found not in self.finding.problems:
            self.finding.problems.append(found)

    def warn(self, message: str) -> None:
        """Report a warning once."""
        if message not in self.finding.warnings:
            self.finding.warnings.append(message)
