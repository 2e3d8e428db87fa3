"""What holds for every evaluator: names, directions, formats, and refusals that explain themselves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

import pytest

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.metrics import configured_metrics, metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    Evaluation,
    Evaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    RerankingEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from stpipe.evaluation.encoding import EmbeddingModel
from tests.evaluation.toy import WIDTH, Collapsed, ToyModel, classed, direction, lists, pairs, scored, tuples

THREE = ("cosine", "dot", "euclidean", "manhattan")


def vectors(num: int = 12) -> Rows:
    texts = [f"w{i} text" for i in range(num)]
    return Rows({"anchor": texts}, [(direction(t.split()[0]) + 0.1).tolist() for t in texts], "text-vector", {})


CASES: dict[str, tuple[Evaluator, Rows]] = {
    "embedding_similarity": (EmbeddingSimilarityEvaluator(), scored()),
    "embedding_similarity, several": (EmbeddingSimilarityEvaluator(similarities=THREE), scored()),
    "information_retrieval": (InformationRetrievalEvaluator(), pairs()),
    "information_retrieval, several": (
        InformationRetrievalEvaluator(similarities=THREE, ndcg_at_k=(5, 10), main_similarity="dot"),
        tuples(),
    ),
    "information_retrieval, lists": (InformationRetrievalEvaluator(mrr_at_k=(), map_at_k=(3, 3)), lists()),
    "triplet": (TripletEvaluator(), tuples(negatives=1)),
    "triplet, several": (TripletEvaluator(similarities=THREE), tuples()),
    "binary_classification": (BinaryClassificationEvaluator(), classed()),
    "binary_classification, several": (BinaryClassificationEvaluator(similarities=THREE), classed()),
    "reranking": (RerankingEvaluator(at_k=3), lists()),
    "mse": (MSEEvaluator(), vectors()),
    "translation": (TranslationEvaluator(), pairs()),
    "sequential": (SequentialEvaluator(evaluators={"ir": InformationRetrievalEvaluator(), "triplet": TripletEvaluator()}), tuples()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("similarity", ["cosine", "manhattan"])
def test_names_are_the_keys_of_an_evaluation(case: str, similarity: str) -> None:
    evaluator, rows = CASES[case]
    found = evaluator(ToyModel(similarity_fn_name=similarity), rows, batch_size=8)
    assert sorted(found.metrics) == sorted(evaluator.metric_names(similarity=similarity))
    assert found.primary == evaluator.primary(similarity=similarity) and found.primary in found.metrics
    assert found.evaluator == case.split(",")[0]
    assert all(type(value) is float for value in found.metrics.values())
    assert evaluator.greater_is_better(found.primary, similarity=similarity)


@pytest.mark.parametrize("case", CASES)
def test_names_follow_from_plain_values_alone(case: str) -> None:
    """As `validate` does it: JSON facts and JSON values."""

    def plain(evaluator: Evaluator) -> dict[str, Any]:
        values = {f.name: getattr(evaluator, f.name) for f in dataclasses.fields(evaluator)}
        inner = {k: {n: plain(e) for n, e in v.items()} for k, v in values.items() if k == "evaluators"}
        return {**values, **inner, "name": EVALUATORS.name_of(type(evaluator))}

    facts = json.loads(json.dumps({name: EVALUATORS.get(name).metrics for name in EVALUATORS}))
    evaluator, _ = CASES[case]
    found = configured_metrics(json.loads(json.dumps(plain(evaluator))), facts.__getitem__, similarity="dot")
    assert found == evaluator.metric_set(similarity="dot")


@pytest.mark.parametrize("case", CASES)
def test_scores_of_each_query_average_to_the_primary_metric(case: str) -> None:
    evaluator, rows = CASES[case]
    found = evaluator(ToyModel(), rows, batch_size=8)
    if found.per_query is None:
        assert found.query_metric is None
        return
    assert found.query_metric is not None
    values = [line[found.query_metric] for line in found.per_query]
    assert len({line["query_id"] for line in found.per_query}) == len(values) == (found.num_queries or found.num_rows)
    assert sum(values) / len(values) == pytest.approx(found.primary_value, abs=1e-12)
    assert len(set(values)) > 1, "a test that cannot tell queries apart shows nothing"


@pytest.mark.parametrize("case", CASES)
def test_evaluation_repeats_exactly_and_leaves_the_rows_alone(case: str) -> None:
    evaluator, rows = CASES[case]
    before = json.dumps([dict(rows.columns), rows.labels])
    first, second = (evaluator(ToyModel(), rows, batch_size=8) for _ in range(2))
    assert first == second
    assert json.dumps([dict(rows.columns), rows.labels]) == before


def test_documented_names_choose_the_same_classes() -> None:
    for name in EVALUATORS:
        assert EVALUATORS.get(EVALUATORS.get(name).__name__) is EVALUATORS.get(name)


def test_rows_of_another_format_are_refused() -> None:
    with pytest.raises(ConfigError, match="triplet cannot evaluate data set 'default': its format is pair, expected triplet, n-tuple"):
        TripletEvaluator()(ToyModel(), pairs(), batch_size=8)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="held-out part of data set 'default' is empty"):
        InformationRetrievalEvaluator()(ToyModel(), pairs(0), batch_size=8)


CONSTANT = Rows({"anchor": ["a x", "b x"], "positive": ["a y", "b y"]}, [1, 1], "pair-score", {})


@pytest.mark.parametrize(
    ("evaluator", "rows", "message"),
    [
        (EmbeddingSimilarityEvaluator(), CONSTANT, "all 2 labels of data set 'default' are 1.0"),
        (BinaryClassificationEvaluator(), CONSTANT, "all 2 labels of data set 'default' are True"),
        (BinaryClassificationEvaluator(), scored(), "row 1: label 0.2 is neither 0 nor 1; say with `positive_labels`"),
        (BinaryClassificationEvaluator(positive_labels=("entailment",)), classed(), "no label 'entailment'.*found: 0, 1"),
        (EmbeddingSimilarityEvaluator(), dataclasses.replace(CONSTANT, labels=[0.5, "high"]), "row 1: label 'high' is no finite number"),
        (EmbeddingSimilarityEvaluator(), dataclasses.replace(CONSTANT, labels=[0.5, float("nan")]), "row 1: label nan"),
        (EmbeddingSimilarityEvaluator(), dataclasses.replace(CONSTANT, labels=None), "has no labels"),
        (
            RerankingEvaluator(),
            dataclasses.replace(lists(), labels=[[0.0] * len(d) for d in lists().columns["documents"]]),
            "every order is as good",
        ),
        (InformationRetrievalEvaluator(relevance_threshold=2), lists(), "no query of data set 'default' has a document graded above"),
        (RerankingEvaluator(), dataclasses.replace(lists(), labels=[[1.0]] * 30), "row 0: 6 documents but 1 labels"),
        (
            InformationRetrievalEvaluator(),
            dataclasses.replace(lists(), labels=[["a"] * len(d) for d in lists().columns["documents"]]),
            "row 0: label 'a'",
        ),
        (MSEEvaluator(truncate_dim=4), vectors(), f"row 0 of data set 'default' has a vector of {WIDTH} numbers.*embeddings have 4"),
    ],
)
def test_rows_that_cannot_be_evaluated_say_why(evaluator: Evaluator, rows: Rows, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluator(ToyModel(), rows, batch_size=8)


def test_a_model_that_tells_nothing_apart_scores_low() -> None:
    """Equal scores must not leave positives in front because the data lists them first."""
    rows = tuples(negatives=2)
    reranking = RerankingEvaluator()(Collapsed(), rows, batch_size=8)
    assert 0.3 < reranking.metrics["mrr@10"] < 0.8
    retrieval = InformationRetrievalEvaluator()(Collapsed(), rows, batch_size=8)
    assert retrieval.metrics["cosine_accuracy@1"] < 0.2
    assert TripletEvaluator()(Collapsed(), rows, batch_size=8).metrics == {"cosine_accuracy": 0.0}
    similarity = EmbeddingSimilarityEvaluator()(Collapsed(), scored(), batch_size=8)
    assert similarity.metrics["spearman_cosine"] != similarity.metrics["spearman_cosine"], "NaN: undefined"


def test_encode_calls_are_those_of_a_user() -> None:
    """Symmetric tasks use `encode`, retrieval `encode_query` and `encode_document`, each with its role's prompt."""
    model = ToyModel()
    EmbeddingSimilarityEvaluator()(model, dataclasses.replace(scored(), prompts={"anchor": "a: "}), batch_size=8)
    TripletEvaluator()(model, dataclasses.replace(tuples(negatives=1), prompts={"anchor": "q: ", "negative_1": "n: "}), batch_size=8)
    assert [(kind, prompt) for kind, prompt, _ in model.calls] == [
        ("both", "a: "),
        ("both", None),
        ("query", "q: "),
        ("document", None),
        ("document", "n: "),
    ]


def test_triplet_margins() -> None:
    rows = tuples(negatives=1)
    plain = TripletEvaluator(similarities=("cosine", "dot"))(ToyModel(), rows, batch_size=8).metrics
    strict = TripletEvaluator(similarities=("cosine", "dot"), margins={"cosine": 3.0})(ToyModel(), rows, batch_size=8).metrics
    assert strict["cosine_accuracy"] == 0 < plain["cosine_accuracy"]
    assert strict["dot_accuracy"] == plain["dot_accuracy"] == strict["max_accuracy"]
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        TripletEvaluator(margins={"cosin": 1.0})


def test_positive_labels_of_a_classification() -> None:
    rows = classed()
    named = dataclasses.replace(rows, labels=[("contradiction", "entailment")[label] for label in rows.labels or ()])
    found = BinaryClassificationEvaluator(positive_labels=("entailment",))(ToyModel(), named, batch_size=8)
    assert found.metrics == BinaryClassificationEvaluator()(ToyModel(), rows, batch_size=8).metrics
    numbered = dataclasses.replace(rows, classes=("contradiction", "entailment"))
    assert BinaryClassificationEvaluator(positive_labels=("entailment",))(ToyModel(), numbered, batch_size=8).metrics == found.metrics


def test_mse_is_the_mean_square_times_100() -> None:
    found = MSEEvaluator()(ToyModel(noise=0.0), vectors(), batch_size=8)
    assert found.metrics["negative_mse"] == pytest.approx(-100 * 0.1**2, rel=1e-5)
    both = Rows({"anchor": ["w1 a"], "positive": ["w2 b"]}, [direction("w1").tolist()], "pair-vector", {})
    squared = float(((direction("w1") - direction("w2")) ** 2).mean())
    assert MSEEvaluator()(ToyModel(noise=0.0), both, batch_size=8).metrics["negative_mse"] == pytest.approx(-50 * squared, rel=1e-5)


def test_source_picks_the_data_set() -> None:
    sources = {"a": pairs(), "b": tuples(negatives=1)}
    found = TripletEvaluator(source="b").evaluate(ToyModel(), sources, batch_size=8)
    assert found.num_rows == 40
    with pytest.raises(ConfigError, match="triplet needs `source`: which of the data sets to evaluate on \\(a, b\\)"):
        TripletEvaluator().evaluate(ToyModel(), sources, batch_size=8)
    with pytest.raises(ConfigError, match="'c' is no data set with held-out rows; there are: a, b"):
        TripletEvaluator(source="c").evaluate(ToyModel(), sources, batch_size=8)


def test_sequential_joins_its_parts() -> None:
    parts = {"sts": EmbeddingSimilarityEvaluator(source="s"), "ir": InformationRetrievalEvaluator(source="p")}
    sources = {"s": scored(), "p": pairs()}
    last = SequentialEvaluator(evaluators=parts).evaluate(ToyModel(), sources, batch_size=8)
    mean = SequentialEvaluator(evaluators=parts, main_score="mean").evaluate(ToyModel(), sources, batch_size=8)
    sts, ir = last.metrics["sts_spearman_cosine"], last.metrics["ir_cosine_ndcg@10"]
    assert sts != ir
    assert last.metrics["sequential_score"] == last.primary_value == ir
    assert mean.metrics["sequential_score"] == pytest.approx((sts + ir) / 2)
    with pytest.raises(ConfigError, match="name at least one"):
        SequentialEvaluator(evaluators={})


def test_an_evaluator_of_ones_own_needs_a_call_and_its_metrics() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Lengths(Evaluator):
        formats: ClassVar[tuple[str, ...]] = ("pair",)
        metrics = metric_facts(metric("mean_length", better="lower"))

        def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
            self.check(rows)
            return Evaluation({"mean_length": sum(map(len, rows.columns["anchor"])) / len(rows)}, "mean_length", num_rows=len(rows))

    evaluator = Lengths()
    assert evaluator.evaluate(ToyModel(), {"x": pairs()}, batch_size=8).primary_value > 0
    assert not evaluator.greater_is_better("mean_length", similarity="cosine")
    assert evaluator.baselines({"x": pairs()}, similarity="cosine") == {}
