"""The modules that a model is made of, by the class names of the sentence-transformers format."""

from __future__ import annotations

from stpipe.models.modules.causal_lm import CausalLanguageModel
from stpipe.models.modules.dense import Dense
from stpipe.models.modules.dropout import Dropout
from stpipe.models.modules.layer_norm import LayerNorm
from stpipe.models.modules.logit_score import LogitScore
from stpipe.models.modules.masked_lm import MaskedLanguageModel
from stpipe.models.modules.module import Features, Module
from stpipe.models.modules.normalize import Normalize
from stpipe.models.modules.pooling import Pooling
from stpipe.models.modules.router import Router
from stpipe.models.modules.sequence_classifier import SequenceClassifier
from stpipe.models.modules.sparse_auto_encoder import SparseAutoEncoder
from stpipe.models.modules.sparse_static_embedding import SparseStaticEmbedding
from stpipe.models.modules.splade_pooling import SpladePooling
from stpipe.models.modules.static_embedding import StaticEmbedding
from stpipe.models.modules.transformer import Transformer

MODULES: dict[str, type[Module]] = {
    "MLMTransformer": MaskedLanguageModel,  # name of versions before 5.4
    "Asym": Router,  # name of versions before 5.0
    **{
        cls.folder_name(): cls
        for cls in (
            Transformer,
            Pooling,
            Dense,
            Normalize,
            LayerNorm,
            Dropout,
            SpladePooling,
            SparseStaticEmbedding,
            StaticEmbedding,
            SparseAutoEncoder,
            Router,
            LogitScore,
        )
    },
}

__all__ = [
    "MODULES",
    "CausalLanguageModel",
    "Dense",
    "Dropout",
    "Features",
    "LayerNorm",
    "LogitScore",
    "MaskedLanguageModel",
    "Module",
    "Normalize",
    "Pooling",
    "Router",
    "SequenceClassifier",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "StaticEmbedding",
    "Transformer",
]
