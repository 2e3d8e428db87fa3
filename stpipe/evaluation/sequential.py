"""Several evaluators as one, with one score to choose a model by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.formats import FORMATS
from stpipe.config.metrics import MetricSet, Outputs, metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation, Evaluator

SCORE = "sequential_score"


@EVALUATORS.register("sequential", aliases=("SequentialEvaluator",))
@dataclass(frozen=True, kw_only=True)
class SequentialEvaluator(Evaluator):
    """Runs its evaluators in order; `sequential_score` is made of their primary metrics.

    Each inner metric appears as `{inner name}_{metric}`. The rows of each are those of its own `source`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse", "cross_encoder")
    formats: ClassVar[tuple[str, ...]] = tuple(FORMATS)
    metrics = metric_facts(metric(SCORE), children="evaluators")

    evaluators: Mapping[str, Evaluator] = option(help="Evaluators by name, in order.", component="evaluator")
    main_score: Literal["last", "mean"] = option("last", help="Which value of the primary metrics is sequential_score.")

    def __post_init__(self) -> None:
        if not self.evaluators:
            raise ConfigError("sequential: `evaluators` is empty; name at least one evaluator")

    def __call__(self, model: Any, rows: Rows, *, batch_size: int) -> Evaluation:
        return self._join({name: evaluator(model, rows, batch_size=batch_size) for name, evaluator in self.evaluators.items()})

    def evaluate(self, model: Any, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        return self._join({name: e.evaluate(model, sources, batch_size=batch_size) for name, e in self.evaluators.items()})

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        """Of the parts that have some. A score of some parts is no score of all, so it is NaN."""
        found = {name: e.baselines(sources, similarity=similarity) for name, e in self.evaluators.items()}
        systems = dict.fromkeys(system for by_system in found.values() for system in by_system)
        return {system: self._baseline({name: of[system] for name, of in found.items() if system in of}) for system in systems}

    def _baseline(self, parts: Mapping[str, Evaluation]) -> Evaluation:
        return Evaluation(prefixed(parts) | {SCORE: math.nan}, SCORE, evaluator=self._name(), parts=parts)

    def _join(self, parts: dict[str, Evaluation]) -> Evaluation:
        scores = [part.primary_value for part in parts.values()]
        score = scores[-1] if self.main_score == "last" else math.fsum(scores) / len(scores)
        return Evaluation(prefixed(parts) | {SCORE: score}, SCORE, evaluator=self._name(), parts=parts)

    def _children(self, similarity: str, kind: str, outputs: Outputs) -> Mapping[str, MetricSet]:
        return {name: e.metric_set(similarity=similarity, kind=kind, outputs=outputs) for name, e in self.evaluators.items()}


def prefixed(parts: Mapping[str, Evaluation]) -> dict[str, float]:
    """All metrics of all evaluations as `{evaluator name}_{metric}`."""
    return {f"{name}_{metric}": value for name, part in parts.items() for metric, value in part.metrics.items()}
