"""Composition by Hydra, with the origin of every value.

Hydra decides what is composed, and in which order: its defaults lists, group options, search path and override grammar
are used as they are. The values are then merged here and not by Hydra, because Hydra keeps no places, adds a misspelt
key of a file without a word, and would mix the defaults that it shows (config/options.py) with what somebody set.
Four rules go beyond Hydra's:

- an override sets its key whether it exists or not (`++`), so that the strict decoder reports a typo, with a suggestion;
- a group that is chosen on the command line wins over what the recipe sets inline below that group's key;
- `+recipe=` and `+profile=` work with and without the plus, profiles come last, and several may be given;
- what a recipe says for a profile (`with_profile`) is laid right after that profile.
"""

from __future__ import annotations

from stpipe.config.compose.composer import Composed, compose, open_loader
from stpipe.config.compose.overrides import HYDRA_SETTINGS, all_options, hydra_overrides
from stpipe.config.compose.sources import config_loader

__all__ = ["HYDRA_SETTINGS", "Composed", "all_options", "compose", "config_loader", "hydra_overrides", "open_loader"]
