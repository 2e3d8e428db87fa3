"""Evaluators of cross-encoders against those of sentence-transformers, over the same scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from sentence_transformers import CrossEncoder as PeerModel
from sentence_transformers.cross_encoder import evaluation as st

from stpipe.core.rows import Rows
from stpipe.evaluation import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderNanoBEIREvaluator,
    CrossEncoderRerankingEvaluator,
    Evaluation,
)
from tests.evaluation.nano import write_hub_copy
from tests.evaluation.toy import ToyScorer, classed, classes_of_pairs, lists, pairs, scored, tuples
from tests.models.tiny import CONFIGS, make_tokenizer


class CardData:
    """Takes the metrics that their evaluators hand to the model card."""

    def set_evaluation_metrics(self, *args: Any) -> None:
        """Nothing to keep."""


class Both(ToyScorer):
    """The toy cross-encoder as evaluators of both packages call it."""

    model_card_data = CardData()


class RealModel(PeerModel):
    """Their inference class, under our evaluators too."""

    kind = "cross_encoder"


def pairs_of(rows: Rows) -> list[list[str]]:
    return [list(pair) for pair in zip(rows.columns["anchor"], rows.columns["positive"], strict=True)]


def samples_of(rows: Rows, *, found: int | None = None) -> list[dict[str, Any]]:
    """Their samples: documents in the order of the list, of which only the first `found` were retrieved."""
    listed = zip(rows.columns["query"], rows.columns["documents"], rows.labels or (), strict=True)
    return [
        {"query": query, "positive": [d for d, label in zip(docs, labels, strict=True) if label > 0], "documents": docs[:found]}
        for query, docs, labels in listed
    ]


def same(ours: Evaluation, theirs: dict[str, float], primary: str, *, besides: tuple[str, ...] = ()) -> None:
    """Same primary metric, names (but for some that only we have) and values."""
    assert sorted(ours.metrics) == sorted([*theirs, *besides]) and len(theirs) > 1
    assert 0.05 < theirs[primary] < 0.999, "the primary metric must be able to differ"
    assert {name: ours.metrics[name] for name in theirs} == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-6)
    assert ours.primary == primary


@pytest.mark.parametrize("noise", [0.7, 2.0])
def test_classification_with_one_output(noise: float) -> None:
    rows, model = classed(), Both(noise=noise)
    theirs = st.CrossEncoderClassificationEvaluator(pairs_of(rows), list(rows.labels or ()))
    same(CrossEncoderClassificationEvaluator()(model, rows, batch_size=8), theirs(model), "average_precision")
    assert theirs.primary_metric == "average_precision"


@pytest.mark.parametrize("outputs", [3, 5])
def test_classification_with_classes(outputs: int) -> None:
    rows, model = classes_of_pairs(classes=3), Both(num_labels=outputs, noise=1.3)
    theirs = st.CrossEncoderClassificationEvaluator(pairs_of(rows), list(rows.labels or ()))
    same(CrossEncoderClassificationEvaluator()(model, rows, batch_size=8), theirs(model), "f1_macro", besides=("accuracy",))
    assert theirs.primary_metric == "f1_macro"


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_correlation(noise: float) -> None:
    rows, model = scored(), Both(noise=noise)
    theirs = st.CrossEncoderCorrelationEvaluator(pairs_of(rows), list(rows.labels or ()))
    same(CrossEncoderCorrelationEvaluator()(model, rows, batch_size=8), theirs(model), "spearman")
    assert theirs.primary_metric == "spearman"


@pytest.mark.parametrize("at_k", [2, 10])
@pytest.mark.parametrize("found", [None, 3])
def test_reranking_of_lists(at_k: int, found: int | None) -> None:
    """Relevant documents that were not found are reranked too, and follow at the end of the base order."""
    rows, model = lists(), Both(noise=2.0)
    theirs = st.CrossEncoderRerankingEvaluator(samples_of(rows, found=found), at_k=at_k)
    ours = CrossEncoderRerankingEvaluator(at_k=at_k, rerank_k=found, graded=False)(model, rows, batch_size=8)
    same(ours, theirs(model), f"ndcg@{at_k}")
    assert theirs.primary_metric == ours.primary and ours.metrics["map"] != pytest.approx(ours.metrics["base_map"])


def test_reranking_of_what_was_found_only() -> None:
    """The first relevant document is where it is; nDCG and MAP count what was not found against both of our orders.

    Theirs forget it in the reranked order and put it at the end of the base order, where it counts as found.
    """
    rows, model = lists(), Both(noise=2.0)
    theirs = st.CrossEncoderRerankingEvaluator(samples_of(rows, found=2), always_rerank_positives=False)(model)
    ours = CrossEncoderRerankingEvaluator(rerank_k=2, always_rerank_positives=False, graded=False)(model, rows, batch_size=8).metrics
    for order in ("", "base_"):
        assert 0.1 < ours[f"{order}mrr@10"] == pytest.approx(theirs[f"{order}mrr@10"], abs=1e-9)
        assert all(0.1 < ours[f"{order}{name}"] < theirs[f"{order}{name}"] for name in ("ndcg@10", "map"))


def test_reranking_of_tuples() -> None:
    rows, model = tuples(negatives=3), Both(noise=2.0)
    sides: dict[str, dict[str, list[str]]] = {}
    for i, anchor in enumerate(rows.columns["anchor"]):
        sample = sides.setdefault(anchor, {"positive": [], "negative": []})
        sample["positive"].append(rows.columns["positive"][i])
        sample["negative"] += [rows.columns[f"negative_{n}"][i] for n in (1, 2, 3)]
    samples = [{"query": a, "positive": s["positive"], "negative": sorted({*s["negative"]} - {*s["positive"]})} for a, s in sides.items()]
    theirs = st.CrossEncoderRerankingEvaluator(samples)
    base = ("base_ndcg@10", "base_mrr@10", "base_map")
    same(CrossEncoderRerankingEvaluator()(model, rows, batch_size=8), theirs(model), "ndcg@10", besides=base)


@pytest.mark.parametrize(("rerank_k", "at_k"), [(12, 10), (5, 3)])
def test_nano_beir(tmp_path: Path, rerank_k: int, at_k: int) -> None:
    root, sets, model = str(write_hub_copy(tmp_path, ("msmarco", "nq"), bm25=True)), ("msmarco", "nq"), Both(noise=2.0)
    theirs = st.CrossEncoderNanoBEIREvaluator(list(sets), dataset_id=root, rerank_k=rerank_k, at_k=at_k)
    ours = CrossEncoderNanoBEIREvaluator(dataset_id=root, datasets=sets, rerank_k=rerank_k, at_k=at_k)(model, pairs(), batch_size=8)
    same(ours, theirs(model), f"NanoBEIR_R{rerank_k}_mean_ndcg@{at_k}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with one output, its weights large enough that its scores differ."""
    path = tmp_path_factory.mktemp("reranker")
    config = CONFIGS["bert"]()
    config.num_labels, config.initializer_range = 1, 0.3
    hf.set_seed(3)
    hf.BertForSequenceClassification(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def test_a_real_model_through_both_packages(folder: Path) -> None:
    """With a prompt, which their model gets by name and ours hands over from the data set."""
    model = RealModel(str(folder), device="cpu", prompts={"ask": "query : "})
    documents = [[f"w{(7 * i + 3 * k) % 90} w{k} document w{i}" for k in range(6)] for i in range(25)]
    labels = [[float((i + k) % 4 == 0) for k in range(6)] for i in range(25)]
    prompts = {"query": "query : "}
    rows = Rows({"query": [f"w{i} a w{2 * i}" for i in range(25)], "documents": documents}, labels, "query-documents", prompts)
    theirs = st.CrossEncoderRerankingEvaluator(samples_of(rows), prompt_name="ask")(model)
    same(CrossEncoderRerankingEvaluator()(model, rows, batch_size=16), theirs, "ndcg@10")
    other = CrossEncoderRerankingEvaluator()(model, dataclasses.replace(rows, prompts={}), batch_size=16)
    assert other.metrics["ndcg@10"] != theirs["ndcg@10"], "the prompt matters"

    flat = [
        (query, doc, label)
        for query, docs, ls in zip(rows.columns["query"], documents, labels, strict=True)
        for doc, label in zip(docs, ls, strict=True)
    ]
    columns = {"query": [q for q, _, _ in flat], "document": [d for _, d, _ in flat]}
    one_by_one = Rows(columns, [label for _, _, label in flat], "query-document", prompts)
    asked, answers = [[q, d] for q, d, _ in flat], np.array(one_by_one.labels).astype(int).tolist()
    classes = st.CrossEncoderClassificationEvaluator(asked, answers, prompt_name="ask")(model)
    same(CrossEncoderClassificationEvaluator()(model, one_by_one, batch_size=16), classes, "average_precision")
    correlation = st.CrossEncoderCorrelationEvaluator(asked, one_by_one.labels, prompt_name="ask")(model)
    ours = CrossEncoderCorrelationEvaluator()(model, one_by_one, batch_size=16)
    assert ours.metrics == pytest.approx({k: float(v) for k, v in correlation.items()}, abs=1e-6) and ours.metrics["spearman"] != 0
