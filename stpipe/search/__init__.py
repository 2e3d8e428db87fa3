"""Exact search in the process, dense and sparse, and FAISS behind the same interface; embeddings kept on disk."""

from __future__ import annotations

from stpipe.search.embedding_cache import EmbeddingCache
from stpipe.search.exact import ExactSearch
from stpipe.search.faiss_index import FaissSearch
from stpipe.search.inverted_index import Hits, InvertedIndex
from stpipe.search.nearest import Neighbours
from stpipe.search.postings import Postings, multiplications
from stpipe.search.sparse_search import SparseSearch

__all__ = [
    "ExactSearch",
    "FaissSearch",
    "SparseSearch",
    "Neighbours",
    "EmbeddingCache",
    "Hits",
    "InvertedIndex",
    "Postings",
    "multiplications",
]
