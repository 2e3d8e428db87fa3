"""What single losses of cross-encoders promise besides: names of weights, classes, margins, pos_weight, sampled negatives."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stpipe import losses as L
from stpipe.config.build import build_component
from stpipe.config.decode import Decoder
from stpipe.config.errors import ConfigError, DataError
from stpipe.config.origins import Origins
from stpipe.config.schema import build_schema
from stpipe.core.batch import Targets
from stpipe.core.scores import ALL_NEGATIVES, ScoreBatch
from stpipe.losses.lambda_loss import WEIGHTS
from tests.losses import naive_scores as naive
from tests.losses.score_cases import (
    CASES,
    CTX,
    Case,
    assert_same_gradient,
    gradient,
    total,
)
from tests.losses.test_suite import NoHostSync


def test_documented_scheme_names_are_the_same_weights() -> None:
    case = Case("x", L.LambdaLoss(), naive.lambda_loss)
    names = {
        "NoWeightingScheme": "none",
        "NDCGLoss1Scheme": "ndcg1",
        "NDCGLoss2Scheme": "ndcg2",
        "LambdaRankScheme": "lambda_rank",
        "NDCGLoss2PPScheme": "ndcg2pp",
    }
    assert set(WEIGHTS) == {*names, *names.values()}
    batch, values = case.batch(case.logits()), set()
    for documented, short in names.items():
        given, same = (L.LambdaLoss(weighting=name)(batch, CTX).mean.item() for name in (documented, short))  # type: ignore[arg-type]
        assert given == same
        values.add(round(given, 6))
    assert len(values) == len(names), "the schemes differ"
    a, b = (L.PListMLELoss(lambda_weight=name)(batch, CTX).mean.item() for name in ("PListMLELambdaWeight", "halving"))  # type: ignore[arg-type]
    assert a == b


@pytest.mark.parametrize("make", [lambda: L.LambdaLoss(weighting="ndcg3"), lambda: L.ListNetLoss(activation="Softmax")])  # type: ignore[arg-type]
def test_unknown_names_list_what_there_is(make: Callable[[], L.Loss]) -> None:
    with pytest.raises(ConfigError, match="unknown (weighting|activation) '\\w+'.*Known: .*(ndcg2pp|Sigmoid)"):
        make()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("as_score", [False, True])
def test_cross_entropy(smoothing: float, as_score: bool) -> None:
    labels = [2, 0, 1, 1, 3]
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = Targets(score=torch.tensor(labels).float()) if as_score else Targets(label=torch.tensor(labels))
    loss = L.CrossEntropyLoss(label_smoothing=smoothing)
    batch = ScoreBatch.from_flat(logits, torch.ones(5, dtype=torch.int64), targets=targets)
    out = loss(batch, CTX)
    exact = logits.detach().double().requires_grad_()
    expected = naive.mean(naive.cross_entropy([(list(row), y) for row, y in zip(exact, labels, strict=True)], label_smoothing=smoothing))
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_gradient(gradient(out.mean, logits), gradient(expected, exact))
    parts = [loss(batch.rows(chunk), CTX) for chunk in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(total(parts), out.mean, rtol=1e-6, atol=1e-7)
    with NoHostSync():
        loss(batch, CTX)
    half = loss(ScoreBatch.from_flat(logits.bfloat16(), torch.ones(5, dtype=torch.int64), targets=targets), CTX)
    assert half.sum.dtype == torch.float32


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_cross_entropy_leaves_no_class_out(label: int) -> None:
    """torch's own function ignores -100 without a word."""
    batch = ScoreBatch(torch.zeros(2, 1, 3), torch.ones(2, 1, dtype=torch.bool), Targets(label=torch.tensor([0, label])))
    with pytest.raises(RuntimeError, match="out of bounds"):
        L.CrossEntropyLoss()(batch, CTX)


def test_cross_entropy_needs_classes() -> None:
    one = torch.ones(2, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"model\.num_labels: .* has 1; set the number of classes"):
        L.CrossEntropyLoss()(ScoreBatch(torch.zeros(2, 1, 1), one, Targets(label=torch.tensor([0, 0]))), CTX)
    with pytest.raises(DataError, match="needs a class for each row"):
        L.CrossEntropyLoss()(ScoreBatch(torch.zeros(2, 1, 3), one), CTX)
    with pytest.raises(DataError, match="one text for each query, found 2"):
        L.CrossEntropyLoss()(ScoreBatch(torch.zeros(2, 2, 3), torch.ones(2, 2, dtype=torch.bool)), CTX)


def test_margins_are_told_by_their_number() -> None:
    score = torch.tensor([[2.0, 1.0, 4.0]])
    loss = L.RerankerMarginMSELoss()
    from_margins = loss(ScoreBatch.from_scores(score, targets=Targets(scores=torch.tensor([[0.5, -1.0]]))), CTX)
    from_scores = loss(ScoreBatch.from_scores(score, targets=Targets(scores=torch.tensor([[3.0, 2.5, 4.0]]))), CTX)
    single = loss(ScoreBatch.from_scores(score[:, :2], targets=Targets(score=torch.tensor([0.5]))), CTX)
    assert float(from_margins.mean) == float(from_scores.mean) == pytest.approx(((1 - 0.5) ** 2 + (-2 + 1) ** 2) / 2)
    assert float(single.mean) == pytest.approx(0.25)
    with pytest.raises(DataError, match="'reranker_margin_mse' needs 2 margin.*with 2 negative.*found 4"):
        loss(ScoreBatch.from_scores(score, targets=Targets(scores=torch.zeros(1, 4))), CTX)
    with pytest.raises(DataError, match="no label"):
        loss(ScoreBatch.from_scores(score), CTX)


def test_one_score_is_needed_for_each_pair() -> None:
    batch = ScoreBatch(torch.zeros(2, 3, 2), torch.ones(2, 3, dtype=torch.bool))
    chosen = [case.loss for case in CASES if case.labels is None]
    assert len(chosen) >= 5
    for loss in chosen:
        assert loss.num_outputs == "one"
        with pytest.raises(ConfigError, match="the model has 2 outputs"):
            loss(batch, CTX)


# --- pos_weight, sampled negatives -------------------------------------------------------------------------------------------------------


def test_pos_weight_of_the_training_labels() -> None:
    auto = L.BinaryCrossEntropyLoss(pos_weight="auto")
    grades = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert auto.fitted(grades) == L.BinaryCrossEntropyLoss(pos_weight=4.5 / 1.5)
    assert auto.pos_weight == "auto"
    fixed = L.BinaryCrossEntropyLoss(pos_weight=2.0)
    assert fixed.fitted(grades) is fixed
    for labels in (torch.zeros(3), torch.ones(3)):
        with pytest.raises(DataError, match="pos_weight auto needs relevant and irrelevant pairs.* 3 training pairs add up to"):
            auto.fitted(labels)
    with pytest.raises(ConfigError, match=r"pos_weight: auto .* call fitted\(grades\) first"):
        auto(ScoreBatch.from_scores(torch.zeros(2, 1)), CTX)
    both = L.SumLoss(terms={"a": L.Term(auto), "b": L.Term(L.LambdaLoss())}).fitted(grades)
    assert both.inner()[0] == L.BinaryCrossEntropyLoss(pos_weight=3.0)


def test_pos_weight_is_a_number_auto_or_null() -> None:
    schema = build_schema()

    def decoded(value: Any) -> tuple[Any, list[str]]:
        decoder = Decoder(schema, Origins())
        found = decoder.read({"loss": {"name": "bce", "pos_weight": value}})["loss"]
        return found, [str(p) for p in decoder.problems if p.key.startswith("loss")]

    for value, expected in ((4, 4.0), (0.5, 0.5), ("auto", "auto"), (None, None)):
        values, problems = decoded(value)
        assert not problems
        assert build_component("loss", values) == L.BinaryCrossEntropyLoss(pos_weight=expected)  # type: ignore[arg-type]
    for value, message in (
        ("atuo", r"expected a number > 0 or one of auto or null; found .*atuo"),
        (0, r"expected a number > 0; found .*0"),
        (True, r"expected a number > 0 or one of auto or null"),
    ):
        _, problems = decoded(value)
        assert len(problems) == 1
        assert re.search(message, problems[0]), problems[0]


def test_sampled_negatives() -> None:
    assert L.RerankerMultipleNegativesRankingLoss().sampled_negatives() == 4
    every = L.RerankerMultipleNegativesRankingLoss(num_negatives=None)
    assert every.sampled_negatives() == ALL_NEGATIVES
    assert L.SumLoss(terms={"a": L.Term(L.ListNetLoss()), "b": L.Term(every)}).sampled_negatives() == ALL_NEGATIVES
    assert not any(case.loss.sampled_negatives() for case in CASES if not case.id.startswith("mnrl"))


def test_losses_of_scores_add_up() -> None:
    case = Case("x", L.LambdaLoss(), naive.lambda_loss)
    batch = case.batch(case.logits())
    both = L.SumLoss(terms={"order": L.Term(L.LambdaLoss(), 2.0), "rank": L.Term(L.ADRMSELoss(), 0.5)})
    out = both(batch, CTX)
    torch.testing.assert_close(out.mean, 2 * L.LambdaLoss()(batch, CTX).mean + 0.5 * L.ADRMSELoss()(batch, CTX).mean)
    assert set(out.terms) == {"order", "rank"}
