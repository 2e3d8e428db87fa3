"""Verification of an export: run in a fresh process, compared with the model on real texts, on the task's metric, in time and size."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import unknown_name
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.run import greater_is_better
from stpipe.evaluation.scoring import outputs_of
from stpipe.evaluation.significance import Difference, paired_bootstrap, row_difference
from stpipe.export.base import Export, Written, problems_of, sizes
from stpipe.export.drift import drift, drift_of_similarities, overall
from stpipe.export.exported import ExportedModel, exported_model
from stpipe.export.probes import Probe, probes
from stpipe.export.process import Fresh, versions
from stpipe.export.source import Source
from stpipe.models import CrossEncoder

BATCHES = (1, 32)
REPEATS = 5
NO_EVALUATOR = "none"
WEIGHTS = ("*.safetensors", "*.bin")


class Verifier:
    """Compares exports with one model; what the model itself gives is computed once for all of them.

    source: the model, its texts and evaluators.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.scores = isinstance(source.model, CrossEncoder)
        self._evaluations: dict[str, Evaluation] = {}
        self._embeddings: dict[tuple[Any, ...], Tensor] = {}
        self._latency: dict[str, Any] | None = None

    def verify(self, name: str, export: Export, written: Written, folder: Path) -> dict[str, Any]:
        """The content of verification.json; `passed` says whether everything is within the tolerances."""
        with Fresh(written.command, folder=folder) as fresh:
            model = exported_model(self.source.model, fresh, takes=written.takes)
            compared = self.compare(model, export, own_space=written.own_space)
            metric = self.metric(name, model, export)
            latency = self.latency(fresh) if written.takes == "texts" else None
            loaded = fresh.ask("facts")["modules"]
        limits = export.limits(scores=self.scores)
        drop = None if metric is None else metric["drop"]
        worst = compared["overall"]
        values = {**{key: worst[key] for key in ("mean_cosine", "spearman")}, "max_abs": compared["max_abs"], "metric_drop": drop}
        problems = problems_of(values, limits, finite=worst["finite"])
        return {
            "passed": not problems,
            "problems": problems,
            "tolerance": limits,
            "drift": {**compared, "max_abs": worst["max_abs"]},
            "metric": metric,
            "latency_ms": latency,
            "size": dict(zip(("model", "export"), written.size or (self.model_size(), sizes(folder, written.weights)), strict=True)),
            "facts": written.facts,
            "runs_with": versions(loaded),
            "modules": sorted(loaded),
            "machine": {"processor": processor(), "threads": torch.get_num_threads(), "cores": os.cpu_count()},
        }

    # Drift

    def compare(self, model: ExportedModel, export: Export, *, own_space: bool = False) -> dict[str, Any]:
        """Differences on the probes, for each batch size and prompt, and over all of them. own_space: of similarities only."""
        found, by_batch, prompts = [], {}, []
        tried = probes(self.source, count=export.probes)
        for batch_size in BATCHES:
            parts = []
            for probe in tried:
                wanted = self.wanted(probe, export.probes)
                given = model.run(probe.inputs, prompt=probe.prompt, task=probe.task, batch_size=batch_size, sort=False)
                parts.append(drift_of_similarities(wanted, given) if own_space else drift(wanted, given, scores=self.scores))
                prompts.append(probe.prompt)
            by_batch[str(batch_size)] = overall(parts).as_json()
            found += parts
        lengths = [length for probe in tried for length in probe.lengths]
        worst = overall(found)
        return {
            "overall": worst.as_json(),
            "max_abs": worst.max_abs,
            "batches": by_batch,
            "prompts": list(dict.fromkeys(prompts)),
            "routes": list(dict.fromkeys(probe.task for probe in tried if probe.task)),
            "texts": sum(len(probe.inputs) for probe in tried),
            "lengths": [min(lengths), max(lengths)],
        }

    def wanted(self, probe: Probe, count: int) -> Tensor:
        """What the model gives for the inputs of a probe."""
        key = (probe.prompt, probe.task, count)
        if key not in self._embeddings:
            self._embeddings[key] = self.of_model(probe.inputs, probe.prompt, probe.task)
        return self._embeddings[key]

    def of_model(self, inputs: Sequence[Any], prompt: str, task: str | None, *, batch_size: int = 32) -> Tensor:
        """Embeddings or scores by the model itself."""
        model: Any = self.source.model
        options: dict[str, Any] = {"prompt": prompt, "batch_size": batch_size, "convert_to_tensor": True, "show_progress_bar": False}
        found: Tensor = model.predict(list(inputs), **options) if self.scores else model.encode(list(inputs), **options, **task_of(task))
        return found.detach().clone()

    # The task's metric

    def metric(self, name: str, model: ExportedModel, export: Export) -> dict[str, Any] | None:
        """Change of the primary metric of an evaluator with its interval; None where there is no evaluator."""
        evaluators = self.source.evaluators
        if not evaluators or export.evaluator == NO_EVALUATOR:
            return None
        chosen = export.evaluator or next(iter(evaluators))
        if chosen not in evaluators:
            raise ConfigError(Problem(f"export.{name}.evaluator", unknown_name("evaluator", chosen, [*evaluators, NO_EVALUATOR])))
        before, after = self.evaluation(chosen), self.evaluate(chosen, model)
        primary = before.primary
        higher = greater_is_better(
            evaluators,
            f"{chosen}_{primary}",
            similarity=self.source.model.similarity_fn_name,
            kind=self.source.model.kind,
            outputs=outputs_of(self.source.model),
        )
        change = after.primary_value - before.primary_value
        interval = difference_of(after, before)
        return {
            "name": f"{chosen}_{primary}",
            "model": before.primary_value,
            "export": after.primary_value,
            "difference": change,
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "count": before.num_queries or before.num_rows,
            "drop": -change if higher else change,
        }

    def evaluation(self, name: str) -> Evaluation:
        """What the model itself does, computed once."""
        if name not in self._evaluations:
            self._evaluations[name] = self.evaluate(name, self.source.model)
        return self._evaluations[name]

    def evaluate(self, name: str, model: Any) -> Evaluation:
        evaluator = self.source.evaluators[name]
        quiet = {key: None for key in ("bm25",) if hasattr(evaluator, key)}
        return replace(evaluator, **quiet).evaluate(model, self.source.rows, batch_size=self.source.batch_size)

    # Time and size

    def latency(self, fresh: Fresh) -> dict[str, Any]:
        """Median milliseconds for a batch of real texts, by batch size, of the model in torch and of the export."""
        if self._latency is None:
            self._latency = {str(n): median(self.time_model(self.timed(n))) for n in BATCHES}
        found = {}
        for n in BATCHES:
            times = fresh.ask("latency", inputs=list(self.timed(n)), batch_size=n, repeats=REPEATS, prompt="", task=self.task)[
                "milliseconds"
            ]
            found[str(n)] = {"torch": self._latency[str(n)], "export": median(times)}
        return found

    @property
    def task(self) -> str | None:
        """A route for timing: that of documents where there are routes."""
        routes = self.source.model.encoder.routes
        return None if not routes else "document" if "document" in routes else routes[0]

    def timed(self, count: int) -> Sequence[Any]:
        """Inputs that are timed: real ones around the median length."""
        inputs = sorted(self.source.inputs, key=lambda item: len(item) if isinstance(item, str) else sum(map(len, item)))
        start = max(0, (len(inputs) - count) // 2)
        chosen = inputs[start : start + count]
        return [chosen[i % len(chosen)] for i in range(count)]

    def time_model(self, inputs: Sequence[Any]) -> list[float]:
        times = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            self.of_model(inputs, "", self.task, batch_size=len(inputs))
            times.append(1000 * (time.perf_counter() - began))
        return times[1:]

    def model_size(self) -> int:
        """Bytes of the weights that the model was loaded from."""
        return sum(path.stat().st_size for pattern in WEIGHTS for path in self.source.directory.rglob(pattern))


def task_of(task: str | None) -> dict[str, str]:
    return {} if task is None else {"task": task}


def difference_of(after: Evaluation, before: Evaluation) -> Difference | None:
    """The paired difference of the primary metric with its interval; None where there are no values of queries or rows."""
    if after.resample is not None and before.resample is not None:
        return row_difference(after.resample, before.resample)
    key = before.query_metric
    if key is None or not before.per_query or not after.per_query:
        return None
    scores = {line["query_id"]: line[key] for line in before.per_query}
    return paired_bootstrap([line[key] for line in after.per_query], [scores[line["query_id"]] for line in after.per_query], resamples=2000)


def processor() -> str:
    """Name of the processor, for a table of times."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
