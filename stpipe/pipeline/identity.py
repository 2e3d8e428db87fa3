"""Which configuration makes a run what it is: what must not change between a run and its continuation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Keys that may differ when a run is continued: they change where and how it is shown, not what is computed.
FREE = (
    "run",
    "card",
    "callbacks",
    "tracker",
    "export",
    "publish",
    "evaluator",
    "offline",
    "backend.num_processes",  # how many there are counts, not who started them (pipeline/resume.py)
    "dataset.cache_dir",
    "dataset.num_proc",
    "mine.cache_dir",
    "mine.output",
    "trainer.resume",
    "trainer.progress",
    "trainer.num_workers",
    "trainer.log_steps",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.eval_batch_size",
    "trainer.probe_first_step",
    "trainer.evaluate_before",
)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key path, value) of every leaf; lists are leaves."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The training-relevant leaves of a decoded configuration."""
    return {k: v for k, v in flatten(values) if not any(k == free or k.startswith(f"{free}.") for free in FREE)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every key whose values differ; None stands for a key that is absent."""
    keys = sorted({*old, *new})
    return [(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]
