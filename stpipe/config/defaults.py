"""The loss of a run that names none, by what its data holds and what kind of model it trains."""

from __future__ import annotations

from stpipe.config.errors import ConfigError

DEFAULT_LOSSES: dict[str, dict[str, str]] = {
    "dense": {
        "pair": "mnrl",
        "triplet": "mnrl",
        "n-tuple": "mnrl",
        "pair-score": "cosent",
        "pair-class": "contrastive",
        "labelled-text": "batch_hard_soft_margin_triplet",
        "text-vector": "mse",
        "pair-vector": "mse",
    },
}


def default_loss(format: str, kind: str) -> str:
    """Registered name of the loss for data of one format (config/formats.py) and a kind of model ("dense").

    A pair-class default assumes labels 0 and 1; the check of the label range refuses others.
    """
    by_format = DEFAULT_LOSSES.get(kind, {})
    if format not in by_format:
        known = ", ".join(sorted(by_format)) or "none"
        raise ConfigError(f"no default loss for a {kind} model on data of format '{format}' (there is one for: {known}). Set `loss`")
    return by_format[format]
