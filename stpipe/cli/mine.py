"""`stpipe mine`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composed

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

HELP = f"""stpipe mine: find hard negatives for pairs, and write them as a data set with a report.

Usage: stpipe mine [overrides and flags]

The data come from the section `dataset`, candidates from the embedding model `mine.model` (without it from `model`, where that
is dense or sparse). The folder `mine.output` gets train.parquet, eval.parquet (rows held out), mine.json and mine.html.
A run that was killed continues where it was.

Examples
  stpipe mine model=minilm dataset.train=pairs.jsonl mine.output=mined             three nearest others for each pair
  stpipe mine mine.model=org/retriever dataset=gooaq mine.relative_margin=0.05     none within 5 % of the positive's score
  stpipe mine +recipe=dense_quickstart +profile=offline mine.num_negatives=5 mine.output_format=n-tuple
  stpipe mine model=minilm dataset=gooaq mine.cross_encoder=org/reranker mine.absolute_margin=1 mine.output_format=labeled-pair
  stpipe train model=minilm dataset.train=mined dataset.eval=mined loss=mnrl       train on the result

Keys of `mine`: num_negatives, range_min, range_max, max_score, min_score, absolute_margin, relative_margin, sampling_strategy,
  output_format, output_scores, corpus, cross_encoder, query_prompt, corpus_prompt, use_faiss and more: docs/mining.md
{FLAGS_HELP}"""
#: The objective of a recipe has no part in mining and need not suit what it writes.
NO_LOSS = "loss=null"


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("mine").parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    args.overrides = completed(args.overrides, whole=args.from_dir is not None)

    def job(loaded: Loaded) -> int:
        from stpipe.pipeline.mine import run_mine

        return run_mine(loaded)

    return run_composed(args, job)


def completed(overrides: list[str], *, whole: bool) -> list[str]:
    """The overrides with what a configuration needs and mining does not say: a model, and no loss.

    Args:
        overrides: as they were given.
        whole: they are laid over a saved configuration.
    """
    keys = {override.lstrip("+").split("=")[0]: override for override in overrides}
    added = [] if any(key.split(".")[0] == "loss" for key in keys) else [NO_LOSS]
    if not whole and "mine.model" in keys and not any(key in ("recipe", "model") or key.startswith("model.") for key in keys):
        added.append("model.name_or_path=" + keys["mine.model"].partition("=")[2])
    return [*overrides, *added]
