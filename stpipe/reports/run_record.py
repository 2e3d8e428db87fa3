"""Everything that a run directory says, read once. Card and report are made from this and from nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stpipe.config.errors import ConfigError
from stpipe.reports.metrics_log import MetricsLog, read_lines, read_metrics

SYSTEMS = ("before", "after", "base", "bm25")
NOT_METRICS = frozenset({"rank"})
HIDDEN = r"(^|/)\."  # left behind by a run that was killed while it wrote


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference `system` minus `against` of one metric: mean, 95 % interval and p of a paired bootstrap."""

    system: str
    against: str
    metric: str
    mean: float
    low: float
    high: float
    p: float | None = None


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """Scores of one query: system -> metric -> value."""

    query_id: str
    text: str
    systems: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class RowScores:
    """What lies behind a metric that is no mean over queries: its name (evaluation/row_metrics.py), the labels of N rows, and system ->
    columns of N numbers."""

    metric: str
    labels: tuple[float, ...]
    systems: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class EvaluationRecord:
    """The final evaluation of one evaluator; metric names are without the evaluator's own name in front.

    name: as in the configuration; of an evaluator inside another OUTER/INNER;
    unit: what `count` counts ("queries" or "rows"); query_metric: the metric of `queries` that belongs to the primary
    one, None when there are no scores per query; intervals: system -> 95 % interval of its primary metric; details: system ->
    distributions behind its metrics (evaluation/details.py); examples: what was found for some queries (evaluation/examples.py);
    rows: where the primary metric is no mean over queries.
    """

    name: str
    evaluator: str
    primary: str
    count: int | None
    unit: str
    systems: Mapping[str, Mapping[str, float]]
    differences: tuple[Difference, ...]
    queries: tuple[QueryRecord, ...]
    query_metric: str | None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()
    rows: RowScores | None = None

    def full_name(self, metric: str) -> str:
        """The metric as metrics.jsonl and trainer.best_metric call it; an inner evaluator has its outer one in front."""
        return f"{self.name.replace('/', '_')}_{metric}"

    def value(self, system: str, metric: str | None = None) -> float | None:
        """A system's value of a metric (the primary one when not named), None when it was not measured."""
        return self.systems.get(system, {}).get(metric or self.primary)

    def difference(self, system: str, against: str) -> Difference | None:
        """The recorded difference of two systems, None when it was not tested."""
        return next((d for d in self.differences if (d.system, d.against) == (system, against)), None)


@dataclass(frozen=True)
class RunRecord:
    """The files of a run directory as plain values. A file that is absent or unreadable is an empty mapping, named in `missing`.

    recipe: recipe.json (config/recipe_changes.py), empty where there is none; exports: a row for each verification.json
    (export/table.py).
    """

    directory: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    status: Mapping[str, Any]
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    log: MetricsLog
    evaluations: tuple[EvaluationRecord, ...] = ()
    missing: tuple[str, ...] = field(default_factory=tuple)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    exports: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """run.name, or the name of the directory."""
        return str(self.section("run").get("name") or self.directory.name)

    def section(self, key: str) -> Mapping[str, Any]:
        """A section of the configuration; empty when it is absent."""
        return mapping(self.config.get(key))

    def evaluation(self, name: str) -> EvaluationRecord | None:
        """The evaluation of an evaluator by its name in the configuration."""
        return next((e for e in self.evaluations if e.name == name), None)


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def read_run(directory: Path) -> RunRecord:
    """Read a run directory in whatever state the run left it; only a directory without any run is an error."""
    if not directory.is_dir():
        raise ConfigError(f"'{directory}' is not a directory. Expected: the directory of a run (run.dir), as `stpipe train` printed it")
    files = ("config.yaml", "environment.json", "status.json", "plan.json", "data.json")
    loaded = {name: _read_mapping(directory / name) for name in files}
    if loaded["config.yaml"] is None and loaded["status.json"] is None:
        raise ConfigError(
            f"'{directory}' holds no run: neither config.yaml nor status.json can be read. Name the directory of a run (run.dir)"
        )
    config = loaded["config.yaml"] or {}
    return RunRecord(
        directory=directory,
        config=config,
        environment=loaded["environment.json"] or {},
        status=loaded["status.json"] or {},
        plan=loaded["plan.json"] or {},
        data=loaded["data.json"] or {},
        log=read_metrics(directory / "metrics.jsonl"),
        evaluations=_read_evaluations(directory / "evaluation", tuple(mapping(config.get("evaluator")))),
        missing=tuple(name for name, content in loaded.items() if content is None),
        recipe=_read_mapping(directory / "recipe.json") or {},
        exports=read_exports(directory),
    )


def read_exports(directory: Path) -> tuple[Mapping[str, Any], ...]:
    """Rows about the verified and the rejected exports of a run; none where there are none."""
    if not (directory / "exports").is_dir():
        return ()
    from stpipe.export.table import verification_rows  # its package brings torch, which a run without exports does not need

    return tuple(verification_rows(directory))


def _read_mapping(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _read_evaluations(root: Path, order: tuple[str, ...]) -> tuple[EvaluationRecord, ...]:
    paths = (path.parent for path in sorted(root.glob("**/metrics.json")))
    found = {name: path for path in paths if not re.search(HIDDEN, name := path.relative_to(root).as_posix())}
    names = [n for n in order if n in found] + [n for n in found if n not in order]
    read = (_read_evaluation(name, found[name]) for name in names)
    return tuple(e for e in read if e is not None)


def _read_evaluation(name: str, directory: Path) -> EvaluationRecord | None:
    raw = _read_mapping(directory / "metrics.json")
    if raw is None:
        return None
    systems = {system: _metrics(name, values) for system, values in mapping(raw.get("systems")).items()}
    primary = _strip(name, str(raw.get("primary") or next(iter(systems.get("after", {})), "")))
    queries = tuple(_query(line) for line in read_lines(directory / "per_query.jsonl"))
    unit = "queries" if "num_queries" in raw else "rows"
    count = raw.get(f"num_{unit}")
    return EvaluationRecord(
        name=name,
        evaluator=str(raw.get("evaluator") or "unknown"),
        primary=primary,
        count=int(count) if isinstance(count, int | float) else None,
        unit=unit,
        systems={s: systems[s] for s in (*(s for s in SYSTEMS if s in systems), *(s for s in systems if s not in SYSTEMS))},
        differences=tuple(_differences(name, mapping(raw.get("differences")))),
        queries=queries,
        query_metric=_query_metric(primary, queries),
        intervals=_intervals(mapping(raw.get("intervals"))),
        details={s: mapping(found) for s, found in (_read_mapping(directory / "details.json") or {}).items()},
        examples=_read_examples(directory / "examples.json"),
        rows=_read_rows(directory / "per_row.jsonl", raw.get("row_metric")),
    )


def _read_rows(path: Path, metric: Any) -> RowScores | None:
    lines = list(read_lines(path))
    if not metric or not lines:
        return None
    said = {system: [mapping(line.get("systems")).get(system) for line in lines] for system in mapping(lines[0].get("systems"))}
    whole = {system: tuple(tuple(map(_number, column)) for column in zip(*rows, strict=True)) for system, rows in said.items() if all(rows)}
    return RowScores(str(metric), tuple(_number(line["label"]) for line in lines), whole)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _intervals(raw: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    numbers = {system: _metrics("", values) for system, values in raw.items()}
    return {system: (found["low"], found["high"]) for system, found in numbers.items() if {"low", "high"} <= set(found)}


def _read_examples(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(e for e in found if isinstance(e, Mapping) and "query_id" in e) if isinstance(found, list) else ()


def _strip(name: str, metric: str) -> str:
    return metric.removeprefix(f"{name}_")


def _metrics(name: str, values: Any) -> dict[str, float]:
    numbers = {k: v for k, v in mapping(values).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {_strip(name, k): float(v) for k, v in numbers.items()}


def _differences(name: str, raw: Mapping[str, Any]) -> list[Difference]:
    found = []
    for pair, values in raw.items():
        system, _, against = pair.partition("-")
        numbers = _metrics("", values)
        if against and {"mean", "low", "high"} <= set(numbers):
            metric = _strip(name, str(mapping(values).get("metric", "")))
            found.append(Difference(system, against, metric, numbers["mean"], numbers["low"], numbers["high"], numbers.get("p")))
    return found


def _query(line: Mapping[str, Any]) -> QueryRecord:
    systems = {system: _metrics("", values) for system, values in mapping(line.get("systems")).items()}
    return QueryRecord(str(line.get("query_id", "")), str(line.get("query", "")), systems)


def _query_metric(primary: str, queries: tuple[QueryRecord, ...]) -> str | None:
    """The key of the primary metric in the scores per query, which may leave out the similarity in front."""
    keys = {key for q in queries[:1] for values in q.systems.values() for key in values} - NOT_METRICS
    exact = [k for k in sorted(keys, key=len, reverse=True) if primary == k or primary.endswith(f"_{k}")]
    return next(iter(exact or sorted(keys)), None)
