"""Search in OpenSearch by its neural sparse query over given token weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stpipe.util.search_common import (
    FEATURE_MAPPINGS,
    Decoded,
    Results,
    Stopwatch,
    answer,
    bulk_actions,
    client_module,
    escaped,
    hits_of,
    new_name,
    required,
    weights_of,
)


def semantic_search_opensearch(
    query_embeddings_decoded: Sequence[Decoded],
    corpus_embeddings_decoded: Sequence[Decoded] | None = None,
    corpus_index: tuple[Any, str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """The nearest documents of each query by dot product.

    The query needs the neural-search plugin, which the usual distribution has. Weights are stored with 9 significant bits.

    Args:
        query_embeddings_decoded: [(token, weight), ...] of each query, from `model.decode(embeddings)`.
        corpus_embeddings_decoded: the same of each document; a new index is made of them. Not used with corpus_index.
        corpus_index: (client, index name) of an earlier call, to search in that.
        top_k: documents a query.
        output_index: also return (client, index name).
        kwargs: arguments of `OpenSearch`; default is hosts="http://localhost:9200".

    Returns:
        (results, seconds of the search) or (results, seconds, corpus_index); results hold for each query
        [{"corpus_id": place in the corpus, "score": float}, ...], best first.
    """
    library = client_module("opensearchpy", package="opensearch-py", extra="opensearch")
    queries = weights_of(query_embeddings_decoded, "query_embeddings_decoded")
    index = corpus_index or _build(library, required(corpus_embeddings_decoded, "corpus_embeddings_decoded"), kwargs)
    client, name = index
    watch = Stopwatch()
    results: Results = [_search(client, name, weights, top_k) if weights else [] for weights in queries]
    return answer(results, watch.seconds(), index, output_index=output_index)


def _search(client: Any, index: str, weights: dict[str, float], top_k: int) -> list[dict[str, Any]]:
    query = {"neural_sparse": {"tokens": {"query_tokens": escaped(weights)}}}
    return hits_of(client.search(index=index, body={"size": top_k, "query": query}))


def _build(library: Any, corpus: Sequence[Decoded], kwargs: dict[str, Any]) -> tuple[Any, str]:
    """(client, name) of a new index with the documents, numbered from 0."""
    rows = weights_of(corpus, "corpus_embeddings_decoded")
    helpers = client_module("opensearchpy.helpers", package="opensearch-py", extra="opensearch")
    client, name = library.OpenSearch(**{"hosts": "http://localhost:9200", **kwargs}), new_name("index")
    client.indices.create(index=name, body={"mappings": dict(FEATURE_MAPPINGS)})
    helpers.bulk(client, bulk_actions(name, rows), chunk_size=1000)
    client.indices.refresh(index=name)
    return client, name
