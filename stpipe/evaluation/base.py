"""What an evaluator is, and what it hands back.

An evaluator is a frozen dataclass of settings: a pure function from a model and held-out rows to an `Evaluation`. It
declares its metrics as templates (`metrics`), from which `validate` and the evaluator itself derive the same names.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.fields import option
from stpipe.config.metrics import MetricSet, Outputs, expand
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.encoding import EncodeOptions
from stpipe.evaluation.significance import RowMetric


@dataclass(frozen=True)
class Evaluation:
    """What one evaluator found about one system (a model, or a baseline such as BM25).

    metrics: metric -> value, NaN where the metric is undefined; primary: the one that stands for the evaluator;
    evaluator: its registered name; num_queries or num_rows: what the metrics are means over, the other is None;
    per_query: one dict a query with `query_id`, `query`, the metrics without the similarity function in front, and
    `rank` of the first relevant document (None when it was not found); of the primary similarity function, None for
    evaluators whose metrics are not means; query_metric: key in `per_query` that belongs to `primary`;
    run: query id -> document id -> score, best first and strictly falling, so that every tool sees the same order;
    qrels: query id -> document id -> grade; parts: results of inner evaluators by name; details: distributions behind the
    metrics (evaluation/details.py), plain JSON; resample: the primary metric of any sample of the rows, where it is no mean
    over queries; texts: document ids -> their texts.
    """

    metrics: dict[str, float]
    primary: str
    evaluator: str = "custom"
    num_queries: int | None = None
    num_rows: int | None = None
    per_query: list[dict[str, Any]] | None = None
    query_metric: str | None = None
    run: dict[str, dict[str, float]] | None = None
    qrels: dict[str, dict[str, float]] | None = None
    parts: Mapping[str, Evaluation] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)
    resample: RowMetric | None = field(default=None, compare=False, repr=False)
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None = field(default=None, compare=False, repr=False)

    @property
    def primary_value(self) -> float:
        """Value of the primary metric."""
        return self.metrics[self.primary]


@dataclass(frozen=True, kw_only=True)
class Evaluator(ABC):
    """Settings of one evaluation; calling it with a model and rows gives an `Evaluation`.

    Class attributes, all JSON: kinds of model ("dense", ...), formats of rows (config/formats.py), metrics
    (config/metrics.py: metric_facts), num_outputs ("one" when a cross-encoder must give one score for a pair, else None).
    """

    kinds: ClassVar[tuple[str, ...]] = ("dense",)
    formats: ClassVar[tuple[str, ...]]
    metrics: ClassVar[dict[str, Any]]
    num_outputs: ClassVar[str | None] = None

    source: str | None = option(None, help="Data set whose held-out rows are evaluated; None is the only one.")

    @abstractmethod
    def __call__(self, model: Any, rows: Rows, *, batch_size: int) -> Evaluation:
        """Evaluate `model`, an inference class of one of `kinds`, on `rows`, `batch_size` texts (or pairs) a forward."""

    def evaluate(self, model: Any, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        """Evaluate `model` on the data set that `source` names among `sources` (name -> held-out rows)."""
        return self(model, self.pick(sources), batch_size=batch_size)

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        """What systems without a model do on the same data, under the metric names of a model with this similarity function.

        "bm25" is BM25, "base" the order that the data give, a retriever's. Empty when this evaluator does not rank
        documents, or its settings turn baselines off.
        """
        return {}

    def metric_set(self, *, similarity: str, kind: str = "dense", outputs: Outputs = "one") -> MetricSet:
        """Names, directions and primary metric for a model of this kind with this similarity function.

        outputs: whether a cross-encoder gives one score for a pair, or one for each class.
        """
        children = self._children(similarity, kind, outputs)
        return expand(self.metrics, self._values(), similarity=similarity, kind=kind, outputs=outputs, children=children)

    def metric_names(self, *, similarity: str, kind: str = "dense", outputs: Outputs = "one") -> tuple[str, ...]:
        """The keys that `Evaluation.metrics` will have."""
        return self.metric_set(similarity=similarity, kind=kind, outputs=outputs).names

    def primary(self, *, similarity: str, outputs: Outputs = "one") -> str:
        """The metric that stands for this evaluator."""
        return self.metric_set(similarity=similarity, outputs=outputs).primary

    def greater_is_better(self, metric: str, *, similarity: str, kind: str = "dense", outputs: Outputs = "one") -> bool:
        """True when a larger value is a better model."""
        return self.metric_set(similarity=similarity, kind=kind, outputs=outputs).greater_is_better(metric)

    def pick(self, sources: Mapping[str, Rows]) -> Rows:
        """The rows this evaluator reads: of the data set `source`, or of the only one."""
        if self.source is not None:
            if self.source not in sources:
                raise ConfigError(f"evaluator source '{self.source}' is no data set with held-out rows; there are: {_list(sources)}")
            return sources[self.source]
        if len(sources) != 1:
            raise ConfigError(f"{self._name()} needs `source`: which of the data sets to evaluate on ({_list(sources)})")
        return next(iter(sources.values()))

    def check(self, rows: Rows) -> None:
        """Refuse rows of a format that this evaluator cannot read, and no rows at all."""
        if rows.format not in self.formats:
            raise ConfigError(
                f"{self._name()} cannot evaluate data set '{rows.name}': its format is {rows.format}, expected {_list(self.formats)}. "
                "Set another `source`, or another evaluator"
            )
        if len(rows) == 0:
            raise DataError(f"{self._name()} has no rows: the held-out part of data set '{rows.name}' is empty")

    def _name(self) -> str:
        cls = type(self)
        return next((name for name in EVALUATORS if EVALUATORS.get(name) is cls), cls.__name__)

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def _children(self, similarity: str, kind: str, outputs: Outputs) -> Mapping[str, MetricSet]:
        return {}


@dataclass(frozen=True, kw_only=True)
class EmbeddingEvaluator(Evaluator):
    """What evaluators of embeddings have in common: they take dense and sparse models, and may cut their embeddings."""

    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")

    truncate_dim: int | None = option(None, ge=1, help="Keep so many dimensions of dense embeddings; None is the model's setting.")
    max_active_dims: int | None = option(
        None, ge=1, help="Keep so many of the largest entries of each sparse embedding; None is the model's setting."
    )

    def options(self, batch_size: int) -> EncodeOptions:
        """How this evaluator's texts are encoded."""
        return EncodeOptions(batch_size, self.truncate_dim, self.max_active_dims)


def _list(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
