"""What a run does differently from its recipe, key by key, and who said so: the command line, a profile, or something that follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stpipe.config.compose import Composed
from stpipe.config.decode import Decoder
from stpipe.config.errors import ConfigError
from stpipe.config.origins import Origins, Path, at, dotted
from stpipe.config.redact import redact_secrets
from stpipe.config.resolve import name_components, public, settle

COMMAND_LINE = "command line"
FILE = re.compile(r"[^=]+\.ya?ml(:\d+)?")
#: Sections that say where and how something is shown or kept, which no recipe decides.
SKIPPED = ("run", "imports")


def recipe_changes(values: Mapping[str, Any], origins: Origins, compose_recipe: Callable[[], Composed | None]) -> list[dict[str, Any]]:
    """Keys whose value is not the one that the recipe alone gives; plain JSON without secrets.

    Args:
        values: decoded and settled configuration of the run.
        origins: where each of its values was set.
        compose_recipe: composes the recipe without anything else; gives None without a recipe.

    Returns:
        For each key `key`, `value`, the `recipe`'s value (absent where the recipe has no such key), and `set_by`: a place in a
        file, "command line", or "" for what follows from other keys. Empty when the recipe is not complete by itself.
    """
    alone = compose_recipe()
    if alone is None:
        return []
    decoder = Decoder(alone.schema, alone.origins)
    try:
        plain = decoder.read(name_components(alone.values, alone.schema))
        if decoder.problems or settle(plain, alone.values, alone.origins, recipe=alone.recipe, repeats=None)[0]:
            return []
    except ConfigError:
        return []
    shown = [redact_secrets(public(tree, places)) for tree, places in ((values, origins), (plain, alone.origins))]
    found = []
    for path in _different(values, plain):
        place = origins.where(path)
        set_by = "" if place == alone.origins.where(path) else _set_by(place)  # same place, other value: it follows from other keys
        change: dict[str, Any] = {"key": dotted(path), "value": at(shown[0], path), "set_by": set_by}
        missing = object()
        if at(plain, path, missing) is not missing:
            change["recipe"] = at(shown[1], path)
        found.append(change)
    return found


def _different(values: Any, recipe: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of the run's values (those that are no mappings) that differ, and of mappings where the recipe has none."""
    for key, value in values.items():
        place = (*path, key)
        if path == () and key in SKIPPED:
            continue
        known = recipe.get(key) if isinstance(recipe, Mapping) else None
        if isinstance(value, Mapping) and isinstance(known, Mapping) and value:
            yield from _different(value, known, place)
        elif value != known:
            yield place


def _set_by(place: str) -> str:
    """Texts of overrides are not repeated: they may hold secrets, and the value stands beside."""
    return place if not place or FILE.fullmatch(place) else COMMAND_LINE
