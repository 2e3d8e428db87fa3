"""The inference class that a stored model is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError
from stpipe.models.base_model import BaseModel
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.format import read_settings
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.sparse_encoder import SparseEncoder

CLASSES: dict[str, type[BaseModel]] = {cls.model_type: cls for cls in (SentenceTransformer, SparseEncoder, CrossEncoder)}


def load_model(directory: str | Path, **options: Any) -> BaseModel:
    """The model in a directory, as the class that its config_sentence_transformers.json names (a dense model where it names none).

    options: see BaseModel.
    """
    kind = read_settings(Path(directory)).model_type
    if kind not in CLASSES:
        raise ConfigError(f"{directory} holds a {kind}, which stpipe cannot load. It loads {', '.join(CLASSES)}")
    return CLASSES[kind](str(directory), **options)
