"""Results on disk: metrics, scores of each query, and run files that other tools can recompute everything from."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stpipe.config.errors import DataError
from stpipe.config.file_names import file_name
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.examples import example_records
from stpipe.evaluation.significance import RowMetric, mean_interval, paired_bootstrap, row_difference, row_interval

AFTER = "after"
MAX_DECIMALS = 6


def write_evaluation(folder: Path, systems: Mapping[str, Evaluation]) -> None:
    """Write one evaluator's results, all files at once.

    metrics.json; per_query.jsonl where there are scores of each query; per_row.jsonl where the primary metric is no mean over
    queries (label of each row, and what each system says of it); run.trec of the system `after` (or of the only one),
    run_SYSTEM.trec of the others; qrels.trec; details.json where systems tell of distributions; examples.json with what was found
    for a few queries; a folder for each inner evaluator. An existing folder is replaced.

    Args:
        folder: evaluation/NAME of a run directory.
        systems: system ("before", "after", "bm25", ...) -> its result on the same data.
    """
    folder = Path(folder)
    aside = folder.with_name(f".writing-{folder.name}-{os.getpid()}")
    old = folder.with_name(f".replaced-{folder.name}-{os.getpid()}")
    try:
        _write_files(aside, systems)
        _replace(folder, aside, old)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`, which moves to `old`; on failure it is back where it was."""
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise


def _write_files(folder: Path, systems: Mapping[str, Evaluation]) -> None:
    folder.mkdir(parents=True)
    main = systems.get(AFTER) or next(iter(systems.values()))
    _write(folder / "metrics.json", [json.dumps(summary(systems), indent=1, allow_nan=False)])
    if main.per_query is not None:
        lines = query_records(systems)
        _write(folder / "per_query.jsonl", (json.dumps(line, allow_nan=False) for line in lines))
    if main.resample is not None:
        _write(folder / "per_row.jsonl", (json.dumps(line, allow_nan=False) for line in row_records(systems, main.resample)))
    for name, result in systems.items():
        if result.run is not None:
            _write(folder / ("run.trec" if result is main else f"run_{file_name(name)}.trec"), run_lines(result.run, tag=name))
    if main.qrels is not None:
        _write(folder / "qrels.trec", qrels_lines(main.qrels))
    details = {name: dict(result.details) for name, result in systems.items() if result.details}
    if details:
        _write(folder / "details.json", [json.dumps(details, allow_nan=False)])
    examples = example_records(systems, main=main)
    if examples:
        _write(folder / "examples.json", [json.dumps(examples, indent=1, allow_nan=False)])
    for name in main.parts:
        _write_files(folder / file_name(name), {system: result.parts[name] for system, result in systems.items() if name in result.parts})


def summary(systems: Mapping[str, Evaluation]) -> dict[str, Any]:
    """The content of metrics.json; undefined values are null."""
    main = systems.get(AFTER) or next(iter(systems.values()))
    counts = {"num_queries": main.num_queries, "num_rows": main.num_rows}
    return {
        "evaluator": main.evaluator,
        "primary": main.primary,
        **{key: count for key, count in counts.items() if count is not None},
        **({"row_metric": main.resample.metric.__name__} if main.resample is not None else {}),
        "systems": {name: {metric: finite(value) for metric, value in result.metrics.items()} for name, result in systems.items()},
        "intervals": intervals(systems, main=main),
        "differences": differences(systems),
    }


def intervals(systems: Mapping[str, Evaluation], *, main: Evaluation) -> dict[str, dict[str, Any]]:
    """System -> 95 % interval of its primary metric, by resampling queries or rows; systems without such scores are absent."""
    found = {}
    for name, result in systems.items():
        interval = None
        if result.per_query and result.query_metric is not None:
            scores = [line[result.query_metric] for line in result.per_query]
            interval = mean_interval(scores) if all(map(math.isfinite, scores)) else None
        elif result.resample is not None and math.isfinite(result.primary_value):
            interval = row_interval(result.resample)
        if interval is not None:
            found[name] = {"metric": main.primary, "low": interval[0], "high": interval[1]}
    return found


def differences(systems: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Paired bootstrap of `after` against each other system over the primary metric; empty without scores of queries or rows."""
    main = systems.get(AFTER)
    if main is not None and main.resample is not None:
        return _row_differences(main, systems)
    if main is None or main.per_query is None or main.query_metric is None:
        return {}
    found = {}
    for name, other in systems.items():
        if name != AFTER and other.per_query is not None:
            key = main.query_metric
            scores = {line["query_id"]: line[key] for line in other.per_query}
            if scores.keys() != {line["query_id"] for line in main.per_query}:
                raise DataError(f"systems after and {name} were not evaluated on the same queries, so they cannot be compared")
            result = paired_bootstrap([line[key] for line in main.per_query], [scores[line["query_id"]] for line in main.per_query])
            found[f"{AFTER}-{name}"] = {"metric": main.primary, **asdict(result)}
    return found


def _row_differences(main: Evaluation, systems: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Differences of a metric that is no mean over queries."""
    found = {}
    for name, other in systems.items():
        if name != AFTER and main.resample is not None and other.resample is not None:
            result = row_difference(main.resample, other.resample)
            if result is not None:
                found[f"{AFTER}-{name}"] = {"metric": main.primary, **asdict(result)}
    return found


def query_records(systems: Mapping[str, Evaluation]) -> Iterator[dict[str, Any]]:
    """The lines of per_query.jsonl: a query and what each system scored on it."""
    by_system = {
        name: {line["query_id"]: line for line in result.per_query} for name, result in systems.items() if result.per_query is not None
    }
    texts = {key: line["query"] for lines in by_system.values() for key, line in lines.items()}
    for query_id, text in texts.items():
        values = {name: _scores(lines[query_id]) for name, lines in by_system.items() if query_id in lines}
        yield {"query_id": query_id, "query": text, "systems": values}


def row_records(systems: Mapping[str, Evaluation], main: RowMetric) -> Iterator[dict[str, Any]]:
    """The lines of per_row.jsonl: the label of a row, and what each system says of it, one number for each column of its metric."""
    columns = {name: result.resample.columns[1:] for name, result in systems.items() if result.resample is not None}
    for row, label in enumerate(main.columns[0]):
        said = {name: [finite(values[row].item()) for values in found] for name, found in columns.items() if len(found[0]) == len(main)}
        yield {"label": finite(label.item()), "systems": said}


def _scores(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: finite(value) for key, value in line.items() if key not in ("query_id", "query")}


def run_lines(run: Mapping[str, Mapping[str, float]], *, tag: str) -> Iterator[str]:
    """TREC run: query Q0 document rank score tag."""
    for query, docs in run.items():
        for rank, (doc, score) in enumerate(docs.items(), 1):
            yield f"{trec_id(query)} Q0 {trec_id(doc)} {rank} {score!r} {tag}"


def qrels_lines(qrels: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """TREC judgements: query 0 document grade.

    The format has whole grades only, so fractions are all multiplied by the least power of ten that makes them whole
    (0.3 and 1.0 become 3 and 10; at most six decimals are kept), which leaves nDCG as it is.
    """
    grades = {grade for docs in qrels.values() for grade in docs.values()}
    scale = next((10**d for d in range(MAX_DECIMALS) if all(_is_whole(grade * 10**d) for grade in grades)), 10**MAX_DECIMALS)
    for query, docs in qrels.items():
        for doc, grade in docs.items():
            yield f"{trec_id(query)} 0 {trec_id(doc)} {round(grade * scale)}"


def _is_whole(value: float) -> bool:
    return math.isclose(value, round(value), rel_tol=0, abs_tol=1e-9)


def trec_id(name: str) -> str:
    """An id without white space, which separates the fields of TREC files; as in a URL, so that it can be undone."""
    return name if name and not any(c.isspace() or c == "%" for c in name) else quote(name, safe="") or "%"


def finite(value: Any) -> Any:
    """The value, None for NaN and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
