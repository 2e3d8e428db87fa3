"""`mine_hard_negatives`: a data set of pairs in, the same with hard negatives out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.registry import unknown_name
from stpipe.search.faiss_index import faiss_module
from stpipe.util.mining.formats import Names
from stpipe.util.mining.mine import Mining
from stpipe.util.mining.pairs import pair_up
from stpipe.util.mining.retriever import Prompt, Retriever, Scorer, SearchOptions, weights_identity
from stpipe.util.mining.run import Mined, Output, texts_of, token_counter
from stpipe.util.mining.settings import Rules
from stpipe.util.mining.settings import output_format as known_format

logger = logging.getLogger("stpipe")


@dataclass(frozen=True)
class Renamed:
    """Old parameters of the documentation; None where they are not given."""

    as_triplets: bool | None
    margin: float | None


def mine_hard_negatives(
    dataset: datasets.Dataset,
    model: Any,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: Sequence[str] | None = None,
    cross_encoder: Any = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: str = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: str = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: Sequence[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | Path | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
    *,
    seed: int = 12,
    faiss_index: str = "Flat",
) -> datasets.Dataset:
    """Add to each (anchor, positive) pair texts that are near the anchor and do not answer it. docs/mining.md tells what is done.

    Args:
        dataset: pairs, in two columns (by default the first two). Rows with the same anchor are one query with several positives.
        model: dense or sparse embedding model, asked with the prompts that are given, else with its own.
        corpus: documents to choose from besides the positives.
        cross_encoder: gives the scores that limits look at, of candidates and positives. Used only when there is a limit.
        range_min, range_max: nearest candidates to skip (counted after the limits) and to choose from; None is range_min +
            num_negatives + most positives of a query, with ten times num_negatives where limits may drop some.
        max_score, min_score, absolute_margin, relative_margin: limits of a negative's score; the margins are below the lowest of the
            query's positives, relative_margin as a share of that one's magnitude.
        num_negatives, sampling_strategy, seed: how many; "top" takes the nearest, "random" draws by the seed.
        include_positives: keep positives among the candidates, for data that tests rerankers; makes n-tuples.
        output_format, output_scores: see stpipe/util/mining/formats.py.
        batch_size, faiss_batch_size: texts or pairs of a forward, queries of a search. Neither changes a result.
        use_faiss, faiss_index: search by FAISS (extra `faiss`), with another index than the exact flat one where it is named.
        use_multi_process: devices of a pool of the models that can start one; other models compute in this process, and say so.
        verbose, cache_folder: print progress and a summary; keep embeddings and finished blocks, so that a killed call continues.
        as_triplets, margin: old parameters.

    Raises:
        ConfigError: parameters that do not fit together, or an unknown column. DataError: no rows, or a row without text.
    """
    rules = Rules(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin if margin is None else margin,
        relative_margin=relative_margin,
        sampling_strategy=sampling_strategy,
        include_positives=include_positives,
        seed=seed,
    )
    names = columns_of(dataset, anchor_column_name, positive_column_name)
    output = output_of(output_format, output_scores, names, rules, Renamed(as_triplets, margin))
    prompts = Prompt(query_prompt, query_prompt_name), Prompt(corpus_prompt, corpus_prompt_name)
    models = Models(model, cross_encoder, prompts, batch_size, use_multi_process)
    search = SearchOptions(use_faiss, faiss_index, faiss_batch_size)
    return mined_rows(dataset, corpus or (), models, rules, output, search, cache_folder, verbose=verbose)


@dataclass(frozen=True)
class Models:
    """Who mines: retriever, perhaps a cross-encoder, prompts of queries and documents, texts a forward, devices of a pool."""

    retriever: Any
    cross_encoder: Any
    prompts: tuple[Prompt, Prompt]
    batch_size: int
    devices: Sequence[str] | bool


def mined_rows(
    dataset: datasets.Dataset,
    corpus: Sequence[str],
    models: Models,
    rules: Rules,
    output: Output,
    search: SearchOptions,
    cache_folder: str | Path | None,
    *,
    verbose: bool,
) -> datasets.Dataset:
    """The rows of one mining; arguments as `mine_hard_negatives` sorts them."""
    if search.use_faiss:
        faiss_module()
    if search.query_chunk < 1:
        raise ConfigError(Problem("faiss_batch_size", f"found {search.query_chunk}, expected at least 1"))
    pairs = pair_up(dataset[output.names.anchor], dataset[output.names.positive], corpus)
    scored = models.cross_encoder is not None and rules.uses_scores
    if models.cross_encoder is not None and not scored:
        logger.warning("the cross-encoder is not used: no margin, max_score or min_score looks at its scores")
    rules = rules.resolved(pairs.most_rows, rescored=scored)
    progress = told if verbose else None
    with ExitStack() as stack:
        folder = Path(cache_folder) if cache_folder else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stpipe-mine-")))
        scorer = None
        if scored:
            pool = stack.enter_context(pool_of(models.cross_encoder, models.devices))
            scorer = Scorer(models.cross_encoder, weights_identity(models.cross_encoder), models.batch_size, pool)
        pool = stack.enter_context(pool_of(models.retriever, models.devices))
        identity = weights_identity(models.retriever)
        embeddings = folder / "embeddings"
        retriever = Retriever(
            models.retriever, identity, embeddings, *models.prompts, batch_size=models.batch_size, pool=pool, progress=progress
        )
        mined = Mined(Mining(pairs, retriever, rules, folder / "mined", scorer, search, progress), output, rules.as_dict())
        table = pa.concat_tables(list(mined.tables()))
        if verbose:
            report = mined.report(table.num_rows, lambda rows: texts_of(table, rows), token_counter(models.retriever))
            print("\n".join(report.lines()))
    return datasets.Dataset(table)


def columns_of(dataset: datasets.Dataset, anchor: str | None, positive: str | None) -> Names:
    """The two columns; the first two unless they are given."""
    if len(dataset) == 0:
        raise DataError("the data set is empty; expected at least one pair")
    columns = list(dataset.column_names)
    for key, name in (("anchor_column_name", anchor), ("positive_column_name", positive)):
        if name is not None and name not in columns:
            raise ConfigError(Problem(key, unknown_name("column", name, columns)))
    rest = [name for name in columns if name not in (anchor, positive)]
    if len(rest) < (anchor is None) + (positive is None):
        raise ConfigError(f"the data set has the columns {', '.join(columns)}; expected one of anchors and one of positives")
    first = anchor if anchor is not None else next(name for name in columns if name != positive)
    second = positive if positive is not None else next(name for name in columns[columns.index(first) :] + columns if name != first)
    return Names(first, second)


def output_of(output_format: str, scores: bool, names: Names, rules: Rules, old: Renamed) -> Output:
    """How rows are written, with what old parameters say; each of them is told of."""
    if old.as_triplets is not None:
        output_format = "triplet" if old.as_triplets else "n-tuple"
        logger.warning("as_triplets is old; use output_format='%s'", output_format)
    if output_format == "n-tuple-scores":
        logger.warning("output_format='n-tuple-scores' is old; use 'n-tuple' with output_scores=True")
        output_format, scores = "n-tuple", True
    if old.margin is not None:
        logger.warning("margin is old; use absolute_margin=%s", old.margin)
    if rules.include_positives and output_format != "n-tuple":
        logger.warning("include_positives makes n-tuples, whose order is the ranking; output_format=%s is ignored", output_format)
        output_format = "n-tuple"
    return Output(known_format(output_format), scores, names)


@contextmanager
def pool_of(model: Any, devices: Sequence[str] | bool) -> Iterator[Any]:
    """Processes of a model that can start some; None when they are not wanted, or the model cannot."""
    if not devices:
        yield None
        return
    start = getattr(model, "start_multi_process_pool", None)
    if start is None:
        logger.warning("use_multi_process: %s has no pool of processes; everything is computed in this one", type(model).__name__)
        yield None
        return
    pool = start(target_devices=None if isinstance(devices, bool) else list(devices))
    try:
        yield pool
    finally:
        model.stop_multi_process_pool(pool)


def told(what: str, done: int, total: int) -> None:
    """One line of progress."""
    print(f"{what}: {done:,} of {total:,}", flush=True)
