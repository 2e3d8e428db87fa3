"""load_config(): from overrides to the checked configuration of a run, without torch (unless `imports` names modules)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stpipe.config.build import to_root
from stpipe.config.compose import Composed, compose
from stpipe.config.compose.with_profile import KEY
from stpipe.config.decode import Decoder
from stpipe.config.errors import ConfigError
from stpipe.config.origins import Origins
from stpipe.config.recipe_changes import recipe_changes
from stpipe.config.redact import redact_secrets, remember_command, remember_secrets, scrub
from stpipe.config.resolve import name_components, public, settle
from stpipe.config.rules import Finding, check
from stpipe.config.schema import Schema

__all__ = ["Loaded", "load_config", "redact", "to_root"]


@dataclass(frozen=True)
class Loaded:
    """A configuration that passed every check that needs no data and no weights.

    values: decoded, all defaults filled in, plain JSON; recipe: its name or None; warnings: what deserves a look;
    metrics: valid names of trainer.best_metric; choices: config group -> option chosen; origins: where each value was
    set; schema: what it was decoded by; find_changes: gives `changes`, which costs another composition.
    """

    values: dict[str, Any]
    recipe: str | None = None
    warnings: list[str] = field(default_factory=list)
    metrics: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    origins: Origins = field(default_factory=Origins)
    schema: Schema = field(default_factory=dict)
    find_changes: Callable[[], list[dict[str, Any]]] = list

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What differs from the recipe (config/recipe_changes.py), without secrets."""
        return self.find_changes()

    def as_json(self) -> dict[str, Any]:
        """What another process of the run needs, as plain JSON; it holds secrets, so it is never written to a file."""
        hidden = [[list(path), text] for path, text in self.origins.from_environment.items()]
        return {
            "values": self.values,
            "recipe": self.recipe,
            "warnings": list(self.warnings),
            "metrics": list(self.metrics),
            "choices": dict(self.choices),
            "from_environment": hidden,
            "changes": self.changes,
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Loaded:
        """Take back what `as_json` gave."""
        origins = Origins(from_environment={tuple(path): text for path, text in found["from_environment"]})
        remember_secrets(found["values"])
        return Loaded(
            found["values"],
            found["recipe"],
            found["warnings"],
            tuple(found["metrics"]),
            found["choices"],
            origins,
            find_changes=lambda: list(found["changes"]),
        )


def load_config(
    overrides: Sequence[str],
    *,
    config_dir: str | None = None,
    config_path: str | None = None,
    config_name: str = "train",
    from_dir: str | None = None,
) -> Loaded:
    """Compose, decode, resolve and check.

    Args:
        overrides: Hydra overrides, such as `+recipe=dense_quickstart` and `trainer.max_steps=100`.
        config_dir: folder of the user's own config groups and recipes.
        config_path: replaces stpipe's own configs.
        config_name: the primary config.
        from_dir: a run directory whose saved configuration is repeated, with overrides.

    Raises:
        ConfigError: with all problems, each with its full key and the file and line or override that set it.
    """
    remember_command(overrides)
    composed = compose(overrides, config_dir=config_dir, config_path=config_path, config_name=config_name, from_dir=from_dir)
    return load_composed(composed)


def load_saved(folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that a run directory holds, with overrides, decoded but for nothing else checked: its data may be elsewhere by now.

    Raises:
        ConfigError: it holds none, or an override does not fit.
    """
    remember_command(overrides)
    composed = compose(overrides, from_dir=folder)
    remember_secrets(composed.values)
    decoder = Decoder(composed.schema, composed.origins)
    values = decoder.read(name_components(composed.values, composed.schema))
    problems = [*composed.problems, *decoder.problems]
    if problems:
        raise ConfigError(problems)
    return values


def load_composed(composed: Composed) -> Loaded:
    """The later half of `load_config`, from a composition."""
    schema, origins = composed.schema, composed.origins
    remember_secrets(composed.values)
    named = name_components(composed.values, schema)
    decoder = Decoder(schema, origins)
    values = decoder.read(named)
    values.pop(KEY, None)  # its default: what recipes say there is composed by now
    problems = [*composed.problems, *decoder.problems]
    if problems:
        raise ConfigError(problems)
    problems, warnings = settle(values, composed.values, origins, recipe=composed.recipe, repeats=composed.repeats)
    finding: Finding = check(values, schema, origins)
    problems += finding.problems
    if problems:
        raise ConfigError(problems)
    return Loaded(
        values,
        composed.recipe,
        [scrub(text) for text in (*composed.warnings, *warnings, *finding.warnings)],
        finding.metrics,
        composed.choices,
        origins,
        schema,
        partial(recipe_changes, values, origins, composed.recipe_alone),
    )


def redact(loaded: Loaded) -> dict[str, Any]:
    """The values as config.yaml may hold them: secrets replaced, what came from the environment as it was written.

    `stpipe train --from DIR` reads such a file back; it asks the environment again.
    """
    redacted: dict[str, Any] = redact_secrets(public(loaded.values, loaded.origins))
    return redacted
