"""Models: backbone, heads, encoders, the format on disk, inference classes. Importing it registers the model components."""

from __future__ import annotations

from stpipe.models.dense import DenseHead, DenseModel
from stpipe.models.encoder import Encoder
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.tokenizer import load_tokenizer, tokenizer_fingerprint

__all__ = ["DenseHead", "DenseModel", "Encoder", "SentenceTransformer", "load_tokenizer", "resolve_path", "tokenizer_fingerprint"]
