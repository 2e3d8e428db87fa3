"""The default loss of each format and kind of model; the table itself is in `config`, which `validate` reads without torch."""

from __future__ import annotations

from stpipe.config.defaults import DEFAULT_LOSSES, default_loss

__all__ = ["DEFAULT_LOSSES", "default_loss"]
