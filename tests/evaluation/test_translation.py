"""Accuracy of translations, against a loop over all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stpipe.core.rows import Rows
from stpipe.evaluation import TranslationEvaluator, translation
from tests.evaluation.toy import Collapsed, SparseToy, ToyModel


def sentences(num: int = 40) -> Rows:
    """Translations share their first word; some sentences and some translations occur twice."""
    columns = {"anchor": [f"w{i - i % 9 // 8} en" for i in range(num)], "positive": [f"w{i} de {i % 7}" for i in range(num)]}
    columns["positive"][5] = columns["positive"][4]
    return Rows(columns, None, "pair", {})


def naive(model: Any, rows: Rows, **options: Any) -> list[float]:
    """Both accuracies, in float64, a pair at a time."""
    a, b = (
        model.encode(list(rows.columns[role]), convert_to_tensor=True, convert_to_sparse_tensor=True, save_to_cpu=True, **options)
        for role in ("anchor", "positive")
    )
    a, b = (x.to_dense().double().numpy() if x.is_sparse else x.double().numpy() for x in (a, b))
    found = []
    for queries, others, texts in ((a, b, rows.columns["positive"]), (b, a, rows.columns["anchor"])):
        right = 0
        for i, query in enumerate(queries):
            scores = [float(np.float32(query @ o / np.linalg.norm(query) / np.linalg.norm(o))) for o in others]
            right += texts[scores.index(max(scores))] == texts[i]
        found.append(right / len(queries))
    return found


@pytest.mark.parametrize("tile", [1, 130, 10**6])
@pytest.mark.parametrize("model", [ToyModel(noise=1.0), SparseToy(noise=20)], ids=["dense", "sparse"])
def test_accuracies_are_those_of_a_loop(model: Any, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "TILE", tile)
    rows = sentences()
    forward, back = naive(model, rows)
    found = TranslationEvaluator()(model, rows, batch_size=8)
    assert 0.2 < forward < 0.95 and 0.2 < back < 0.95 and forward != back
    assert found.metrics["src2trg_accuracy"] == pytest.approx(forward)
    assert found.metrics["trg2src_accuracy"] == pytest.approx(back)
    assert found.metrics["mean_accuracy"] == found.primary_value == pytest.approx((forward + back) / 2)
    assert ("active_dims" in found.metrics) == (model.kind == "sparse")


def test_fewer_dimensions_and_another_similarity() -> None:
    model, rows = ToyModel(noise=1.0), sentences()
    short = TranslationEvaluator(truncate_dim=5)(model, rows, batch_size=8).metrics
    assert [short["src2trg_accuracy"], short["trg2src_accuracy"]] == pytest.approx(naive(model, rows, truncate_dim=5))
    assert (
        TranslationEvaluator(similarity="dot")(model, rows, batch_size=8).metrics
        != TranslationEvaluator()(model, rows, batch_size=8).metrics
    )


def test_equal_texts_are_right_wherever_they_are() -> None:
    model = ToyModel(noise=0.0)
    same = Rows({"anchor": ["w1 a", "w2 b", "w1 a"], "positive": ["w1 x", "w2 y", "w1 x"]}, None, "pair", {})
    assert TranslationEvaluator()(model, same, batch_size=8).metrics == {
        "mean_accuracy": 1.0,
        "src2trg_accuracy": 1.0,
        "trg2src_accuracy": 1.0,
    }
    other = Rows({"anchor": ["w1 a", "w2 b", "w1 a"], "positive": ["w1 x", "w2 y", "w1 z"]}, None, "pair", {})
    found = TranslationEvaluator()(model, other, batch_size=8)
    assert found.metrics["src2trg_accuracy"] == pytest.approx(2 / 3) and found.metrics["trg2src_accuracy"] == 1
    assert [line["mean_accuracy"] for line in found.per_query or ()] == [1.0, 1.0, 0.5]


def test_a_model_that_tells_nothing_apart_finds_one() -> None:
    rows = Rows({"anchor": [f"a{i} x" for i in range(20)], "positive": [f"b{i} x" for i in range(20)]}, None, "pair", {})
    assert TranslationEvaluator()(Collapsed(), rows, batch_size=8).metrics["mean_accuracy"] == pytest.approx(1 / 20)
