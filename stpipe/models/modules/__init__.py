"""The modules that a model is made of, by the class names of the sentence-transformers format."""

from __future__ import annotations

from stpipe.models.modules.dense import Dense
from stpipe.models.modules.dropout import Dropout
from stpipe.models.modules.layer_norm import LayerNorm
from stpipe.models.modules.module import Features, Module
from stpipe.models.modules.normalize import Normalize
from stpipe.models.modules.pooling import Pooling
from stpipe.models.modules.transformer import Transformer

MODULES: dict[str, type[Module]] = {cls.__name__: cls for cls in (Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout)}

__all__ = ["MODULES", "Dense", "Dropout", "Features", "LayerNorm", "Module", "Normalize", "Pooling", "Transformer"]
