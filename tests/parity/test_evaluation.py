"""Evaluators against those of sentence-transformers, over the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer as PeerModel
from sentence_transformers.sentence_transformer import evaluation as st

from stpipe.core.rows import Rows
from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    RerankingEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from stpipe.models import SentenceTransformer
from tests.evaluation.toy import ToyModel, classed, lists, pairs, scored, tuples

FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")


class CardData:
    """Takes the metrics that their evaluators hand to the model card."""

    def set_evaluation_metrics(self, *args: Any) -> None:
        """Nothing to keep."""


class Both(ToyModel):
    """The toy model as their evaluators call it: one of three output types, and similarities of arrays."""

    model_card_data = CardData()

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None, default: str, options: dict[str, Any]) -> Any:
        wants_tensor = options.get("convert_to_tensor", False)
        keep = {k: v for k, v in options.items() if k == "truncate_dim" and v is not None}
        values = super()._encode(kind, texts, prompt, default, {**keep, "convert_to_tensor": True})
        if options.get("convert_to_numpy") is False and not wants_tensor:
            return list(values)
        return values if wants_tensor else values.numpy()

    def similarity(self, a: Any, b: Any, /) -> torch.Tensor:
        return super().similarity(torch.as_tensor(a), torch.as_tensor(b))


def same(ours: dict[str, float], theirs: dict[str, float], *, tolerance: float = 1e-6) -> None:
    """Same names, and values that differ by the rounding of float32 at most."""
    assert sorted(ours) == sorted(theirs) and len(ours) > 0
    values = np.array([theirs[name] for name in ours])
    assert np.isfinite(values).all() and not np.isin(values[:1], (0.0, 1.0)).any(), "the first metric must be able to differ"
    np.testing.assert_allclose(list(ours.values()), values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("functions", [None, FUNCTIONS])
@pytest.mark.parametrize("own", FUNCTIONS)
def test_embedding_similarity(functions: Any, own: str) -> None:
    rows, model = scored(), Both(similarity_fn_name=own)
    theirs = st.EmbeddingSimilarityEvaluator(
        rows.columns["anchor"], rows.columns["positive"], rows.labels, similarity_fn_names=list(functions) if functions else None
    )
    ours = EmbeddingSimilarityEvaluator(similarities=functions)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model))
    assert ours.primary == theirs.primary_metric


@pytest.mark.parametrize("functions", [None, FUNCTIONS])
@pytest.mark.parametrize("own", FUNCTIONS)
def test_binary_classification(functions: Any, own: str) -> None:
    rows, model = classed(), Both(similarity_fn_name=own, noise=1.2)
    theirs = st.BinaryClassificationEvaluator(
        rows.columns["anchor"], rows.columns["positive"], rows.labels, similarity_fn_names=list(functions) if functions else None
    )
    ours = BinaryClassificationEvaluator(similarities=functions)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model))
    assert ours.primary == theirs.primary_metric


@pytest.mark.parametrize("functions", [None, FUNCTIONS])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_triplet(functions: Any, margin: float) -> None:
    rows, model = tuples(negatives=1), Both(noise=4.0, query_prompt="q: ")
    theirs = st.TripletEvaluator(
        *(rows.columns[role] for role in ("anchor", "positive", "negative_1")),
        margin=margin,
        similarity_fn_names=list(functions) if functions else None,
    )
    ours = TripletEvaluator(similarities=functions, margin=margin)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model))
    assert ours.primary == theirs.primary_metric


@pytest.mark.parametrize("own", FUNCTIONS)
@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_information_retrieval(own: str, noise: float) -> None:
    rows, model = pairs(80), Both(similarity_fn_name=own, noise=noise, query_prompt="q: ")
    queries = {text: f"q{i}" for i, text in enumerate(dict.fromkeys(rows.columns["anchor"]))}
    docs = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(rows.columns["positive"]))}
    relevant: dict[str, set[str]] = {}
    for query, doc in zip(rows.columns["anchor"], rows.columns["positive"], strict=True):
        relevant.setdefault(queries[query], set()).add(docs[doc])
    settings: dict[str, Any] = {"ndcg_at_k": (3, 10), "map_at_k": (1, 100), "mrr_at_k": (10, 2)}
    theirs = st.InformationRetrievalEvaluator(
        {i: t for t, i in queries.items()}, {i: t for t, i in docs.items()}, relevant, **{k: list(v) for k, v in settings.items()}
    )
    ours = InformationRetrievalEvaluator(**settings)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model), tolerance=1e-9)
    assert ours.primary == theirs.primary_metric == f"{own}_ndcg@10"


@pytest.mark.parametrize("at_k", [3, 10])
def test_reranking(at_k: int) -> None:
    rows, model = lists(), Both(noise=3.0)
    samples = []
    for query, docs, labels in zip(rows.columns["query"], rows.columns["documents"], rows.labels or (), strict=True):
        sides: dict[bool, list[str]] = {True: [], False: []}
        for doc, label in zip(docs, labels, strict=True):
            sides[label > 0].append(doc)
        samples.append({"query": query, "positive": sides[True], "negative": sides[False]})
    theirs = st.RerankingEvaluator(samples, at_k=at_k)
    ours = RerankingEvaluator(at_k=at_k, graded=False)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model), tolerance=1e-9)
    assert ours.primary == theirs.primary_metric


def test_mse_and_truncation() -> None:
    texts = [f"w{i} text" for i in range(20)]
    teacher, student = Both(noise=0.0), Both(noise=0.5)
    labels = teacher.encode(texts, truncate_dim=6).tolist()
    theirs = st.MSEEvaluator(texts, texts, teacher_model=teacher, truncate_dim=6)
    ours = MSEEvaluator(truncate_dim=6)(student, Rows({"anchor": texts}, labels, "text-vector", {}), batch_size=8)
    same(ours.metrics, theirs(student))
    assert ours.primary == theirs.primary_metric


@pytest.mark.parametrize("dims", [None, 5])
@pytest.mark.parametrize("own", ["cosine", "dot"])
def test_translation(own: str, dims: int | None) -> None:
    """Sentences that occur twice among them; always by cosine."""
    rows, model = pairs(), Both(similarity_fn_name=own, noise=1.0)
    theirs = st.TranslationEvaluator(rows.columns["anchor"], rows.columns["positive"], truncate_dim=dims)
    ours = TranslationEvaluator(truncate_dim=dims)(model, rows, batch_size=8)
    same(ours.metrics, theirs(model))
    assert ours.primary == theirs.primary_metric


def test_sequential() -> None:
    rows, model = tuples(negatives=1), Both(noise=4.0)
    columns = [rows.columns[role] for role in ("anchor", "positive", "negative_1")]
    theirs = st.SequentialEvaluator([st.TripletEvaluator(*columns, name="a"), st.TripletEvaluator(*columns, margin=0.2, name="b")])
    ours = SequentialEvaluator(evaluators={"a": TripletEvaluator(), "b": TripletEvaluator(margin=0.2)})(model, rows, batch_size=8)
    same(ours.metrics, theirs(model))
    assert ours.primary == theirs.primary_metric


def test_a_real_model_through_both_packages(package_model: Path) -> None:
    """stpipe's model under stpipe's evaluator and theirs under theirs: other forwards, the same metrics."""
    rows = pairs(
        columns={
            "anchor": ["Return the sum.", "Open a file.", "Parse JSON text.", "Sort a list.", "Join paths.", "Sleep a while."],
            "positive": [
                "def add(a, b)",
                "def open(path, mode)",
                "def loads(s)",
                "def sorted(iterable)",
                "def join(*parts)",
                "def wait(seconds)",
            ],
        },
        prompts={"anchor": "search: "},
    )
    theirs_model = PeerModel(str(package_model), device="cpu", prompts={"query": "search: ", "document": ""})
    queries, docs = (
        {f"{side}{i}": text for i, text in enumerate(rows.columns[role])} for side, role in (("q", "anchor"), ("d", "positive"))
    )
    theirs = st.InformationRetrievalEvaluator(queries, docs, {f"q{i}": {f"d{i}"} for i in range(6)})(theirs_model)
    model = SentenceTransformer(str(package_model), device="cpu")
    ours = InformationRetrievalEvaluator(corpus_chunk_size=4)(model, rows, batch_size=2)
    assert 0.2 < ours.primary_value < 1, "a task that the model neither solves nor fails"
    assert ours.metrics == pytest.approx(theirs, abs=1e-9)
    truncated = InformationRetrievalEvaluator(truncate_dim=2)(model, rows, batch_size=2)
    assert truncated.metrics != ours.metrics
