"""The modules whose import fills the registries with stpipe's own components."""

from __future__ import annotations

import importlib

MODULES: tuple[str, ...] = (
    "stpipe.losses",
    "stpipe.models",
    "stpipe.data",
    "stpipe.evaluation",
    "stpipe.engine",
)


def load_components(imports: tuple[str, ...] = ()) -> None:
    """Import stpipe's components, then the user's own modules."""
    for module in (*MODULES, *imports):
        importlib.import_module(module)
