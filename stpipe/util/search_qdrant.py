"""Search in Qdrant, a vector data base with sparse vectors (exact dot products over posting lists)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor

from stpipe.ops.sparse import to_csr
from stpipe.util.search_common import Results, Stopwatch, answer, client_module, new_name, required

UPLOAD = 10_000
VECTOR = "text"
#: Arguments of the client that say where the data is; without any, a server on this machine is asked.
PLACES = ("location", "url", "host", "path")


def semantic_search_qdrant(
    query_embeddings: Tensor,
    corpus_embeddings: Tensor | None = None,
    corpus_index: tuple[Any, str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """The nearest documents of each query by dot product.

    Args:
        query_embeddings: (Q, V), or (V,) for one query; sparse as `SparseEncoder.encode` returns it, or dense.
        corpus_embeddings: (N, V); a new collection is made of them. Not used with corpus_index.
        corpus_index: (client, collection name) of an earlier call, to search in that.
        top_k: documents a query.
        output_index: also return (client, collection name).
        kwargs: arguments of `QdrantClient`; default is url="http://localhost:6333". location=":memory:" needs no server.

    Returns:
        (results, seconds of the search) or (results, seconds, corpus_index); results hold for each query
        [{"corpus_id": row in the corpus, "score": dot product}, ...], best first.
    """
    models = client_module("qdrant_client.models", package="qdrant-client", extra="qdrant")
    index = corpus_index or _build(models, required(corpus_embeddings, "corpus_embeddings"), kwargs)
    client, collection = index
    watch = Stopwatch()
    queries = to_csr(query_embeddings)
    results: Results = []
    for start, end in pairwise(queries.indptr):
        vector = models.SparseVector(indices=queries.indices[start:end].tolist(), values=queries.data[start:end].tolist())
        # A text that activates nothing matches nothing, and Qdrant refuses an empty vector.
        found = client.query_points(collection_name=collection, query=vector, limit=top_k, using=VECTOR).points if end > start else []
        results.append([{"corpus_id": hit.id, "score": hit.score} for hit in found])
    return answer(results, watch.seconds(), index, output_index=output_index)


def _build(models: Any, corpus_embeddings: Tensor, kwargs: dict[str, Any]) -> tuple[Any, str]:
    """(client, name) of a new collection with the documents, numbered from 0."""
    qdrant = client_module("qdrant_client", package="qdrant-client", extra="qdrant")
    place = {} if any(name in kwargs for name in PLACES) else {"url": "http://localhost:6333"}
    client, collection = qdrant.QdrantClient(**place, **kwargs), new_name("collection")
    sparse = {VECTOR: models.SparseVectorParams(index=models.SparseIndexParams(on_disk=False))}
    client.create_collection(collection_name=collection, vectors_config={}, sparse_vectors_config=sparse)
    corpus = to_csr(corpus_embeddings)
    for first in range(0, corpus.shape[0], UPLOAD):
        part = corpus[first : first + UPLOAD]
        rows = pairwise(part.indptr)
        vectors = [models.SparseVector(indices=part.indices[a:b].tolist(), values=part.data[a:b].tolist()) for a, b in rows]
        ids = range(first, first + part.shape[0])
        client.upload_collection(collection_name=collection, vectors=[{VECTOR: vector} for vector in vectors], ids=ids, wait=True)
    return client, collection
