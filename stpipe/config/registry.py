"""Registries: short names for components, so that YAML can choose them and users can add their own.

A component is a frozen dataclass whose fields are declared with `option(...)`. It registers itself:

    @LOSSES.register("cosent", aliases=("CoSENTLoss",))
    @dataclass(frozen=True)
    class CoSENTLoss(Loss): ...

The module that defines it must be imported first: stpipe's own modules are listed in `builtin.py`, a user's own in
the top-level key `imports`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from stpipe.config.errors import ConfigError
from stpipe.config.suggest import nearest as nearest
from stpipe.config.suggest import unknown_name as unknown_name

C = TypeVar("C", bound=type)


class Registry:
    """Components of one config group by short name.

    Args:
        group: name of the config group, also used in messages.
        facts: names of class attributes that the schema records as `x-<fact>`, so that cross-field rules can be
            checked without importing torch. A fact's value must be JSON (str, bool, number, list, dict or None).
    """

    def __init__(self, group: str, *, facts: tuple[str, ...] = ()) -> None:
        self.group = group
        self.facts = facts
        self._classes: dict[str, type] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, *, aliases: tuple[str, ...] = ()) -> Callable[[C], C]:
        """Decorator: make a dataclass selectable as `name` (and by its aliases) in this group."""

        def add(cls: C) -> C:
            for key in (name, *aliases):
                holder = self._classes.get(self._aliases.get(key, key))
                if holder is not None and holder.__qualname__ != cls.__qualname__:
                    raise ConfigError(f"{self.group} '{key}' is already registered by {holder.__module__}.{holder.__qualname__}")
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            return cls

        return add

    def __contains__(self, name: str) -> bool:
        return name in self._classes or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def classes(self) -> list[type]:
        """All registered classes."""
        return list(self._classes.values())

    def aliases(self) -> dict[str, str]:
        """Alias -> registered name."""
        return dict(self._aliases)

    def get(self, name: str) -> type:
        """The class registered under a name or alias; an unknown name is an error that lists what exists."""
        name = self._aliases.get(name, name)
        if name not in self._classes:
            raise ConfigError(unknown_name(self.group, name, list(self._classes)))
        return self._classes[name]

    def name_of(self, cls: type) -> str:
        """The short name of a registered class."""
        return next(name for name, registered in self._classes.items() if registered is cls)


MODELS = Registry("model", facts=("kind", "similarities", "sparsity", "routes", "lookups"))
LOSSES = Registry(
    "loss",
    facts=("coupling", "counts", "formats", "kinds", "wraps", "label_range", "sparsity", "num_outputs", "margins", "teachers", "learns"),
)
SAMPLERS = Registry("sampler", facts=("needs_label",))
EVALUATORS = Registry("evaluator", facts=("kinds", "formats", "metrics", "num_outputs"))
OPTIMIZERS = Registry("optimizer")
SCHEDULERS = Registry("scheduler")
STRATEGIES = Registry("strategy", facts=("couplings", "trains_objectives"))
BACKENDS = Registry("backend", facts=("devices", "precisions", "distributed", "shards_parameters"))
CALLBACKS = Registry("callback")
EXPORTS = Registry("export", facts=("kinds", "extra", "runtime"))
TRACKERS = Registry("tracker", facts=("package", "extra"))

REGISTRIES: dict[str, Registry] = {
    r.group: r for r in (MODELS, LOSSES, SAMPLERS, EVALUATORS, OPTIMIZERS, SCHEDULERS, STRATEGIES, BACKENDS, CALLBACKS, TRACKERS, EXPORTS)
}
