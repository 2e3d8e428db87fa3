"""Retrieval with cut and quantised embeddings, against a loop over the same vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.evaluation import CompressedRetrievalEvaluator, InformationRetrievalEvaluator
from stpipe.evaluation.compressed import Form
from stpipe.models.quantize import quantize
from tests.evaluation.toy import WIDTH, SparseToy, ToyModel, pairs

EVALUATOR = CompressedRetrievalEvaluator(dims=(8, 4))


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def stored(rows: np.ndarray, ranges: np.ndarray, precision: str) -> np.ndarray:
    """What is left of vectors after the round trip, value by value."""
    if precision == "float32":
        return rows
    out = np.empty_like(rows)
    for i, j in np.ndindex(rows.shape):
        low, high = ranges[:, j].astype(np.float32)  # as the quantiser: at the edge of a step float64 may see another level
        level = min(max(math.floor((np.float32(rows[i, j]) - low) / ((high - low) / np.float32(255))), 0), 255)
        out[i, j] = (1.0 if rows[i, j] > 0 else -1.0) if precision == "binary" else low + (level + 0.5) * (high - low) / 255
    return out


def naive_ndcg(dims: int, precision: str) -> float:
    """nDCG@10 with cosine over vectors of `dims` dimensions in a precision; one loop a query."""
    rows, model = pairs(60), ToyModel(noise=1.2)
    questions, answers = list(dict.fromkeys(rows.columns["anchor"])), list(dict.fromkeys(rows.columns["positive"]))
    vectors = {t: model.encode([t], convert_to_tensor=True)[0, :dims].numpy().astype(np.float64) for t in (*questions, *answers)}
    docs = np.stack([vectors[a] for a in answers])
    ranges = np.stack([docs.min(axis=0), docs.max(axis=0)])
    docs = stored(docs, ranges, precision)
    scores = []
    for question in questions:
        query = stored(vectors[question][None], ranges, precision)[0]
        relevant = {a for q, a in zip(rows.columns["anchor"], rows.columns["positive"], strict=True) if q == question}
        order = sorted(range(len(answers)), key=lambda i: -float(unit(query) @ unit(docs[i])))[:10]
        gain = sum(1 / math.log2(rank + 2) for rank, i in enumerate(order) if answers[i] in relevant)
        scores.append(gain / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant)))))
    return float(np.mean(scores))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("dims", [WIDTH, 8])
def test_values_are_those_of_a_loop(dims: int, precision: str) -> None:
    found = EVALUATOR(ToyModel(noise=1.2), pairs(60), batch_size=8).metrics
    name = "cosine_ndcg@10" + (f"_at_{dims}_dims" if dims != WIDTH else "") + (f"_as_{precision}" if precision != "float32" else "")
    assert 0.1 < found[name] < 0.99
    assert found[name] == pytest.approx(naive_ndcg(dims, precision), abs=1e-9)


def test_the_round_trip_of_a_vector() -> None:
    values = torch.tensor([[0.1, -0.5, 0.0, 2.0], [-1.0, 0.5, 1.0, -2.0], [0.3, 0.2, 0.7, 0.4]])
    ranges = torch.stack([values.amin(dim=0), values.amax(dim=0)])
    assert Form(2, "binary").apply(values, ranges).tolist() == [[1, -1], [-1, 1], [1, 1]]
    assert Form(3).apply(values, ranges).tolist() == values[:, :3].tolist()
    back = Form(None, "int8").apply(values, ranges)
    step = (ranges[1] - ranges[0]) / 255
    assert (back - values).abs().max() > 1e-4
    assert ((back - values).abs() <= step / 2 + 1e-6).logical_or(values == ranges[1]).all()
    levels = quantize(values.numpy(), precision="int8", ranges=ranges.numpy())
    assert quantize(back.numpy(), precision="int8", ranges=ranges.numpy()).tolist() == levels.tolist()


def test_names_are_the_declared_ones_and_the_curve_holds_every_size() -> None:
    model = ToyModel(noise=1.2)
    found = EVALUATOR(model, pairs(60), batch_size=8)
    assert set(found.metrics) == set(EVALUATOR.metric_names(similarity="cosine"))
    assert found.primary == "cosine_ndcg@10"
    curve = found.details["compression"]
    assert (curve["metric"], curve["width"]) == ("cosine_ndcg@10", WIDTH)
    sizes = [(p["dims"], p["precision"]) for p in curve["points"]]
    assert sizes == [(d, p) for d in (WIDTH, 8, 4) for p in ("float32", "int8", "binary")]
    assert curve["points"][0]["value"] == found.metrics["cosine_ndcg@10"]
    assert curve["points"][5]["value"] == found.metrics["cosine_ndcg@10_at_8_dims_as_binary"]
    assert len({p["value"] for p in curve["points"]}) > 4


def test_texts_are_encoded_once_and_the_full_size_is_plain_retrieval() -> None:
    model, plain = ToyModel(noise=1.2), ToyModel(noise=1.2)
    rows = pairs(60)
    found = EVALUATOR(model, rows, batch_size=8)
    other = InformationRetrievalEvaluator()(plain, rows, batch_size=8)
    assert len(model.calls) == 2
    assert {k: found.metrics[k] for k in other.metrics} == other.metrics
    assert found.run == other.run and found.per_query == other.per_query


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="dims holds 32, but the model's embeddings have 16"):
        CompressedRetrievalEvaluator(dims=(32,))(ToyModel(), pairs(), batch_size=8)
    with pytest.raises(ConfigError, match="for dense models"):
        EVALUATOR(SparseToy(), pairs(), batch_size=8)
    with pytest.raises(ConfigError, match="precisions is empty"):
        CompressedRetrievalEvaluator(precisions=()).metric_names(similarity="cosine")
