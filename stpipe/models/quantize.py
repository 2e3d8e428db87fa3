"""Embeddings in fewer bits, with the formulas and names of the sentence-transformers documentation."""

from __future__ import annotations

import numpy as np

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name

PRECISIONS: tuple[str, ...] = ("float32", "int8", "uint8", "binary", "ubinary")


def check_precision(precision: str) -> None:
    """An unknown precision is an error that lists what exists."""
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, list(PRECISIONS)))


def quantize(embeddings: np.ndarray, *, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Quantise (N, D) float embeddings.

    int8 and uint8 cut each dimension's range into 255 equal steps; binary and ubinary keep the sign of each dimension,
    eight to a byte.

    Args:
        embeddings: float array (N, D).
        precision: one of PRECISIONS; float32 only converts the type.
        ranges: (2, D) lowest and highest value of each dimension; None takes them from the embeddings themselves, which
            is only right for a large and representative set.
    """
    check_precision(precision)
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        ranges = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
    low, high = ranges.astype(np.float32)
    step = (high - low) / 255
    levels = np.clip(np.floor((embeddings - low) / np.where(step == 0, 1, step)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
