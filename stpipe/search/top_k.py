"""The best K documents of each query, in an order that does not depend on how the documents were cut into chunks.

Shape legend: Q queries, K ranks; q and c queries and documents of one chunk.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_DOC = -1
EMPTY = torch.iinfo(torch.int64).min
LOW = (1 << 32) - 1


def keys_of(scores: Tensor, docs: Tensor) -> Tensor:
    """int64 keys of scores and document numbers of the same (or a broadcast) shape: larger = higher score, then lower number.

    No two documents of a query share a key, so the greatest K keys are the same set however the corpus was cut, which
    the greatest K scores are not. The upper half is the float32 score with its bits in order of value, the lower half
    counts document numbers down. Scores come in float64 and are rounded here: matrix products of different shape
    differ in the last bits of float64, which would break ties of equal texts by chance.
    """
    bits = (scores.float() + 0.0).contiguous().view(torch.int32).long()  # + 0.0 makes -0.0 and 0.0 equal
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return (ordered << 32) | (LOW - docs)


def sort_keys(scores: Tensor, first: int) -> Tensor:
    """(q, c) keys of the scores (q, c) of documents first, first + 1, ..."""
    return keys_of(scores, torch.arange(first, first + scores.shape[1], device=scores.device))


def decode_keys(keys: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(document numbers, scores) behind keys (Q, K), on the CPU; EMPTY keys become NO_DOC and -inf."""
    absent = keys == EMPTY
    ordered = keys >> 32
    bits = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(torch.int32)
    scores = bits.view(torch.float32).masked_fill(absent, -torch.inf)
    docs = (LOW - (keys & LOW)).masked_fill(absent, NO_DOC)
    return docs.cpu().numpy(), scores.cpu().numpy()


class TopK:
    """The best K documents of each query among those seen so far. Memory: Q x K."""

    def __init__(self, num_queries: int, depth: int, device: torch.device) -> None:
        self.keys = torch.full((num_queries, depth), EMPTY, dtype=torch.int64, device=device)

    def update(self, rows: slice, keys: Tensor) -> None:
        """Take in the keys (q, c) of a chunk of documents for the queries `rows`."""
        depth = self.keys.shape[1]
        best = keys.topk(min(depth, keys.shape[1]), dim=1).values
        self.keys[rows] = torch.cat([self.keys[rows], best], dim=1).topk(depth, dim=1).values

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(document numbers, scores), each (Q, K), best first."""
        return decode_keys(self.keys)
