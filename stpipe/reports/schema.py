"""The configuration schema that a run was made with, for its defaults and for the directions of its metrics."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from stpipe.config.errors import ConfigError
from stpipe.config.metrics import Better, Outputs, configured_metrics
from stpipe.config.schema import component, load_schema
from stpipe.reports.run_record import RunRecord, mapping

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
OUTPUTS: tuple[Outputs, ...] = ("one", "classes")


def run_schema(record: RunRecord) -> Mapping[str, Any]:
    """The schema with the run's own modules; without them where they can no longer be imported."""
    imports = tuple(map(str, record.config.get("imports") or ()))
    try:
        return load_schema(imports)
    except (ImportError, ConfigError):
        return load_schema()


def metric_directions(record: RunRecord, schema: Mapping[str, Any]) -> dict[str, Better]:
    """Full metric name -> "higher", "lower" or None (no good side); metrics of unknown evaluators are absent."""
    whole = dict(schema)

    def facts_of(name: str) -> Mapping[str, Any]:
        found = component(whole, "evaluator", name) or {}
        return mapping(found.get("x-metrics"))

    model = component(whole, "model", record.section("model").get("name")) or {}
    kind = str(model.get("x-kind") or "dense")
    directions: dict[str, Better] = {}
    for name, values in record.section("evaluator").items():
        for similarity, outputs in itertools.product(SIMILARITIES, OUTPUTS):
            try:
                metrics = configured_metrics(mapping(values), facts_of, similarity=similarity, kind=kind, outputs=outputs)
            except (ConfigError, KeyError):
                continue
            directions.update(metrics.prefixed(name).better)
    return directions
