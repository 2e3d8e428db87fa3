"""The loss of a run that names none, by what its data holds and what kind of model it trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stpipe.config.errors import ConfigError

#: Values of a loss as a configuration holds them, with its registered name.
LossValues = dict[str, Any]

DEFAULT_LOSSES: Mapping[str, Mapping[str, LossValues]] = {
    "dense": {
        "pair": {"name": "mnrl"},
        "triplet": {"name": "mnrl"},
        "n-tuple": {"name": "mnrl"},
        "pair-score": {"name": "cosent"},
        "pair-class": {"name": "contrastive"},
        "labelled-text": {"name": "batch_hard_soft_margin_triplet"},
        "text-vector": {"name": "mse"},
        "pair-vector": {"name": "mse"},
        "triplet-score": {"name": "margin_mse"},
        "n-tuple-scores": {"name": "margin_mse"},
    },
    "sparse": {
        "pair": {"name": "splade"},
        "triplet": {"name": "splade"},
        "n-tuple": {"name": "splade"},
        "pair-score": {"name": "splade", "loss": {"name": "cosent"}},
        "triplet-score": {"name": "splade", "loss": {"name": "margin_mse"}},
        "n-tuple-scores": {"name": "splade", "loss": {"name": "margin_mse"}},
    },
    "cross_encoder": {
        "pair": {"name": "reranker_mnrl"},
        "triplet": {"name": "reranker_mnrl"},
        "n-tuple": {"name": "reranker_mnrl"},
        "pair-score": {"name": "binary_cross_entropy"},
        "pair-class": {"name": "cross_entropy"},
        "query-document": {"name": "binary_cross_entropy"},
        "query-documents": {"name": "lambda"},
        "triplet-score": {"name": "reranker_margin_mse"},
        "n-tuple-scores": {"name": "reranker_margin_mse"},
    },
}

#: Documented names that mean one loss for representations and another one for the scores of a cross-encoder: kind -> name -> its own.
OWN_LOSSES: Mapping[str, Mapping[str, str]] = {
    "cross_encoder": {"mnrl": "reranker_mnrl", "mse": "reranker_mse", "margin_mse": "reranker_margin_mse"},
}


#: Wrapper of the defaults for sparse models -> the one for models whose sparse autoencoder has to be trained, too.
FOR_AUTOENCODERS = {"splade": "csr"}


def defaults_of(kind: str, sparsity: str | None = None) -> Mapping[str, LossValues]:
    """Format -> loss, for models of a kind ("dense", "sparse") whose representations are kept sparse in one way (`sparsity` of models)."""
    by_format = DEFAULT_LOSSES.get(kind, {})
    if sparsity != "autoencoder":
        return by_format
    return {fmt: {**loss, "name": FOR_AUTOENCODERS.get(loss["name"], loss["name"])} for fmt, loss in by_format.items()}


def default_loss(format: str, kind: str, *, sparsity: str | None = None) -> LossValues:
    """The loss for data of one format (config/formats.py) and a kind of model, as configuration values.

    A pair-class default of a dense model assumes labels 0 and 1; the check of the label range refuses others.
    """
    by_format = defaults_of(kind, sparsity)
    if format not in by_format:
        known = ", ".join(sorted(by_format)) or "none"
        raise ConfigError(f"no default loss for a {kind} model on data of format '{format}' (there is one for: {known}). Set `loss`")
    return copy.deepcopy(by_format[format])
