"""How many texts use each dimension: what decides the size of an inverted index and the work of a search in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.ops.sparse import Csr


@dataclass(frozen=True)
class Postings:
    """Lengths of the posting lists of some texts.

    lengths: (D,) int64, in how many texts each dimension is not zero; num_texts: texts that were counted.
    """

    lengths: NDArray[np.int64]
    num_texts: int

    @staticmethod
    def of(texts: Csr) -> Postings:
        """Count the rows of a CSR without stored zeros."""
        return Postings(np.bincount(texts.indices, minlength=texts.shape[1]).astype(np.int64), texts.shape[0])

    @staticmethod
    def total(parts: Iterable[Postings]) -> Postings:
        """Texts of several parts together; at least one part."""
        first, *others = parts
        return Postings(np.sum([first.lengths, *(p.lengths for p in others)], axis=0), first.num_texts + sum(p.num_texts for p in others))

    @property
    def active_dims(self) -> float:
        """Mean number of dimensions of a text that are not zero."""
        return float(self.lengths.sum() / self.num_texts)

    @property
    def sparsity_ratio(self) -> float:
        """Share of zeros."""
        return 1.0 - self.active_dims / len(self.lengths)

    @property
    def mean_length(self) -> float:
        """Mean length of the posting lists that are not empty, 0 when all are."""
        used = np.count_nonzero(self.lengths)
        return float(self.lengths.sum() / used) if used else 0.0

    @property
    def max_length(self) -> int:
        """Length of the longest posting list: near `num_texts`, a query with that dimension touches every text."""
        return int(self.lengths.max())


def multiplications(queries: Postings, docs: Postings) -> float:
    """Mean number of multiplications of a query with a document: dimensions that are non-zero in both.

    sum_j p_j(queries) p_j(docs), where p_j is the share of texts that use dimension j. It is the exact mean over all pairs,
    and the FLOPS measure of SPLADE (Formal et al. 2021, arXiv:2107.05720, section 4). Times the number of documents it is what
    one query costs in an inverted index.
    """
    return float((queries.lengths / queries.num_texts) @ (docs.lengths / docs.num_texts))
