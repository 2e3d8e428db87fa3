"""NanoBEIR: 13 retrieval tasks of 50 queries each, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.metrics import metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.nano_files import NANO_SETS
from stpipe.evaluation.nano_sets import NanoSetsEvaluator, means
from stpipe.evaluation.ranking import Collection
from stpipe.evaluation.retrieval import RETRIEVAL_METRICS, RetrievalEvaluator, with_prefix
from stpipe.evaluation.search import Found
from stpipe.evaluation.sparsity import curve_values, search_values
from stpipe.search import Postings

MEAN = "NanoBEIR_mean_"


@EVALUATORS.register("nano_beir", aliases=("NanoBEIREvaluator", "SparseNanoBEIREvaluator"))
@dataclass(frozen=True, kw_only=True)
class NanoBEIREvaluator(NanoSetsEvaluator, RetrievalEvaluator):
    """Exact search in the 13 small collections of NanoBEIR; the primary metric is the mean nDCG@10 over the sets.

    Metrics have the names of the documentation: `NanoBEIR_mean_cosine_ndcg@10` for the mean, `NanoMSMARCO_cosine_ndcg@10`
    for one set. Reads no rows of the run. Widths of sparse embeddings are means over all texts of all sets.
    """

    kinds: ClassVar[tuple[str, ...]] = RetrievalEvaluator.kinds
    metrics = metric_facts(
        *with_prefix(RETRIEVAL_METRICS, MEAN),
        *with_prefix(RETRIEVAL_METRICS, "Nano{set}_", {"set": "datasets"}),
        labels={"datasets": NANO_SETS},
    )

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        return self.evaluate(model, {}, batch_size=batch_size)

    def evaluate(self, model: EmbeddingModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        return self._over_sets(lambda collection: self.find(model, collection, batch_size=batch_size), model.similarity_fn_name)

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        if self.bm25 is None:
            return {}
        ranker = BM25(self.bm25)
        return {"bm25": self._over_sets(lambda collection: self.rank(ranker, collection, similarity=similarity), similarity)}

    def _over_sets(self, find: Callable[[Collection], Found], similarity: str) -> Evaluation:
        """Search in each set, one held at a time."""
        primary = self.primary(similarity=similarity)
        parts: dict[str, Evaluation] = {}
        all_found: list[Found] = []
        for name, collection in self.collections(self.grading()):
            found = find(collection)
            parts[f"Nano{NANO_SETS[name]}"] = self.score(
                collection, found, evaluator="information_retrieval", primary=primary.removeprefix(MEAN)
            )
            # Rankings are in the parts by now; what is summed up below are the counts of dimensions.
            all_found.append(_counts_only(found))
        values = means(parts) | _widths(all_found)
        named = {f"{set_name}_{name}": value for set_name, part in parts.items() for name, value in part.metrics.items()}
        return Evaluation(
            metrics={f"{MEAN}{name}": value for name, value in values.items()} | named,
            primary=primary,
            evaluator=self._name(),
            num_queries=sum(part.num_queries or 0 for part in parts.values()),
            parts=parts,
        )


def _counts_only(found: Found) -> Found:
    return Found({}, found.queries, found.docs, {dims: _counts_only(cut) for dims, cut in found.pruned.items()})


def _widths(sets: list[Found]) -> dict[str, float]:
    """Widths and FLOPS of the texts of all sets together; empty for dense embeddings.

    Lengths of posting lists and FLOPS of a query over its corpus stay what they are: means over the sets.
    """
    queries, docs = _together([f.queries for f in sets]), _together([f.docs for f in sets])
    if queries is None or docs is None:
        return {}
    per_set = ("flops_per_query", "posting_list_mean", "posting_list_max")
    values = {name: value for name, value in search_values(queries, docs).items() if name not in per_set}
    for dims in sets[0].pruned:
        cut_queries, cut_docs = (_together([getattr(f.pruned[dims], side) for f in sets]) for side in ("queries", "docs"))
        if cut_queries is not None and cut_docs is not None:
            values |= curve_values(dims, cut_queries, cut_docs)
    return values


def _together(parts: list[Postings | None]) -> Postings | None:
    known = [part for part in parts if part is not None]
    return Postings.total(known) if known else None
