"""Losses: formulas over representations, and their hyper-parameters. Importing this package registers all of them."""

from __future__ import annotations

from stpipe.losses.base import Loss, Term
from stpipe.losses.cosent import AnglELoss, CoSENTLoss
from stpipe.losses.csr import CSRLoss
from stpipe.losses.denoising import DenoisingAutoEncoderLoss
from stpipe.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss, SparseDistillKLDivLoss
from stpipe.losses.embed_distill import EmbedDistillLoss
from stpipe.losses.guided import GISTEmbedLoss, Guide
from stpipe.losses.lambda_loss import LambdaLoss, RankNetLoss
from stpipe.losses.layers import AdaptiveLayerLoss, Matryoshka2dLoss
from stpipe.losses.listwise import ADRMSELoss, ListMLELoss, ListNetLoss, PListMLELoss
from stpipe.losses.mega_batch import MegaBatchMarginLoss
from stpipe.losses.orthogonal import GlobalOrthogonalRegularizationLoss
from stpipe.losses.pairs import ContrastiveLoss, CosineSimilarityLoss, OnlineContrastiveLoss
from stpipe.losses.ranking import MultipleNegativesRankingLoss, SparseMultipleNegativesRankingLoss
from stpipe.losses.score_contrast import RerankerMultipleNegativesRankingLoss
from stpipe.losses.score_pairs import BinaryCrossEntropyLoss, CrossEntropyLoss, RerankerMarginMSELoss, RerankerMSELoss
from stpipe.losses.softmax import SoftmaxLoss
from stpipe.losses.splade import SpladeLoss
from stpipe.losses.tension import ContrastiveTensionLoss, ContrastiveTensionLossInBatchNegatives
from stpipe.losses.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
)
from stpipe.losses.wrappers import MatryoshkaLoss, SumLoss

__all__ = [
    "ADRMSELoss",
    "AdaptiveLayerLoss",
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "BinaryCrossEntropyLoss",
    "CSRLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosineSimilarityLoss",
    "CrossEntropyLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "EmbedDistillLoss",
    "GISTEmbedLoss",
    "GlobalOrthogonalRegularizationLoss",
    "Guide",
    "LambdaLoss",
    "ListMLELoss",
    "ListNetLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "Matryoshka2dLoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "OnlineContrastiveLoss",
    "PListMLELoss",
    "RankNetLoss",
    "RerankerMSELoss",
    "RerankerMarginMSELoss",
    "RerankerMultipleNegativesRankingLoss",
    "SoftmaxLoss",
    "SparseDistillKLDivLoss",
    "SparseMultipleNegativesRankingLoss",
    "SpladeLoss",
    "SumLoss",
    "Term",
    "TripletLoss",
]
