"""BM25 against its formula, and as a baseline."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from stpipe.evaluation import InformationRetrievalEvaluator, RerankingEvaluator, SequentialEvaluator, TripletEvaluator
from stpipe.evaluation.bm25 import BM25, identifier_parts, words
from stpipe.evaluation.ranking import NO_DOC, Collection
from tests.evaluation.toy import ToyModel, lists, pairs, tuples

DOCS = ["the cat sat on the mat", "a cat and a dog", "the dog ate the dog food", "birds fly", "cat cat cat", ""]


def collection(queries: list[str]) -> Collection:
    ids = [f"d{i}" for i in range(len(DOCS))]
    return Collection([f"q{i}" for i in range(len(queries))], queries, ids, DOCS, [{0: 1.0}] * len(queries))


def formula(query: str, doc: str, k1: float, b: float) -> float:
    """Robertson and Zaragoza 2009, with idf = ln(1 + (N - n + 0.5) / (n + 0.5))."""
    split = [d.split() for d in DOCS]
    mean = sum(map(len, split)) / len(split)
    counts, score = Counter(doc.split()), 0.0
    for word in query.split():
        n = sum(word in d for d in split)
        if counts[word]:
            idf = math.log(1 + (len(DOCS) - n + 0.5) / (n + 0.5))
            score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(doc.split()) / mean))
    return score


def test_scores_are_those_of_the_formula() -> None:
    queries = ["cat dog", "the the mat", "birds", "cat unknown"]
    found = BM25().search(collection(queries), depth=6)
    for query, docs, scores in zip(queries, found.docs, found.scores, strict=True):
        wanted = {i: s for i, text in enumerate(DOCS) if (s := formula(query, text, 1.5, 0.75)) > 0}
        hits = docs[docs != NO_DOC]
        assert hits.tolist() == sorted(wanted, key=lambda i: (-wanted[i], i)) and len(hits) > 0
        np.testing.assert_allclose(scores[: len(hits)], [wanted[i] for i in hits], rtol=1e-6)


def test_documents_without_a_common_word_are_not_found() -> None:
    found = BM25().search(collection(["zebra", "", "?!"]), depth=6)
    assert (found.docs == NO_DOC).all()


def test_a_corpus_without_words() -> None:
    empty = Collection(["q"], ["cat"], ["a", "b"], ["", "..."], [{0: 1.0}])
    assert (BM25().search(empty, depth=2).docs == NO_DOC).all()
    assert BM25().rerank(empty, [np.array([0, 1])]).docs.tolist() == [[0, 1]]


def test_rerank_keeps_every_candidate() -> None:
    found = BM25().rerank(collection(["cat", "dog"]), [np.array([0, 3, 4]), np.array([3, 5])])
    assert found.docs.tolist() == [[4, 0, 3], [3, 5, NO_DOC]]


def test_tokens() -> None:
    text = "parseHTTPHeader(load_json2, Grösse)"
    assert words(text, tokens="words") == ["parsehttpheader", "load_json2", "grösse"]
    assert words(text, tokens="identifiers") == [
        *["parsehttpheader", "parse", "http", "header"],
        *["load_json2", "load", "json", "2", "grösse"],
    ]
    assert identifier_parts("plain") == identifier_parts("__init__") == identifier_parts("HTTP") == []


def test_identifier_parts_find_what_words_do_not() -> None:
    given = Collection(["q"], ["read header"], ["a", "b"], ["def other()", "def readHeader()"], [{1: 1.0}])
    assert (BM25("words").search(given, depth=2).docs == NO_DOC).all()
    assert BM25("identifiers").search(given, depth=2).docs[0, 0] == 1


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_baseline_has_the_models_metric_names(similarity: str) -> None:
    model = ToyModel(similarity_fn_name=similarity)
    for evaluator, rows in ((InformationRetrievalEvaluator(), pairs()), (RerankingEvaluator(), lists())):
        found = evaluator.baselines({"x": rows}, similarity=similarity)["bm25"]
        model_found = evaluator(model, rows, batch_size=8)
        assert found.metrics.keys() == model_found.metrics.keys() and found.primary == model_found.primary
        assert found.per_query is not None and model_found.per_query is not None
        assert [line["query_id"] for line in found.per_query] == [line["query_id"] for line in model_found.per_query]
        assert 0.5 < found.primary_value <= 1, "the first word is common"


def test_baselines_can_be_turned_off_and_do_not_exist_without_ranking() -> None:
    assert InformationRetrievalEvaluator(bm25=None).baselines({"x": pairs()}, similarity="cosine") == {}
    assert RerankingEvaluator(bm25=None).baselines({"x": lists()}, similarity="cosine") == {}
    assert TripletEvaluator().baselines({"x": tuples()}, similarity="cosine") == {}
    inner = SequentialEvaluator(evaluators={"t": TripletEvaluator(), "r": InformationRetrievalEvaluator()})
    found = inner.baselines({"x": tuples()}, similarity="cosine")["bm25"]
    assert list(found.parts) == ["r"] and math.isnan(found.primary_value)
    assert SequentialEvaluator(evaluators={"t": TripletEvaluator()}).baselines({"x": tuples()}, similarity="cosine") == {}
