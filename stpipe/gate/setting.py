"""In what runs differ besides their results: configuration, versions, machine, data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stpipe.pipeline.identity import flatten
from stpipe.reports.run_record import RunRecord

#: Keys that differ between any two runs and say nothing.
IGNORED = ("run.name", "run.dir", "created")
ABSENT = "(absent)"


def different_settings(runs: Mapping[str, RunRecord]) -> dict[str, list[dict[str, Any]]]:
    """`configuration` and `environment`: each key whose values are not the same in all runs, with the value of each run."""
    return {
        "configuration": _different(runs, lambda run: run.config),
        "environment": _different(runs, lambda run: run.environment),
    }


def _different(runs: Mapping[str, RunRecord], part: Callable[[RunRecord], Mapping[str, Any]]) -> list[dict[str, Any]]:
    flat = {name: {k: v for k, v in flatten(part(run)) if k not in IGNORED} for name, run in runs.items()}
    first, *others = flat.values()
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    different = [key for key in keys if any(values.get(key, ABSENT) != first.get(key, ABSENT) for values in others)]
    return [{"key": key, "values": {name: values.get(key, ABSENT) for name, values in flat.items()}} for key in different]
