"""Adapters of search engines: real clients against a local mode, a local server, or the library itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import elasticsearch
import numpy as np
import pytest
import torch

import stpipe.util
from stpipe.config.errors import ConfigError, DataError, MissingExtraError
from stpipe.ops.sparse import to_csr
from stpipe.search import InvertedIndex
from stpipe.util import (
    semantic_search_elasticsearch,
    semantic_search_opensearch,
    semantic_search_qdrant,
    semantic_search_seismic,
)
from stpipe.util.search_common import client_module, field_name
from tests.util.engine import engine

WIDTH = 50
#: Tokens with everything that engines dislike: dots, percent signs, blanks, letters of other alphabets.
TOKENS = [f"t{i}" for i in range(WIDTH - 5)] + [".", "_", "%2E", "a.b", "übel ."]


def embeddings(count: int, *, active: int = 8, seed: int = 0) -> torch.Tensor:
    """(count, WIDTH) with `active` weights a row, that 9 significant bits hold; the last row is empty."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((count, WIDTH), dtype=np.float32)
    for row in dense[:-1]:
        row[rng.choice(WIDTH, size=active, replace=False)] = rng.integers(1, 256, size=active) / 64
    return torch.from_numpy(dense).to_sparse_coo()


def decoded(values: torch.Tensor) -> list[list[tuple[str, float]]]:
    """As `SparseEncoder.decode` returns it: best first."""
    return [sorted(((TOKENS[j], float(row[j])) for j in np.flatnonzero(row)), key=lambda x: -x[1]) for row in values.to_dense().numpy()]


DOCS, QUERIES = embeddings(60), embeddings(9, active=5, seed=1)


def exact(top_k: int = 7) -> list[list[dict[str, Any]]]:
    index = InvertedIndex()
    index.add(DOCS)
    return index.search(QUERIES, top_k).as_lists()


def same(found: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> None:
    """The same scores rank by rank, and each document with its own score (documents with equal scores may be swapped)."""
    scores = to_csr(QUERIES) @ to_csr(DOCS).T
    assert len(found) == len(expected) and found[-1] == expected[-1] == [] and len(expected[0]) == 7
    for q, (ours, wanted) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in wanted], rtol=1e-6)
        for hit in ours:
            assert type(hit["corpus_id"]) is int and scores[q, hit["corpus_id"]] == pytest.approx(hit["score"], rel=1e-6)


def test_qdrant_in_its_local_mode() -> None:
    found, seconds, index = semantic_search_qdrant(QUERIES, DOCS, top_k=7, output_index=True, location=":memory:")
    same(found, exact())
    assert seconds > 0
    again = semantic_search_qdrant(QUERIES, corpus_index=index, top_k=7)
    assert len(again) == 2 and again[0] == found
    assert semantic_search_qdrant(QUERIES.to_dense()[0], corpus_index=index, top_k=7)[0] == found[:1], "a single dense vector"
    assert index[0].count(index[1]).count == 60
    index[0].close()


@pytest.mark.parametrize("function", [semantic_search_elasticsearch, semantic_search_opensearch])
def test_real_clients_against_a_local_server(function: Any) -> None:
    with engine() as server:
        found, seconds, index = function(decoded(QUERIES), decoded(DOCS), top_k=7, output_index=True, hosts=server.url)
        same(found, exact())
        assert seconds > 0
        assert len(server.docs[index[1]]) == 60
        assert server.mappings[index[1]]["properties"]["tokens"] == {"type": "rank_features"}
        asked = len(server.requests)
        again = function(decoded(QUERIES), corpus_index=index, top_k=7)
        assert len(again) == 2 and again[0] == found
        assert [path.rsplit("/", 1)[1] for _, path, _ in server.requests[asked:]] == ["_search"] * 8, (
            "one request a query that is not empty"
        )
        index[0].close()


def test_queries_of_elasticsearch_add_up_to_the_dot_product() -> None:
    with engine() as server:
        *_, index = semantic_search_elasticsearch([[("a.b", 0.5), ("t1", 2.0)]], [[("a.b", 3.0)]], output_index=True, hosts=server.url)
        query = server.requests[-1][2]["query"]["bool"]
        assert query["should"] == [
            {"rank_feature": {"field": "tokens.a%2Eb", "linear": {}, "boost": 0.5}},
            {"rank_feature": {"field": "tokens.t1", "linear": {}, "boost": 2.0}},
        ]
        assert query["minimum_should_match"] == 1
        index[0].close()


def test_bulk_requests_hold_a_thousand_documents_at_most() -> None:
    with engine() as server:
        *_, index = semantic_search_opensearch([[("t0", 1.0)]], [[("t0", 1.0)]] * 2100, top_k=1, output_index=True, hosts=server.url)
        sizes = [len(body) // 2 for _, path, body in server.requests if path == "/_bulk"]
        assert sizes == [1000, 1000, 100]
        index[0].close()


def test_no_two_tokens_become_one_feature() -> None:
    names = [field_name(token) for token in [*TOKENS, "%", "%25", "%252E", ".."]]
    assert len(set(names)) == len(names) and not any("." in name for name in names)


def test_seismic_finds_the_same_when_it_looks_everywhere() -> None:
    thorough = {"query_cut": WIDTH, "heap_factor": 1.0}
    build = {"n_postings": 1000, "doc_cut": WIDTH, "summary_energy": 1.0, "num_threads": 1}
    found, seconds, index = semantic_search_seismic(
        decoded(QUERIES), decoded(DOCS), top_k=7, output_index=True, index_kwargs=build, search_kwargs={**thorough, "num_threads": 1}
    )
    same(found, exact())
    assert seconds > 0
    given: dict[str, Any] = {"num_threads": 1}
    again = semantic_search_seismic(decoded(QUERIES), corpus_index=index, top_k=7, search_kwargs=given)
    assert len(again) == 2 and len(again[0]) == 9 and given == {"num_threads": 1}
    recall = np.mean(
        [len({h["corpus_id"] for h in a} & {h["corpus_id"] for h in b}) / 7 for a, b in zip(again[0][:-1], found[:-1], strict=True)]
    )
    assert recall > 0.6


DECODED = [semantic_search_elasticsearch, semantic_search_opensearch, semantic_search_seismic]


@pytest.mark.parametrize("function", DECODED)
@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([("t", 1.0)], r"query_embeddings_decoded\[0\] is \('t', 1.0\); expected a list of \(token, weight\) pairs"),
        ([[("t", 1.0)], [("t", -1.0)]], r"query_embeddings_decoded\[1\]: token 't' has weight -1.0"),
        ([[("t", float("nan"))]], "token 't' has weight nan"),
    ],
)
def test_what_is_no_decoded_text_is_refused(function: Any, queries: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        function(queries, [[("t", 1.0)]])


@pytest.mark.parametrize("function", [*DECODED, semantic_search_qdrant])
def test_a_corpus_or_an_index_is_needed(function: Any) -> None:
    query = QUERIES if function is semantic_search_qdrant else [[("t", 1.0)]]
    with pytest.raises(ConfigError, match="give either corpus_embeddings.* or corpus_index"):
        function(query)


def test_a_missing_client_names_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"semantic_search_qdrant needs the package 'qdrant-client'.*stpipe\[qdrant\]"):
        client_module("no_such_client", package="qdrant-client", extra="qdrant")


def test_clients_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, stpipe.util as u; clients = {'qdrant_client', 'elasticsearch', 'opensearchpy', 'seismic', 'torch'};"
        "assert not clients & set(sys.modules); assert set(u.__all__) <= set(dir(u));"
        "u.semantic_search_elasticsearch; assert not clients & set(sys.modules), clients & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'semantic_serch'"):
        stpipe.util.__getattr__("semantic_serch")


def test_the_server_of_these_tests_can_fail() -> None:
    missing = pytest.raises(elasticsearch.NotFoundError, match="index_not_found")
    with engine() as server, elasticsearch.Elasticsearch(server.url) as client, missing:
        semantic_search_elasticsearch([[("t", 1.0)]], corpus_index=(client, "missing"))
