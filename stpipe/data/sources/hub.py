"""Data sets of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa

from stpipe.config.errors import ConfigError, UnreachableError
from stpipe.data.provenance import hub_provenance
from stpipe.data.sources.request import SourceRequest, not_found, pick_split
from stpipe.data.table import RawTable, Span


def read_hub(request: SourceRequest) -> RawTable:
    """One split of a Hub data set, downloaded or taken from the local Hub cache."""
    loaded = _load(request, streaming=False)
    chosen = loaded if isinstance(loaded, datasets.Dataset) else loaded[pick_split(request, list(loaded))]
    table = from_dataset(chosen, origin=f"{request.uri}[{chosen.split or request.splits[0]}]")
    return replace(table, provenance=hub_provenance(request.uri.removeprefix("hf://"), chosen))


def stream_hub(request: SourceRequest) -> datasets.IterableDataset:
    """The same split, read from the Hub as it is used."""
    loaded = _load(request, streaming=True)
    return loaded if isinstance(loaded, datasets.IterableDataset) else loaded[pick_split(request, list(loaded))]


def _load(request: SourceRequest, *, streaming: bool) -> Any:
    loggers = (datasets.utils.logging, huggingface_hub.utils.logging)
    verbosity = [logger.get_verbosity() for logger in loggers]
    config = datasets.DownloadConfig(local_files_only=request.offline)
    try:
        for logger in loggers:
            logger.set_verbosity_error()
        return datasets.load_dataset(
            request.uri.removeprefix("hf://"),
            request.subset,
            split=request.splits[0] if not request.optional_split else None,
            revision=request.revision,
            download_config=config,
            streaming=streaming,
        )
    except Exception as error:
        raise explain(request, error) from error
    finally:
        for logger, before in zip(loggers, verbosity, strict=True):
            logger.set_verbosity(before)


def from_dataset(dataset: datasets.Dataset, *, origin: str) -> RawTable:
    """A `datasets.Dataset` as a table, memory-mapped where it is."""
    table: pa.Table = dataset.with_format("arrow")[:]
    return RawTable(table, [Span(origin, table.num_rows)], class_names(dataset.features))


def class_names(features: datasets.Features | None) -> dict[str, list[str]]:
    """Column -> names of its classes, where a data set declares them."""
    return {name: list(f.names) for name, f in (features or {}).items() if isinstance(f, datasets.ClassLabel)}


def explain(request: SourceRequest, error: Exception) -> ConfigError:
    """What to do when load_dataset fails: it raises many types for few causes."""
    reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
    asked = {"subset": request.subset, "revision": request.revision}
    details = ", ".join(f"{name} '{value}'" for name, value in asked.items() if value)
    what = f"Hub data set ({details})" if details else "Hub data set"
    not_here = request.offline and "cache" in reason.lower()  # the library has no type for it
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError) and not not_here:
        return not_found(request, f"the {what} cannot be read as asked: {reason}")
    return UnreachableError(
        request.uri,
        f"'{request.uri}' is no local path, and the {what} is neither in the local cache nor reachable ({type(error).__name__}: {reason})",
        key=request.key,
    )
