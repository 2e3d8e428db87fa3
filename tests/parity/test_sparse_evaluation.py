"""Evaluators of sparse models against those of sentence-transformers, over the embeddings of a real (tiny) SPLADE model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from sentence_transformers import SparseEncoder as PeerModel
from sentence_transformers.sparse_encoder import evaluation as st
from sentence_transformers.sparse_encoder.evaluation.sparse_nano_beir import SparseNanoBEIREvaluator
from torch import Tensor

from stpipe.core.rows import Rows
from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    NanoBEIREvaluator,
    ReciprocalRankFusionEvaluator,
    RerankingEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from stpipe.evaluation.collection import collection_of
from stpipe.evaluation.ranking import NO_DOC
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.models.sparse_encoder import SparseEncoder
from tests.evaluation.nano import write_hub_copy
from tests.evaluation.toy import SparseToy, classed, lists, pairs, scored, tuples
from tests.models.tiny import CONFIGS, make_tokenizer

FOUR = ("cosine", "dot", "euclidean", "manhattan")
#: Reported by stpipe only.
MORE = ("flops_per_query", "posting_list_mean", "posting_list_max")


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a masked language model of random weights, whose low bias leaves about a third of 101 words active."""
    torch.manual_seed(0)
    model = hf.BertForMaskedLM(CONFIGS["bert"]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.cls.predictions.bias -= 1.0
    folder = tmp_path_factory.mktemp("splade")
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(splade: Path) -> PeerModel:
    return PeerModel(str(splade), device="cpu")


class Adapter:
    """Their model as stpipe's evaluators call one, so that both evaluators see the same embeddings."""

    kind = "sparse"

    def __init__(self, model: PeerModel) -> None:
        self.model = model
        self.similarity_fn_name = str(model.similarity_fn_name)

    def encode(self, inputs: Sequence[str], **options: Any) -> Tensor:
        return self.model.encode(list(inputs), **options)

    def encode_query(self, inputs: Sequence[str], **options: Any) -> Tensor:
        return self.model.encode_query(list(inputs), **options)

    def encode_document(self, inputs: Sequence[str], **options: Any) -> Tensor:
        return self.model.encode_document(list(inputs), **options)

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor:
        return self.model.similarity(a, b)

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor:
        return self.model.similarity_pairwise(a, b)


def known(rows: Rows) -> Rows:
    """The same rows in words of the tiny vocabulary: unknown words would make texts equal, and equal similarities differ by noise."""

    def text(given: Any) -> Any:
        if isinstance(given, list):
            return [text(t) for t in given]
        words = {"ask": "query a", "text": "document", "answer": "document b", "no": "."}
        numbers = re.sub(r"\bv?(\d+)(?:\.(\d))?\b", lambda m: f"w{(int(m[1]) * 7 + 45 + int(m[2] or 0)) % 90}", given)
        return " ".join(words.get(word, word) for word in numbers.split())

    columns = {role: [text(t) for t in texts] for role, texts in rows.columns.items()}
    return dataclasses.replace(rows, columns=columns)


def same(ours: dict[str, float], theirs: dict[str, float], *, tolerance: float = 1e-5) -> None:
    """Their names, and values that differ by the rounding of float32 at most; stpipe's own metrics are left out."""
    kept = {name: value for name, value in ours.items() if not name.endswith(MORE)}
    assert sorted(kept) == sorted(theirs) and len(kept) > 2
    values = np.array([theirs[name] for name in kept])
    assert np.isfinite(values).all() and not np.isin(values[:1], (0.0, 1.0)).any(), "the first metric must be able to differ"
    np.testing.assert_allclose(list(kept.values()), values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dims", [None, 8])
@pytest.mark.parametrize("functions", [None, FOUR])
def test_embedding_similarity(theirs: PeerModel, functions: Any, dims: int | None) -> None:
    rows = known(scored())
    peer = st.SparseEmbeddingSimilarityEvaluator(
        rows.columns["anchor"],
        rows.columns["positive"],
        rows.labels,
        similarity_fn_names=list(functions) if functions else None,
        max_active_dims=dims,
    )
    ours = EmbeddingSimilarityEvaluator(similarities=functions, max_active_dims=dims)(Adapter(theirs), rows, batch_size=8)
    same(ours.metrics, peer(theirs))
    assert ours.primary == peer.primary_metric
    assert dims is None or ours.metrics["active_dims"] <= dims


@pytest.mark.parametrize("functions", [None, FOUR])
def test_binary_classification(theirs: PeerModel, functions: Any) -> None:
    rows = known(classed(75))
    sides = rows.columns["anchor"], rows.columns["positive"]
    peer = st.SparseBinaryClassificationEvaluator(*sides, rows.labels, similarity_fn_names=list(functions) if functions else None)(theirs)
    ours = BinaryClassificationEvaluator(similarities=functions)(Adapter(theirs), rows, batch_size=8)
    widths = {name: peer.pop(name) for name in ("active_dims", "sparsity_ratio")}
    same({name: value for name, value in ours.metrics.items() if name not in widths}, peer)
    for name, value in widths.items():  # a text that occurs in several rows counts once there
        assert ours.metrics[name] == pytest.approx(value, rel=0.01)
    assert ours.primary == ("max_ap" if functions else "dot_ap")


@pytest.mark.parametrize("functions", [None, FOUR])
def test_triplet(theirs: PeerModel, functions: Any) -> None:
    rows = known(tuples(negatives=1))
    peer = st.SparseTripletEvaluator(
        *(rows.columns[role] for role in ("anchor", "positive", "negative_1")), similarity_fn_names=list(functions) if functions else None
    )
    ours = TripletEvaluator(similarities=functions)(Adapter(theirs), rows, batch_size=8)
    same(ours.metrics, peer(theirs))
    assert ours.primary == peer.primary_metric


def retrieval_task(rows: Rows) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Queries, corpus and relevant documents in their form."""
    queries = {text: f"q{i}" for i, text in enumerate(dict.fromkeys(rows.columns["anchor"]))}
    docs = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(rows.columns["positive"]))}
    relevant: dict[str, set[str]] = {}
    for query, doc in zip(rows.columns["anchor"], rows.columns["positive"], strict=True):
        relevant.setdefault(queries[query], set()).add(docs[doc])
    return {i: t for t, i in queries.items()}, {i: t for t, i in docs.items()}, relevant


@pytest.mark.parametrize("dims", [None, 12])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_information_retrieval(theirs: PeerModel, dims: int | None, chunk: int) -> None:
    rows = known(pairs(80))
    peer = st.SparseInformationRetrievalEvaluator(*retrieval_task(rows), corpus_chunk_size=chunk, max_active_dims=dims)
    ours = InformationRetrievalEvaluator(max_active_dims=dims, corpus_chunk_size=chunk)(Adapter(theirs), rows, batch_size=8)
    same(ours.metrics, peer(theirs))
    assert ours.primary == peer.primary_metric == "dot_ndcg@10"


def test_reranking(theirs: PeerModel) -> None:
    rows = known(lists())
    samples = []
    for query, docs, labels in zip(rows.columns["query"], rows.columns["documents"], rows.labels or (), strict=True):
        sides: dict[bool, list[str]] = {True: [], False: []}
        for doc, label in zip(docs, labels, strict=True):
            sides[label > 0].append(doc)
        samples.append({"query": query, "positive": sides[True], "negative": sides[False]})
    peer = st.SparseRerankingEvaluator(samples)(theirs)
    ours = RerankingEvaluator(graded=False, similarity="cosine")(Adapter(theirs), rows, batch_size=8)
    ranked = ("ndcg@10", "mrr@10", "map", "query_active_dims", "query_sparsity_ratio")
    same({name: ours.metrics[name] for name in ranked}, {name: peer[name] for name in ranked})
    # A document that is a candidate of two queries counts once here and twice there.
    assert ours.metrics["corpus_active_dims"] == pytest.approx(peer["corpus_active_dims"], rel=0.05)


def test_mse(splade: Path) -> None:
    teacher, student = PeerModel(str(splade), device="cpu"), PeerModel(str(splade), device="cpu")
    with torch.no_grad():
        student[0].model.cls.predictions.bias += 0.3
    texts = [f"w{i} text w{i + 1}" for i in range(20)]
    labels = teacher.encode(texts, convert_to_sparse_tensor=False).tolist()
    ours = MSEEvaluator()(Adapter(student), Rows({"anchor": texts}, labels, "text-vector", {}), batch_size=8)
    same(ours.metrics, st.SparseMSEEvaluator(texts, texts, teacher_model=teacher)(student))


def test_translation(theirs: PeerModel) -> None:
    rows = known(pairs())
    ours = TranslationEvaluator()(Adapter(theirs), rows, batch_size=8)
    same(ours.metrics, st.SparseTranslationEvaluator(rows.columns["anchor"], rows.columns["positive"])(theirs))


def test_reciprocal_rank_fusion() -> None:
    """Their evaluator takes two lists of documents for each query; here they are the rankings that stpipe fused."""
    rows = pairs(60)
    evaluator = ReciprocalRankFusionEvaluator(other="unused", depth=60, rrf_k=7)
    rankers = [EmbeddingSearch(SparseToy(noise=noise), ("dot",), 8) for noise in (12, 30)]
    found = evaluator.evaluate_rankers(*rankers, {"default": rows})
    collection, _ = collection_of(rows)
    samples = []
    for ranker in rankers:
        ranking = ranker.search(collection, depth=60)
        samples.append(
            [
                {
                    "query_id": collection.query_ids[q],
                    "query": collection.queries[q],
                    "positive": [collection.docs[d] for d in collection.grades[q]],
                    "documents": [collection.docs[d] for d in row if d != NO_DOC],
                }
                for q, row in enumerate(ranking.docs)
            ]
        )
    peer = st.ReciprocalRankFusionEvaluator(*samples, rrf_k=7)()
    named = {name.replace("model_", "dense_").replace("other_", "sparse_"): value for name, value in found.metrics.items()}
    assert sorted(named) == sorted(peer)
    for name, value in peer.items():
        # Ranks (1, 2) and (2, 1) give the same sum: there the first system decides, here the document number.
        assert named[name] == pytest.approx(value, abs=1e-9 if name.startswith(("dense", "sparse")) else 0.02), name
    assert peer["dense_ndcg@10"] != peer["sparse_ndcg@10"] != peer["ndcg@10"]


def test_nano_beir(theirs: PeerModel, tmp_path: Path) -> None:
    """Their evaluator and stpipe's read the same copy of the Hub's layout."""
    copy = write_hub_copy(tmp_path / "NanoBEIR-en", ("msmarco", "nq"))
    peer = SparseNanoBEIREvaluator(["msmarco", "nq"], dataset_id=str(copy), batch_size=8)
    ours = NanoBEIREvaluator(datasets=("msmarco", "nq"), dataset_id=str(copy))(Adapter(theirs), pairs(), batch_size=8)
    same(ours.metrics, peer(theirs))
    assert ours.primary == peer.primary_metric == "NanoBEIR_mean_dot_ndcg@10"


def test_a_saved_model_through_both_packages(splade: Path, theirs: PeerModel) -> None:
    """stpipe's model under stpipe's evaluator and theirs under theirs: other forwards, the same metrics."""
    rows = known(pairs(60))
    peer = st.SparseInformationRetrievalEvaluator(*retrieval_task(rows))(theirs)
    model = SparseEncoder(str(splade), device="cpu")
    same(InformationRetrievalEvaluator(corpus_chunk_size=16)(model, rows, batch_size=8).metrics, peer)
