"""A comparison says what the scores say, and what cannot be compared is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stpipe.config.errors import ConfigError
from stpipe.gate.comparison import Question, compare
from stpipe.gate.paired_test import Resampling
from stpipe.reports.run_record import RunRecord, read_run
from tests.gate.runs import QUERIES, correlation, make_run, retrieval

rng = np.random.default_rng(3)
BASE = rng.uniform(0.1, 0.8, 60)
GAIN = BASE + rng.normal(0.05, 0.06, 60)


def runs(folder: Path, **evaluations: dict) -> dict[str, RunRecord]:
    return {name: read_run(make_run(folder / name, found)) for name, found in evaluations.items()}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("runs")
    return compare(
        runs(folder, a={"ir": retrieval(BASE)}, b={"ir": retrieval(GAIN)}, c={"ir": retrieval(BASE)}),
        Question(resampling=Resampling(resamples=9_999)),
    )


def test_interval_and_p_values_agree_with_scipy(document: dict) -> None:
    found, difference = document["evaluations"][0]["tests"][0], GAIN - BASE
    assert found["run"] == "b" and found["mean"] == pytest.approx(difference.mean(), abs=1e-12) and abs(found["mean"]) > 0.02

    def mean(x: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis)

    interval = stats.bootstrap((difference,), mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    assert (found["low"], found["high"]) == pytest.approx(interval.confidence_interval, abs=0.001)
    few = stats.permutation_test((GAIN, BASE), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=9_999)
    assert found["p_permutation"] == pytest.approx(few.pvalue, abs=0.002)
    assert found["effect_size"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert found["verdict"] == "better" and found["count"] == 60


def test_exact_permutation_agrees_with_scipy_on_few_queries(tmp_path: Path) -> None:
    a, b = BASE[:9], BASE[:9] + rng.normal(0.02, 0.1, 9)
    found = compare(runs(tmp_path, a={"ir": retrieval(a)}, b={"ir": retrieval(b)}))["evaluations"][0]["tests"][0]
    exact = stats.permutation_test((b, a), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=10_000)
    assert found["p_permutation"] == pytest.approx(exact.pvalue, abs=1e-12) and 0 < exact.pvalue < 1


def test_a_run_against_its_equal_is_unclear_and_a_dead_heat(document: dict) -> None:
    found = document["evaluations"][0]["tests"][1]
    assert found["run"] == "c" and found["mean"] == 0 and found["verdict"] == "unclear" and found["p_permutation"] == 1
    assert found["effect_size"] is None
    queries = document["evaluations"][0]["queries"]
    assert [(c["system"], c["equal"]) for c in queries] == [("b", 0), ("c", 60)]


def test_p_values_are_adjusted_for_their_number(document: dict) -> None:
    first, second = document["evaluations"][0]["tests"]
    assert first["p_holm"] == pytest.approx(2 * first["p_bootstrap"]) and second["p_holm"] == 1


def test_correlations_are_tested_over_rows(tmp_path: Path) -> None:
    labels = rng.uniform(0, 5, 80)
    good, bad = labels + rng.normal(0, 0.5, 80), labels + rng.normal(0, 4, 80)
    found = compare(runs(tmp_path, a={"sts": correlation(labels, bad)}, b={"sts": correlation(labels, good)}))["evaluations"][0]
    (test,) = found["tests"]
    expected = stats.spearmanr(labels, good).statistic - stats.spearmanr(labels, bad).statistic
    assert test["mean"] == pytest.approx(expected, abs=1e-9) and test["verdict"] == "better" and expected > 0.1
    assert test["p_permutation"] < 0.01 and found["queries"] == []


def test_a_difference_that_is_luck_has_a_large_p_value_in_both_tests_of_rows(tmp_path: Path) -> None:
    labels = rng.uniform(0, 5, 80)
    one, two = (labels + rng.normal(0, 2, 80) for _ in range(2))
    (test,) = compare(runs(tmp_path, a={"sts": correlation(labels, one)}, b={"sts": correlation(labels, two)}))["evaluations"][0]["tests"]
    assert test["verdict"] == "unclear" and test["p_permutation"] > 0.05 and test["p_bootstrap"] > 0.05


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (retrieval(GAIN[:50]), "10 of 60 queries"),
        (retrieval(GAIN, texts=["another text", *QUERIES[1:]]), "1 of 60 queries"),
        (retrieval(GAIN, grade=2), "judgements"),
        (correlation([1, 2, 3, 4], [1, 2, 3, 4]), "evaluators differ"),
    ],
)
def test_what_cannot_be_compared_is_named_not_compared(tmp_path: Path, other, reason: str) -> None:
    (found,) = compare(runs(tmp_path, a={"ir": retrieval(BASE)}, b={"ir": other}))["evaluations"]
    assert found["tests"] == [] and reason in found["not_comparable"][0]["reason"]


def test_common_queries_can_be_asked_for(tmp_path: Path) -> None:
    found = compare(runs(tmp_path, a={"ir": retrieval(BASE)}, b={"ir": retrieval(GAIN[:50])}), Question(common=True))
    (test,) = found["evaluations"][0]["tests"]
    assert test["left_out"] == 10 and test["count"] == 50 and test["mean"] == pytest.approx((GAIN - BASE)[:50].mean())


def test_other_labels_are_not_compared(tmp_path: Path) -> None:
    labels = rng.uniform(0, 5, 20)
    (found,) = compare(runs(tmp_path, a={"sts": correlation(labels, labels)}, b={"sts": correlation(labels + 1, labels)}))["evaluations"]
    assert "labels" in found["not_comparable"][0]["reason"]


def test_another_metric_of_the_queries(tmp_path: Path) -> None:
    pair = runs(tmp_path, a={"ir": retrieval(BASE)}, b={"ir": retrieval(GAIN)})
    (test,) = compare(pair, Question(metric="mrr@10"))["evaluations"][0]["tests"]
    assert test["metric"] == "mrr@10" and test["mean"] == pytest.approx((GAIN - BASE).mean() / 2)
    (found,) = compare(pair, Question(metric="map@3"))["evaluations"]
    assert "map@3" in found["not_comparable"][0]["reason"]


@pytest.mark.parametrize(
    ("max_drop", "strict", "fails"), [(0.0, False, True), (0.01, False, True), (0.2, False, False), (0.2, True, False)]
)
def test_a_drop_fails_when_it_is_larger_than_allowed(tmp_path: Path, max_drop: float, strict: bool, fails: bool) -> None:
    pair = runs(tmp_path, a={"ir": retrieval(GAIN)}, b={"ir": retrieval(BASE)})
    found = compare(pair, Question(max_drop=max_drop, strict=strict))["failures"]
    assert bool(found) == fails and (not found or "b: ir ndcg@10 is worse by" in found[0])


def test_strict_does_not_ask_for_significance_nor_forgive_a_missing_evaluator(tmp_path: Path) -> None:
    noisy = np.clip(BASE + rng.normal(-0.02, 0.3, 60), 0, 1)
    noisy -= noisy.mean() - BASE.mean() + 0.02
    pair = runs(tmp_path, a={"ir": retrieval(BASE), "x": retrieval(BASE)}, b={"ir": retrieval(noisy)})
    assert compare(pair, Question(max_drop=0.01))["failures"] == []
    failures = compare(pair, Question(max_drop=0.01, strict=True))["failures"]
    assert len(failures) == 2 and any("x cannot be compared" in line for line in failures)


def test_settings_that_differ_are_listed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a", {"ir": retrieval(BASE)})
    two = make_run(tmp_path / "b", {"ir": retrieval(BASE)}, config={"loss": {"name": "mnrl", "scale": 30}, "run": {"name": "b"}})
    found = compare({"a": read_run(one), "b": read_run(two)})
    assert found["configuration"] == [{"key": "loss.scale", "values": {"a": "(absent)", "b": 30}}] and found["environment"] == []


def test_one_run_and_runs_without_results_are_refused(tmp_path: Path) -> None:
    found = runs(tmp_path, a={}, b={})
    with pytest.raises(ConfigError, match="at least two"):
        compare({"a": found["a"]})
    with pytest.raises(ConfigError, match="no evaluator has results of the system 'after'"):
        compare(found)
