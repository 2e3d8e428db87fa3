"""Evaluators and their metrics. Importing it registers the evaluators."""

from __future__ import annotations

from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.binary_classification import BinaryClassificationEvaluator
from stpipe.evaluation.compressed import CompressedRetrievalEvaluator
from stpipe.evaluation.cross_encoder_classification import CrossEncoderClassificationEvaluator
from stpipe.evaluation.cross_encoder_correlation import CrossEncoderCorrelationEvaluator
from stpipe.evaluation.cross_encoder_nano_beir import CrossEncoderNanoBEIREvaluator
from stpipe.evaluation.cross_encoder_reranking import CrossEncoderRerankingEvaluator
from stpipe.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from stpipe.evaluation.fusion import HybridEvaluator, ReciprocalRankFusionEvaluator
from stpipe.evaluation.information_retrieval import InformationRetrievalEvaluator
from stpipe.evaluation.mse import MSEEvaluator
from stpipe.evaluation.nano_beir import NanoBEIREvaluator
from stpipe.evaluation.reranking import RerankingEvaluator
from stpipe.evaluation.sequential import SequentialEvaluator
from stpipe.evaluation.translation import TranslationEvaluator
from stpipe.evaluation.triplet import TripletEvaluator

__all__ = [
    "BinaryClassificationEvaluator",
    "CompressedRetrievalEvaluator",
    "CrossEncoderClassificationEvaluator",
    "CrossEncoderCorrelationEvaluator",
    "CrossEncoderNanoBEIREvaluator",
    "CrossEncoderRerankingEvaluator",
    "EmbeddingSimilarityEvaluator",
    "Evaluation",
    "Evaluator",
    "HybridEvaluator",
    "InformationRetrievalEvaluator",
    "MSEEvaluator",
    "NanoBEIREvaluator",
    "ReciprocalRankFusionEvaluator",
    "RerankingEvaluator",
    "SequentialEvaluator",
    "TranslationEvaluator",
    "TripletEvaluator",
]
