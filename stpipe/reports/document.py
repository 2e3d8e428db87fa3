"""report.json: every number of the report as plain JSON. The page is drawn from this document alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from stpipe import __version__
from stpipe.config.metrics import Better
from stpipe.reports.changes import changed_keys
from stpipe.reports.quality import evaluation_section
from stpipe.reports.run_record import EvaluationRecord, RunRecord, mapping
from stpipe.reports.schema import metric_directions, run_schema
from stpipe.reports.standings import standings
from stpipe.reports.trade_offs import trade_offs
from stpipe.reports.training import throughput_section, throughput_warning, training_section

SCHEMA_VERSION = 1
#: Systems whose distributions are shown; those of the others are on scales of their own.
MODELS = ("before", "after")
DETAILS = ("scores", "calibration", "by_label", "confusion")


def build_document(record: RunRecord) -> dict[str, Any]:
    """The report of a run. What the run did not record is None or empty, never a guess."""
    schema = run_schema(record)
    directions = metric_directions(record, schema)
    training, throughput = training_section(record, directions), throughput_section(record)
    document = {
        "schema_version": SCHEMA_VERSION,
        "generator": f"stpipe {__version__}",
        "run": _run(record),
        "plan": record.plan,
        "training": training,
        "throughput": throughput,
        "evaluations": [_evaluation(e, record, training, directions) for e in record.evaluations],
        "trade_offs": trade_offs(record),
        "exports": list(record.exports),
        "data": {"sources": mapping(record.environment.get("data")), "scan": record.data},
        "configuration": {
            "recipe": record.recipe.get("recipe"),
            "recipe_changes": [c for c in record.recipe.get("changes") or () if "key" in mapping(c)],
            "changed": [c.as_dict() for c in changed_keys(record.config, schema)],
            "values": record.config,
        },
        "environment": {k: v for k, v in record.environment.items() if k != "data"},
        "warnings": _warnings(record, training, throughput),
    }
    return plain(document)


def plain(value: Any) -> Any:
    """`value` as strict JSON: NaN and infinities become None, keys and unknown objects strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair, which texts of data may hold, is no UTF-8
    return value if value is None or isinstance(value, int) else str(value)


def seconds_between(started: Any, finished: Any) -> float | None:
    """Seconds from one time to another, each a number (seconds since 1970) or an ISO 8601 text."""
    begin, end = _timestamp(started), _timestamp(finished)
    return end - begin if begin is not None and end is not None else None


def _timestamp(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _evaluation(
    evaluation: EvaluationRecord, record: RunRecord, training: Mapping[str, Any], directions: Mapping[str, Better]
) -> dict[str, Any]:
    """What one evaluator found: metrics and tests, then what lies behind them."""
    kept = training["best"]["step"] if training["best"] else record.status.get("step")
    better = directions.get(evaluation.full_name(evaluation.primary), "higher")
    details = {system: evaluation.details[system] for system in MODELS if system in evaluation.details}
    return {
        **evaluation_section(evaluation, directions),
        "standings": standings(evaluation, record.log, kept=kept, better=better),
        **{kind: {s: found[kind] for s, found in details.items() if kind in found} for kind in DETAILS},
        "examples": list(evaluation.examples),
    }


def _run(record: RunRecord) -> dict[str, Any]:
    status = record.status
    # Without the one that writes this: it has not ended yet.
    stages = [{"name": name, **mapping(stage)} for name, stage in mapping(status.get("stages")).items() if name != "report"]
    command = status.get("command")
    return {
        "name": record.name,
        "state": str(status.get("state") or "unknown"),
        "exit_code": status.get("exit_code"),
        "step": status.get("step"),
        "num_steps": status.get("num_steps") or record.plan.get("steps"),
        "started": status.get("started"),
        "finished": status.get("finished"),
        "seconds": seconds_between(status.get("started"), status.get("finished")),
        "command": " ".join(map(str, command)) if isinstance(command, list) else command,
        "error": error_text(status.get("error")),
        "stages": [{"name": s["name"], "state": s.get("state"), "seconds": s.get("seconds")} for s in stages],
        "missing": list(record.missing),
    }


def error_text(error: Any) -> str | None:
    """The error of status.json as text: it may be a text or a mapping with a message."""
    if not error:
        return None
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)


def _warnings(record: RunRecord, training: dict[str, Any], throughput: dict[str, Any]) -> list[str]:
    """Warnings of the run, then those that the numbers themselves give; each once."""
    found = [str(w) for part in (record.status, record.plan, record.data) for w in part.get("warnings") or ()]
    if training["not_finite"]:
        found.append(f"the loss was not a number in {training['not_finite']} logged windows")
    if training["broken_lines"]:
        found.append(f"{training['broken_lines']} lines of metrics.jsonl could not be read and are left out")
    slower = throughput_warning(throughput)
    return list(dict.fromkeys([*found, slower] if slower else found))
