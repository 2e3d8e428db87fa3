"""Models: backbone, heads, encoders, the format on disk, inference classes. Importing it registers the model components."""

from __future__ import annotations

from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.cross_encoder_model import CrossEncoderModel
from stpipe.models.csr import CSRModel
from stpipe.models.dense import DenseHead, DenseModel
from stpipe.models.encoder import Encoder
from stpipe.models.inference_free import InferenceFreeSpladeModel
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.models.splade import SpladeModel
from stpipe.models.static import StaticModel
from stpipe.models.tokenizer import load_tokenizer, tokenizer_fingerprint

__all__ = [
    "CSRModel",
    "CrossEncoder",
    "CrossEncoderModel",
    "DenseHead",
    "DenseModel",
    "Encoder",
    "InferenceFreeSpladeModel",
    "SentenceTransformer",
    "SparseEncoder",
    "SpladeModel",
    "StaticModel",
    "load_tokenizer",
    "resolve_path",
    "tokenizer_fingerprint",
]
