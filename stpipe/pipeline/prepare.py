"""`stpipe prepare`: read, check, tokenise and cache the data; no accelerator, no process group."""

from __future__ import annotations

from stpipe.config.load import Loaded, to_root
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console


def run_prepare(loaded: Loaded) -> int:
    """Fill the token cache that `train` with the same configuration reads; returns the exit code."""
    out = console(loaded.values["trainer"]["progress"])
    root = to_root(loaded.values)
    data = load_data(root, root.model.build(), out)
    for line in data.scan.lines():
        out.print(line)
    return 0
