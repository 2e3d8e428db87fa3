"""What the adapters of search engines share: clients on demand, checked inputs, one form of results."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from stpipe.config.errors import ConfigError, DataError, MissingExtraError

#: For each query [{"corpus_id": int, "score": float}, ...], best first.
Results = list[list[dict[str, Any]]]
#: One text as [(token, weight), ...], as `SparseEncoder.decode` gives it.
Decoded = Sequence[tuple[str, float]]

T = TypeVar("T")


def client_module(module: str, *, package: str, extra: str) -> Any:
    """The module of a client library; one that is not installed is an error that names the extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(package, extra, f"semantic_search_{extra}") from error


def required(corpus: T | None, name: str) -> T:
    """The corpus, without which there must be an index."""
    if corpus is None:
        raise ConfigError(f"give either {name} (an index is built) or corpus_index (one that exists is searched)")
    return corpus


def weights_of(texts: Sequence[Decoded], name: str) -> list[dict[str, float]]:
    """Token -> weight of each text, without zeros. Engines store positive weights only."""
    found = []
    for row, text in enumerate(texts):
        try:
            pairs = [(str(token), float(weight)) for token, weight in text]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name}[{row}] is {str(text)[:80]}; expected a list of (token, weight) pairs, as model.decode(embeddings) gives for many texts"
            ) from error
        bad = next(((token, weight) for token, weight in pairs if weight < 0 or not math.isfinite(weight)), None)
        if bad is not None:
            raise DataError(f"{name}[{row}]: token {bad[0]!r} has weight {bad[1]}; expected a finite number of at least 0")
        found.append({token: weight for token, weight in pairs if weight > 0})
    return found


def field_name(token: str) -> str:
    """A token as a feature name, which must not hold a dot: dots are escaped so that no two tokens become one."""
    return token.replace("%", "%25").replace(".", "%2E")


def escaped(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of one text by feature name."""
    return {field_name(token): weight for token, weight in weights.items()}


def new_name(kind: str) -> str:
    """A name for an index or collection that nobody else has."""
    return f"sparse_{kind}_{uuid4().hex}"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


def answer(results: Results, seconds: float, index: Any, *, output_index: bool) -> tuple[Any, ...]:
    """(results, seconds) or (results, seconds, index)."""
    return (results, seconds, index) if output_index else (results, seconds)


def hits_of(response: Any) -> list[dict[str, Any]]:
    """The hits of an Elasticsearch or OpenSearch response."""
    return [{"corpus_id": int(hit["_id"]), "score": float(hit["_score"])} for hit in response["hits"]["hits"]]


#: Index of documents with one field of positive weights by token.
FEATURE_MAPPINGS: Mapping[str, Any] = {"properties": {"tokens": {"type": "rank_features"}, "id": {"type": "keyword"}}}


def bulk_actions(index: str, corpus: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """What `helpers.bulk` sends to store the documents, numbered from 0."""
    for number, weights in enumerate(corpus):
        yield {"_index": index, "_id": str(number), "_source": {"id": str(number), "tokens": escaped(weights)}}
