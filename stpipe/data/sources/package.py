"""`package://MODULE/PATH`: files that an installed Python package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from stpipe.data.sources.request import SourceRequest, not_found


def package_path(request: SourceRequest) -> Path:
    """The file or directory that a `package://` address names; the package is located, not imported."""
    module, _, inside = request.uri.removeprefix("package://").partition("/")
    try:
        spec = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise not_found(request, f"the Python package '{module}' is not installed; install it with pip, or name a file")
    for root in spec.submodule_search_locations:
        path = Path(root) / inside
        if path.exists():
            return path
    raise not_found(request, f"the package '{module}' has no '{inside}' (looked in {', '.join(spec.submodule_search_locations)})")
