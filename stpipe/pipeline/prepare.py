"""`stpipe prepare`: read, mine where that is asked for, check, tokenise and cache the data; no process group."""

from __future__ import annotations

from stpipe.config.load import Loaded, to_root
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console
from stpipe.pipeline.mined_data import with_mined_data


def run_prepare(loaded: Loaded) -> int:
    """Fill the token cache that `train` with the same configuration reads; returns the exit code."""
    out = console(loaded.values["trainer"]["progress"])
    root = with_mined_data(to_root(loaded.values), out).root
    data = load_data(root, root.model.build(), out)
    for line in data.scan.lines():
        out.print(line)
    return 0
