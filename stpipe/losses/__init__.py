"""Losses: formulas over representations, and their hyper-parameters. Importing this package registers all of them."""

from __future__ import annotations

from stpipe.losses.base import Loss, Term
from stpipe.losses.cosent import AnglELoss, CoSENTLoss
from stpipe.losses.distillation import MSELoss
from stpipe.losses.pairs import ContrastiveLoss, CosineSimilarityLoss, OnlineContrastiveLoss
from stpipe.losses.ranking import MultipleNegativesRankingLoss
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
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineSimilarityLoss",
    "Loss",
    "MSELoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "OnlineContrastiveLoss",
    "SumLoss",
    "Term",
    "TripletLoss",
]
