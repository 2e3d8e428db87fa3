"""The modules whose import fills the registries with stpipe's own components."""

from __future__ import annotations

import importlib
import os
import sys

from stpipe.config.errors import ConfigError, Problem

MODULES: tuple[str, ...] = (
    "stpipe.losses",
    "stpipe.models",
    "stpipe.data",
    "stpipe.evaluation",
    "stpipe.engine",
    "stpipe.trackers",
    "stpipe.export",
)


def load_components(imports: tuple[str, ...] = (), *, modules: tuple[str, ...] = MODULES) -> None:
    """Import stpipe's components (those of `modules`), then the user's own modules (found as Python finds them, or in the current folder)."""
    for module in modules:
        importlib.import_module(module)
    if imports and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for i, module in enumerate(imports):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
                raise
            message = f"module '{module}' cannot be found. Install its package, set PYTHONPATH, or run in the folder that holds it"
            raise ConfigError(Problem(f"imports[{i}]", message)) from error
