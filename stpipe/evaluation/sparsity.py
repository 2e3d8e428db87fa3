"""What sparse embeddings cost: active dimensions, multiplications, posting lists. The names are those of the documentation.

Dimensions and ratios have no good side (a model without any active dimension is the sparsest); costs are better low.
"""

from __future__ import annotations

from typing import Any

from stpipe.config.metrics import metric
from stpipe.search import Postings, multiplications

SPARSE = ("sparse",)


def width_metrics(prefix: str = "") -> tuple[dict[str, Any], ...]:
    """Metrics of the texts of one side."""
    return tuple(metric(f"{prefix}{name}", better=None, kinds=SPARSE) for name in ("active_dims", "sparsity_ratio"))


def width_values(postings: Postings | None, prefix: str = "") -> dict[str, float]:
    """Values of `width_metrics`; none for dense embeddings."""
    if postings is None:
        return {}
    return {f"{prefix}active_dims": postings.active_dims, f"{prefix}sparsity_ratio": postings.sparsity_ratio}


#: Widths of queries and documents, and what a search costs.
SEARCH_METRICS = (
    *width_metrics("query_"),
    *width_metrics("corpus_"),
    metric("avg_flops", better="lower", kinds=SPARSE),
    metric("flops_per_query", better="lower", kinds=SPARSE),
    metric("posting_list_mean", better="lower", kinds=SPARSE),
    metric("posting_list_max", better="lower", kinds=SPARSE),
)


def search_values(queries: Postings | None, docs: Postings | None) -> dict[str, float]:
    """Values of SEARCH_METRICS; none for dense embeddings.

    avg_flops: multiplications of one query with one document, the mean over all pairs; flops_per_query: of one query with
    the whole corpus; posting_list_mean, _max: documents in a posting list that is not empty.
    """
    if queries is None or docs is None:
        return {}
    flops = multiplications(queries, docs)
    return {
        **width_values(queries, "query_"),
        **width_values(docs, "corpus_"),
        "avg_flops": flops,
        "flops_per_query": flops * docs.num_texts,
        "posting_list_mean": docs.mean_length,
        "posting_list_max": float(docs.max_length),
    }


CURVE = "active_dims_curve"
#: At each number of dimensions of the option `active_dims_curve`: what it costs.
CURVE_METRICS = (
    metric("query_active_dims_at_{dims}_dims", better=None, kinds=SPARSE, over={"dims": CURVE}),
    metric("corpus_active_dims_at_{dims}_dims", better=None, kinds=SPARSE, over={"dims": CURVE}),
    metric("avg_flops_at_{dims}_dims", better="lower", kinds=SPARSE, over={"dims": CURVE}),
)


def curve_values(dims: int, queries: Postings, docs: Postings) -> dict[str, float]:
    """Values of CURVE_METRICS at one number of dimensions."""
    return {
        f"query_active_dims_at_{dims}_dims": queries.active_dims,
        f"corpus_active_dims_at_{dims}_dims": docs.active_dims,
        f"avg_flops_at_{dims}_dims": multiplications(queries, docs),
    }
