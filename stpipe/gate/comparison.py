"""compare.json: several runs against the first of them, every number of the comparison as plain JSON. Text and page are drawn from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stpipe import __version__
from stpipe.config.errors import ConfigError
from stpipe.config.metrics import Better
from stpipe.evaluation.significance import holm
from stpipe.gate.paired_test import NotComparableError, Resampling
from stpipe.gate.pairing import Side, pair_up
from stpipe.gate.setting import different_settings
from stpipe.reports.document import plain
from stpipe.reports.quality import query_changes
from stpipe.reports.run_record import RunRecord
from stpipe.reports.schema import metric_directions, run_schema
from stpipe.reports.training import throughput_section

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Question:
    """What is compared, and what counts as a failure.

    system: of each evaluation ("after", "before", ...); metric: one with scores of each query, None is each evaluator's primary one;
    common: compare the queries that both runs have where their sets differ; max_drop: a run fails where it is worse than the baseline
    by more than this and its interval leaves out zero, None never fails; strict: it fails without looking at the interval, and where
    it cannot be compared.
    """

    system: str = "after"
    metric: str | None = None
    common: bool = False
    max_drop: float | None = None
    strict: bool = False
    resampling: Resampling = field(default_factory=Resampling)


def compare(runs: Mapping[str, RunRecord], question: Question | None = None) -> dict[str, Any]:
    """Every run against the first.

    Args:
        runs: at least two, by the names they are shown under; the first is the baseline.
        question: what is compared.

    Raises:
        ConfigError: fewer than two runs, or no evaluation that two of them have in common.
    """
    question = question or Question()
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs; found {len(runs)}")
    names = list(runs)
    evaluators = dict.fromkeys(e.name for run in runs.values() for e in run.evaluations)
    directions = _directions(runs.values())
    evaluations = [_evaluation(name, runs, directions, question) for name in evaluators]
    _adjust(evaluations)
    if not any(e["tests"] or e["not_comparable"] for e in evaluations):
        has = "; ".join(f"{name}: {', '.join(e.name for e in run.evaluations) or 'none'}" for name, run in runs.items())
        raise ConfigError(f"no evaluator has results of the system '{question.system}' in the baseline {names[0]}. Evaluations: {has}")
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "generator": f"stpipe {__version__}",
            "question": asdict(question),
            "baseline": names[0],
            "runs": [_run(name, run) for name, run in runs.items()],
            "evaluations": evaluations,
            "failures": failures(evaluations, question),
            **different_settings(runs),
        }
    )


def failures(evaluations: Iterable[Mapping[str, Any]], question: Question) -> list[str]:
    """A sentence for each run that lost more than `max_drop`; empty without one."""
    if question.max_drop is None:
        return []
    found = []
    for e in evaluations:
        for t in e["tests"]:
            if t["drop"] > question.max_drop and (question.strict or t["verdict"] == "worse"):
                interval = f"{t['low']:+.4f} to {t['high']:+.4f}"
                found.append(
                    f"{t['run']}: {e['name']} {t['metric']} is worse by {t['drop']:.4f} ({interval}); at most {question.max_drop:g} is allowed"
                )
        if question.strict:
            found += [f"{n['run']}: {e['name']} cannot be compared: {n['reason']}" for n in e["not_comparable"]]
    return found


def _directions(runs: Iterable[RunRecord]) -> dict[str, Better]:
    found: dict[str, Better] = {}
    for run in runs:
        found = {**metric_directions(run, run_schema(run)), **found}
    return found


def _evaluation(name: str, runs: Mapping[str, RunRecord], directions: Mapping[str, Better], question: Question) -> dict[str, Any]:
    """One evaluator: values of all runs, and a test of each against the baseline."""
    sides = {run: Side.of(run, record, name, question.system) for run, record in runs.items()}
    known = [side for side in sides.values() if side is not None]
    baseline, *others = sides.items()
    tests, missing, changes = [], [], []
    if baseline[1] is not None:
        for run, side in others:
            try:
                if side is None:
                    raise NotComparableError(f"the run has no results of the system {question.system} by this evaluator")
                tests.append(_test(side, baseline[1], directions, question))
                changes += _changes(side, baseline[1], tests[-1]["metric"])
            except NotComparableError as error:
                missing.append({"run": run, "reason": str(error)})
    first = known[0].record if known else None
    metrics = dict.fromkeys(m for side in known for m in side.record.systems[side.system])
    return {
        "name": name,
        "evaluator": first.evaluator if first else None,
        "primary": first.primary if first else None,
        "unit": first.unit if first else None,
        "count": first.count if first else None,
        "metrics": [
            {
                "name": metric,
                "better": directions.get(first.full_name(metric)) if first else None,
                "values": {side.run: side.value(metric) for side in known},
            }
            for metric in sorted(metrics, key=lambda m: first is None or m != first.primary)
        ],
        "tests": tests,
        "not_comparable": missing,
        "queries": changes,
    }


def _test(side: Side, baseline: Side, directions: Mapping[str, Better], question: Question) -> dict[str, Any]:
    pair = pair_up(side, baseline, metric=question.metric, common=question.common)
    record = baseline.record
    better = directions.get(record.full_name(record.primary), "higher")
    found = pair.test(better=better, resampling=question.resampling)
    return {"run": side.run, "against": baseline.run, "better": better, "drop": found.drop(better), **found.as_dict()}


def _changes(side: Side, baseline: Side, metric: str) -> list[dict[str, Any]]:
    """Query by query, the two runs as the two systems of one evaluation; nothing for metrics that are no means over queries."""
    old = baseline.queries(metric)
    queries = [
        replace(query, systems={side.run: query.systems[side.system], baseline.run: old[key].systems[baseline.system]})
        for key, query in side.queries(metric).items()
        if key in old and old[key].text == query.text
    ]
    merged = replace(baseline.record, queries=tuple(queries), query_metric=metric)
    found = query_changes(merged, side.run, baseline.run) if queries else None
    return [found] if found else []


def _adjust(evaluations: list[dict[str, Any]]) -> None:
    """p values of all tests together, by Holm's method: with ten evaluators one of twenty differences is luck."""
    tests = [test for e in evaluations for test in e["tests"]]
    for test, p in zip(tests, holm([t["p_bootstrap"] for t in tests]), strict=True):
        test["p_holm"] = p


def _run(name: str, run: RunRecord) -> dict[str, Any]:
    median = throughput_section(run)["median"]
    return {
        "name": name,
        "state": run.status.get("state"),
        "step": run.status.get("step"),
        "model": run.section("model").get("name_or_path"),
        "loss": run.section("loss").get("name"),
        "seed": run.section("trainer").get("seed"),
        "tokens_per_second": median.get("tokens_per_second"),
        "samples_per_second": median.get("samples_per_second"),
    }
