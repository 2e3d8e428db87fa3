"""`stpipe prepare`: read, mine where that is asked for, check, label by teachers, tokenise and cache the data, and ask guides; no process group."""

from __future__ import annotations

from stpipe.config.load import Loaded, to_root
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console
from stpipe.pipeline.guides import guided_collators
from stpipe.pipeline.mined_data import with_mined_data
from stpipe.pipeline.objective import losses_of
from stpipe.pipeline.teaching import check_widths


def run_prepare(loaded: Loaded) -> int:
    """Fill the caches that `train` with the same configuration reads; returns the exit code."""
    out = console(loaded.values["trainer"]["progress"])
    root = with_mined_data(to_root(loaded.values), out).root
    model = root.model.build()
    data = load_data(root, model, out)
    if model.kind != "cross_encoder":
        losses = losses_of(root, data.train)
        guided_collators(root, losses, data.train, {}, out)
        check_widths(losses, data.train, model.encoder.embedding_dim)
    for line in data.scan.lines():
        out.print(line)
    return 0
