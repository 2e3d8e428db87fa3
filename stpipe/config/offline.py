"""The switches that keep every library from asking a hub. The libraries read them once, when they are imported."""

from __future__ import annotations

import os

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def go_offline() -> None:
    """Set all switches; must be called before transformers, datasets or huggingface_hub are imported."""
    for switch in SWITCHES:
        os.environ[switch] = "1"
