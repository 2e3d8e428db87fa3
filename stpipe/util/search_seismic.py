"""Approximate search in the process with Seismic, an inverted index of blocks with summaries (arXiv:2404.18812)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stpipe.util.search_common import Decoded, Results, Stopwatch, answer, client_module, required, weights_of

#: How thorough a search is: query tokens that are looked up, and the share of the k-th best score below which blocks are skipped.
SEARCH_DEFAULTS: Mapping[str, Any] = {"query_cut": 10, "heap_factor": 0.7}


def semantic_search_seismic(
    query_embeddings_decoded: Sequence[Decoded],
    corpus_embeddings_decoded: Sequence[Decoded] | None = None,
    corpus_index: Any = None,
    top_k: int = 10,
    output_index: bool = False,
    index_kwargs: Mapping[str, Any] | None = None,
    search_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """The (approximately) nearest documents of each query by dot product.

    Args:
        query_embeddings_decoded: [(token, weight), ...] of each query, from `model.decode(embeddings)`.
        corpus_embeddings_decoded: the same of each document; an index is built of them. Not used with corpus_index.
        corpus_index: `SeismicIndex` of an earlier call, to search in that.
        top_k: documents a query.
        output_index: also return the index.
        index_kwargs: arguments of `SeismicIndex.build_from_dataset` (n_postings, centroid_fraction, summary_energy, ...).
        search_kwargs: arguments of `SeismicIndex.batch_search`; defaults are query_cut=10, heap_factor=0.7.

    Returns:
        (results, seconds of the search) or (results, seconds, corpus_index); results hold for each query
        [{"corpus_id": place in the corpus, "score": float}, ...], best first.
    """
    library = client_module("seismic", package="pyseismic-lsr", extra="seismic")
    queries = weights_of(query_embeddings_decoded, "query_embeddings_decoded")
    index = corpus_index or _build(library, required(corpus_embeddings_decoded, "corpus_embeddings_decoded"), index_kwargs or {})
    watch = Stopwatch()
    text = library.get_seismic_string()
    asked = [(number, weights) for number, weights in enumerate(queries) if weights]
    found = index.batch_search(
        queries_ids=np.array([str(number) for number, _ in asked], dtype=text),
        query_components=[np.array(list(weights), dtype=text) for _, weights in asked],
        query_values=[np.array(list(weights.values()), dtype=np.float32) for _, weights in asked],
        k=top_k,
        **{**SEARCH_DEFAULTS, **(search_kwargs or {})},
    )
    results: Results = [[] for _ in queries]
    for hits in found:  # in no order; every hit carries the query's number
        for number, score, doc in hits:
            results[int(number)].append({"corpus_id": int(doc), "score": float(score)})
    return answer(results, watch.seconds(), index, output_index=output_index)


def _build(library: Any, corpus: Sequence[Decoded], kwargs: Mapping[str, Any]) -> Any:
    """An index of the documents, numbered from 0."""
    text = library.get_seismic_string()
    dataset = library.SeismicDataset()
    for number, weights in enumerate(weights_of(corpus, "corpus_embeddings_decoded")):
        dataset.add_document(str(number), np.array(list(weights), dtype=text), np.array(list(weights.values()), dtype=np.float32))
    return library.SeismicIndex.build_from_dataset(dataset, **kwargs)
