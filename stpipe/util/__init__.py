"""The documented helper functions. A function's module, and what that needs, is imported when the function is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpipe.util.hard_negatives import mine_hard_negatives
    from stpipe.util.search_elasticsearch import semantic_search_elasticsearch
    from stpipe.util.search_opensearch import semantic_search_opensearch
    from stpipe.util.search_qdrant import semantic_search_qdrant
    from stpipe.util.search_seismic import semantic_search_seismic

#: Name -> module that defines it.
_HOME = {
    "mine_hard_negatives": "stpipe.util.hard_negatives",
    "semantic_search_elasticsearch": "stpipe.util.search_elasticsearch",
    "semantic_search_opensearch": "stpipe.util.search_opensearch",
    "semantic_search_qdrant": "stpipe.util.search_qdrant",
    "semantic_search_seismic": "stpipe.util.search_seismic",
}

__all__ = [
    "mine_hard_negatives",
    "semantic_search_elasticsearch",
    "semantic_search_opensearch",
    "semantic_search_qdrant",
    "semantic_search_seismic",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stpipe.util' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
