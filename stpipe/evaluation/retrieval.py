"""Search over a whole collection and the metrics of its rankings, for one collection or many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.metrics import cutoffs, metric, similarity_names
from stpipe.evaluation import metrics as formulas
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.bm25 import Tokens
from stpipe.evaluation.details import found_scores
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.examples import DocTexts
from stpipe.evaluation.judging import Grading, Judged, per_query, qrels_of, run_of
from stpipe.evaluation.ranking import Collection, Ranker
from stpipe.evaluation.search import EmbeddingSearch, Found
from stpipe.evaluation.sparsity import CURVE, CURVE_METRICS, SEARCH_METRICS, SPARSE, curve_values, search_values
from stpipe.ops.similarity import SimilarityName

RANKING_METRICS = (
    metric("{similarity}_ndcg@{k}", ks="ndcg_at_k"),
    metric("{similarity}_accuracy@{k}", ks="accuracy_at_k"),
    metric("{similarity}_precision@{k}", ks="precision_recall_at_k"),
    metric("{similarity}_recall@{k}", ks="precision_recall_at_k"),
    metric("{similarity}_mrr@{k}", ks="mrr_at_k"),
    metric("{similarity}_map@{k}", ks="map_at_k"),
)
#: All metrics of one collection, the primary one first.
RETRIEVAL_METRICS = (
    *RANKING_METRICS,
    *SEARCH_METRICS,
    metric("{similarity}_ndcg@{k}_at_{dims}_dims", ks="ndcg_at_k", kinds=SPARSE, over={"dims": CURVE}),
    *CURVE_METRICS,
)


@dataclass(frozen=True, kw_only=True)
class RetrievalEvaluator(EmbeddingEvaluator):
    """What is reported about exact search over collections, and how the search is done."""

    accuracy_at_k: tuple[int, ...] = option((1, 3, 5, 10), help="Cut-offs of accuracy: is any relevant document among the first k?")
    precision_recall_at_k: tuple[int, ...] = option((1, 3, 5, 10), help="Cut-offs of precision and recall.")
    mrr_at_k: tuple[int, ...] = option((10,), help="Cut-offs of the reciprocal rank of the first relevant document.")
    ndcg_at_k: tuple[int, ...] = option((10,), help="Cut-offs of nDCG; the largest is the primary metric.")
    map_at_k: tuple[int, ...] = option((100,), help="Cut-offs of average precision, divided by min(k, relevant documents).")
    similarities: tuple[SimilarityName, ...] | None = option(None, help="Similarity functions to rank by; None is the model's own.")
    main_similarity: SimilarityName | None = option(None, help="The one of the primary metric and of run files; None is the first.")
    active_dims_curve: tuple[int, ...] = option(
        (),
        help="For sparse models: numbers of dimensions, at each of which nDCG is also reported, with queries and documents "
        "cut to so many of their largest entries. Texts are encoded once for all of them.",
    )
    bm25: Tokens | None = option(
        "identifiers",
        help="Tokens of the BM25 baseline: words, or identifiers, which adds the parts of snake_case and camelCase words "
        "(on code a far stronger baseline, on prose the same); None is no baseline.",
    )
    corpus_chunk_size: int = option(10_000, ge=1, help="Documents encoded and held at a time. Bounds memory, never changes a rank.")
    query_chunk_size: int = option(256, ge=1, help="Queries scored at a time. Bounds memory, never changes a rank.")

    def grading(self) -> Grading:
        """What grades mean; by default every grade above 0 is relevant and is the gain."""
        return Grading()

    def find(self, model: EmbeddingModel, collection: Collection, *, batch_size: int) -> Found:
        """Search the collection with the model."""
        if self.active_dims_curve and model.kind not in SPARSE:
            raise ConfigError(f"{self._name()}: active_dims_curve is for sparse models, and this one is {model.kind}; remove it")
        search = EmbeddingSearch(
            model,
            similarity_names(self._values(), similarity=model.similarity_fn_name),
            batch_size=batch_size,
            truncate_dim=self.truncate_dim,
            max_active_dims=self.max_active_dims,
            corpus_chunk=self.corpus_chunk_size,
            query_chunk=self.query_chunk_size,
            curve=tuple(dict.fromkeys(self.active_dims_curve)),
        )
        return search.search_all(collection, depth=self._depth())

    def rank(self, ranker: Ranker, collection: Collection, *, similarity: str) -> Found:
        """Search with any ranker, under the names of a model with this similarity function."""
        ranking = ranker.search(collection, depth=min(self._depth(), len(collection.docs)))
        return Found(dict.fromkeys(similarity_names(self._values(), similarity=similarity), ranking))

    def score(self, collection: Collection, found: Found, *, evaluator: str, primary: str) -> Evaluation:
        """Metrics of a search. `primary` is the primary metric's name, `evaluator` the registered name that found it."""
        grading = self.grading()
        judged = {fn: grading.judge(collection, ranking) for fn, ranking in found.rankings.items()}
        by_function = {fn: self._ranking_values(result) for fn, result in judged.items()}
        lead: str = self.main_similarity or next(iter(found.rankings))
        values = {f"{fn}_{name}": float(value.mean()) for fn, by_name in by_function.items() for name, value in by_name.items()}
        return Evaluation(
            metrics={**values, **search_values(found.queries, found.docs), **self._curve(collection, found, grading)},
            primary=primary,
            evaluator=evaluator,
            num_queries=len(collection.queries),
            per_query=per_query(collection, judged[lead], by_function[lead]),
            query_metric=primary.removeprefix(f"{lead}_"),
            run=run_of(collection, found.rankings[lead]),
            qrels=qrels_of(collection),
            details={"scores": found_scores(found.rankings[lead], judged[lead].hit, of=lead)},
            texts=DocTexts(collection),
        )

    def _curve(self, collection: Collection, found: Found, grading: Grading) -> dict[str, float]:
        """nDCG of the searches with pruned vectors, and what those vectors cost."""
        values: dict[str, float] = {}
        for dims, cut in found.pruned.items():
            for fn, ranking in cut.rankings.items():
                judged = grading.judge(collection, ranking)
                for k in cutoffs("ndcg_at_k", self._values()):
                    values[f"{fn}_ndcg@{k}_at_{dims}_dims"] = float(formulas.ndcg_at_k(judged.gain, judged.ideal, k).mean())
            if cut.queries is not None and cut.docs is not None:
                values |= curve_values(dims, cut.queries, cut.docs)
        return values

    def _ranking_values(self, judged: Judged) -> dict[str, NDArray[np.float64]]:
        """Metric without similarity function -> its value for each query."""
        hit, relevant, settings = judged.hit, judged.num_relevant, self._values()
        found = {f"ndcg@{k}": formulas.ndcg_at_k(judged.gain, judged.ideal, k) for k in cutoffs("ndcg_at_k", settings)}
        found |= {f"accuracy@{k}": formulas.accuracy_at_k(hit, k) for k in cutoffs("accuracy_at_k", settings)}
        found |= {f"precision@{k}": formulas.precision_at_k(hit, k) for k in cutoffs("precision_recall_at_k", settings)}
        found |= {f"recall@{k}": formulas.recall_at_k(hit, relevant, k) for k in cutoffs("precision_recall_at_k", settings)}
        found |= {f"mrr@{k}": formulas.reciprocal_rank_at_k(hit, k) for k in cutoffs("mrr_at_k", settings)}
        found |= {f"map@{k}": formulas.average_precision_at_k(hit, relevant, k) for k in cutoffs("map_at_k", settings)}
        return found

    def _depth(self) -> int:
        lists = (self.accuracy_at_k, self.precision_recall_at_k, self.mrr_at_k, self.ndcg_at_k, self.map_at_k)
        return max(k for ks in lists for k in ks)


def with_prefix(items: tuple[Mapping[str, Any], ...], prefix: str, over: Mapping[str, str] | None = None) -> tuple[dict[str, Any], ...]:
    """The same metrics with text (also a placeholder of `over`) before their names."""
    return tuple({**item, "name": prefix + item["name"], **({"over": {**item.get("over", {}), **over}} if over else {})} for item in items)
