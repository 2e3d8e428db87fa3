"""Which candidate is what to an anchor, by identity of rows and texts; never by position, so gathering and chunking need no offsets.

Shape legend: B anchors, P candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same(id_B: Tensor, id_P: Tensor) -> Tensor:
    """(B, P) bool: anchor i and candidate j carry the same id (of a row, a text or a class)."""
    return id_B[:, None] == id_P[None, :]


def own_row(row_B: Tensor, row_P: Tensor) -> Tensor:
    """(B, P) bool: the candidate came in the anchor's own row."""
    return same(row_B, row_P)


def positive(row_B: Tensor, row_P: Tensor, is_positive_P: Tensor) -> Tensor:
    """(B, P) bool: the candidate is the anchor's own positive; one per anchor."""
    return same(row_B, row_P) & is_positive_P[None, :]


def place(mask_BP: Tensor) -> Tensor:
    """(B,) int64: where the first True of each row is; no host sync."""
    return mask_BP.int().argmax(1)


def one_place(place_B: Tensor, num_candidates: int) -> Tensor:
    """(B, P) bool: True at one place of each row, the inverse of `place`."""
    return place_B[:, None] == torch.arange(num_candidates, device=place_B.device)


def same_class_pairs(label: Tensor) -> Tensor:
    """(B, B) bool: another row of the same class."""
    return same(label, label) & ~torch.eye(label.numel(), dtype=torch.bool, device=label.device)


def first_of_each(id_M: Tensor) -> Tensor:
    """(M,) bool: the first row of each id, so that what is kept is all different; no host sync."""
    ordered, order = torch.sort(id_M, stable=True)
    fresh = torch.ones_like(id_M, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(fresh).scatter_(0, order, fresh)
