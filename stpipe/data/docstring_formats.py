"""The docstring pairs in every data format, with labels that mean something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from stpipe.data.docstrings import Pair


@dataclass(frozen=True, slots=True)
class Options:
    """format: its name; negatives: hard negatives a row; documents: BM25-nearest functions a list, the own source comes on top."""

    format: str = "pair"
    negatives: int = 1
    documents: int = 8


def pair(pairs: Sequence[Pair], options: Options) -> pa.Table:
    return pa.table({"anchor": [p.query for p in pairs], "positive": [p.document for p in pairs]})


FORMATTERS: dict[str, Callable[[Sequence[Pair], Options], pa.Table]] = {"pair": pair}
