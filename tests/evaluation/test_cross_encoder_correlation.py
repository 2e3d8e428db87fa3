"""Correlation of a cross-encoder's scores with labels."""

from __future__ import annotations

import dataclasses
import math

import pytest
from scipy.stats import pearsonr, spearmanr

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.rows import Rows
from stpipe.evaluation import CrossEncoderCorrelationEvaluator
from tests.evaluation.toy import EqualScorer, ToyScorer, lists, scored


@pytest.mark.parametrize("name", ["pair-score", "query-document"])
def test_correlations_are_those_of_the_shown_scores(name: str) -> None:
    rows, model = scored(), ToyScorer(noise=1.5)
    if name == "query-document":
        rows = Rows({"query": rows.columns["anchor"], "document": rows.columns["positive"]}, rows.labels, name, {})
    found = CrossEncoderCorrelationEvaluator()(model, rows, batch_size=8)
    first, second = rows.columns.values()
    scores = model.predict(list(zip(first, second, strict=True)))
    wanted = {"spearman": spearmanr(rows.labels, scores).statistic, "pearson": pearsonr(rows.labels, scores).statistic}
    assert found.metrics == pytest.approx(wanted, abs=1e-6) and 0.2 < wanted["spearman"] < 0.95
    assert found.primary == "spearman" and found.num_rows == 60
    assert sorted(found.metrics) == sorted(CrossEncoderCorrelationEvaluator().metric_names(similarity="", kind="cross_encoder"))


def test_equal_scores_have_no_correlation() -> None:
    assert math.isnan(CrossEncoderCorrelationEvaluator()(EqualScorer(), scored(), batch_size=8).primary_value)


def test_rows_that_say_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="cross_encoder_correlation: all 60 labels of data set 'default' are 0.5"):
        CrossEncoderCorrelationEvaluator()(ToyScorer(), dataclasses.replace(scored(), labels=[0.5] * 60), batch_size=8)
    with pytest.raises(ConfigError, match="its format is query-documents, expected pair-score, query-document"):
        CrossEncoderCorrelationEvaluator()(ToyScorer(), lists(), batch_size=8)
