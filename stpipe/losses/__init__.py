"""Losses: formulas over representations, and their hyper-parameters. Importing this package registers all of them."""

from __future__ import annotations

from stpipe.losses.base import Loss, Term
from stpipe.losses.cosent import AnglELoss, CoSENTLoss
from stpipe.losses.csr import CSRLoss
from stpipe.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss, SparseDistillKLDivLoss
from stpipe.losses.pairs import ContrastiveLoss, CosineSimilarityLoss, OnlineContrastiveLoss
from stpipe.losses.ranking import MultipleNegativesRankingLoss, SparseMultipleNegativesRankingLoss
from stpipe.losses.splade import SpladeLoss
from stpipe.losses.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
)
from stpipe.losses.wrappers import MatryoshkaLoss, SumLoss

__all__ = [
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CSRLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineSimilarityLoss",
    "DistillKLDivLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "OnlineContrastiveLoss",
    "SparseDistillKLDivLoss",
    "SparseMultipleNegativesRankingLoss",
    "SpladeLoss",
    "SumLoss",
    "Term",
    "TripletLoss",
]
