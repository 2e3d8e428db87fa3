"""`stpipe prepare`: read, check, tokenise and cache the data; no accelerator, no process group, no weights."""

from __future__ import annotations

from stpipe.config.load import Loaded, to_root
from stpipe.data.prepare import prepare
from stpipe.models.tokenizer import tokenizer_fingerprint
from stpipe.pipeline.console import console


def run_prepare(loaded: Loaded) -> int:
    """Fill the token cache that `train` with the same configuration reads; returns the exit code."""
    out = console(loaded.values["trainer"]["progress"])
    root = to_root(loaded.values)
    text = root.model.load_tokenizer()
    data = prepare(
        root.dataset,
        tokenizer=text.tokenizer,
        tokenizer_id=tokenizer_fingerprint(text.tokenizer),
        default_max_length=text.max_seq_length,
        model_prompts=text.prompts,
        offline=root.offline,
        progress=out.print,
    )
    for split, sources in (("train", data.train), ("eval", data.eval)):
        for name, source in sources.items():
            out.print(f"{split} '{name}': {len(source):,} rows, {source.format.name}, fingerprint {source.fingerprint[:12]}")
    for warning in data.scan.warnings:
        out.print(f"[yellow]warning[/] {warning}")
    return 0
