"""stpipe trains embedding models, sparse encoders and rerankers from YAML."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it. Imported on first use, so that `import stpipe` stays fast and free of torch.
LAZY: dict[str, str] = {
    "CrossEncoder": "stpipe.models.cross_encoder",
    "CrossEncoderModelCardData": "stpipe.cards.data",
    "SentenceTransformer": "stpipe.models.sentence_transformer",
    "SentenceTransformerModelCardData": "stpipe.cards.data",
    "SparseEncoder": "stpipe.models.sparse_encoder",
    "SparseEncoderModelCardData": "stpipe.cards.data",
    "export_dynamic_quantized_onnx_model": "stpipe.export.documented",
    "export_optimized_onnx_model": "stpipe.export.documented",
    "export_static_quantized_openvino_model": "stpipe.export.documented",
    "train": "stpipe.cli.api",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'stpipe' has no attribute '{name}'")
    return getattr(importlib.import_module(LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
