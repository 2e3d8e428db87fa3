"""Exact search in the process: no server, no approximation."""

from __future__ import annotations

from stpipe.search.inverted_index import Hits, InvertedIndex
from stpipe.search.postings import Postings, multiplications

__all__ = ["Hits", "InvertedIndex", "Postings", "multiplications"]
