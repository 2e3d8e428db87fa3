"""Which configuration makes a run what it is: what must not change between a run and its continuation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: Keys that may differ when a run is continued: they change where and how it is shown, not what is computed.
FREE = (
    "run",
    "card",
    "callbacks",
    "tracker",
    "export",
    "publish",
    "slurm",
    "evaluator",
    "offline",
    "backend.num_processes",  # how many there are counts, not who started them (pipeline/resume.py)
    "dataset.cache_dir",
    "dataset.num_proc",
    "mine.cache_dir",
    "mine.output",
    "trainer.resume",
    "trainer.resume_allow",
    "trainer.progress",
    "trainer.preempt_signals",
    "trainer.grace_period",
    "trainer.num_workers",
    "trainer.log_steps",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.eval_batch_size",
    "trainer.probe_first_step",
    "trainer.evaluate_before",
)


#: What trainer.resume_allow may name -> keys that may then differ; the first that fits a key is meant.
ALLOWANCES: Mapping[str, re.Pattern[str]] = {
    "processes": re.compile(r"number of processes|backend\.name"),
    "batch_size": re.compile(r"trainer\.(batch_size|accumulation_steps)|dataset\.(sources\.[^.]+\.)?batch_size"),
    "data": re.compile(r"fingerprint of data '.*'|dataset\..*"),
    "versions": re.compile(r"version of .*"),
}
#: Backends whose checkpoints are alike: whole weights and a whole optimiser.
REPLICAS = frozenset({"single", "ddp"})

#: (key, old value, new value); None stands for a key that is absent.
Change = tuple[str, Any, Any]


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


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every key whose values differ, by name."""
    keys = sorted({*old, *new})
    return [(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]


def allowance(change: Change) -> str | None:
    """What trainer.resume_allow has to name for this change; None where no run can go on with it."""
    key, old, new = change
    if key == "backend.name" and not {old, new} <= REPLICAS:
        return None
    if key.startswith("fingerprint") and None in (old, new):
        return None  # another number of data sets has other objectives
    return next((name for name, keys in ALLOWANCES.items() if keys.fullmatch(key)), None)


def refused(changes: Iterable[Change], allowed: Iterable[str]) -> list[Change]:
    """The changes that `allowed`, the value of trainer.resume_allow, does not name."""
    named = set(allowed)
    return [change for change in changes if allowance(change) not in named]


def listed(changes: Iterable[Change], *, place: str) -> str:
    """A line for each change that was refused, with what would allow it.

    place: where the old values are.
    """
    lines = []
    for change in changes:
        key, old, new = change
        name = allowance(change)
        lines.append(f"  {key}: {old!r} in the {place}, {new!r} now" + ("" if name is None else f" (trainer.resume_allow=[{name}])"))
    return "\n".join(lines)
