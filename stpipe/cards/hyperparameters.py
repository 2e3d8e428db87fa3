"""The hyper-parameters of a run for publication: without names of the run and places on somebody's disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stpipe.cards.places import published_value

#: Neither hyper-parameters nor fit for publication.
NOT_SHOWN = ("run.", "card.", "callbacks.", "evaluator.", "imports", "offline", "model.name_or_path", "tracker.", "publish.", "export.")
NOT_SHOWN_LEAVES = frozenset({"train", "eval", "cache_dir", "resume", "progress"})


def is_hyper_parameter(key: str) -> bool:
    """Whether a key of the configuration says how the model was trained."""
    return not key.startswith(NOT_SHOWN) and key.rsplit(".", 1)[-1] not in NOT_SHOWN_LEAVES and ".joins" not in key


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every leaf that is one, in the order of the configuration; lists are leaves."""
    return {key: published_value(value) for key, value in _leaves(config) if is_hyper_parameter(key)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
