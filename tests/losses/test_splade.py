"""SpladeLoss beyond the suite: schedule, targets, what it logs, what it refuses, and how a configuration reaches it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from stpipe.config.build import build_component
from stpipe.config.builtin import load_components
from stpipe.config.decode import decode
from stpipe.config.errors import ConfigError, DataError
from stpipe.config.origins import Origins
from stpipe.config.resolve import inner_losses, name_components
from stpipe.config.rules import check
from stpipe.config.schema import Schema, build_schema
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import CoSENTLoss, MSELoss, MultipleNegativesRankingLoss, SpladeLoss, SumLoss, Term, TripletLoss
from stpipe.ops.regularizers import flops, l1, mean_active
from tests.losses import naive

FULL = StepContext(step=1, num_steps=0)
DOT = MultipleNegativesRankingLoss(similarity="dot", scale=1.0)


def values(rows: int = 5, width: int = 9, roles: tuple[str, ...] = ("anchor", "positive", "negative_1")) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {role: torch.randn(rows, width, generator=g, dtype=torch.float64).relu() for role in roles}


def batch(**options: Any) -> RepBatch:
    return RepBatch.from_values(values(**options))


# --- schedule ------------------------------------------------------------------------------------------------------------


def test_quadratic_over_the_first_third_is_the_default() -> None:
    ramp = [SpladeLoss().ramp(StepContext(step=s, num_steps=90)) for s in range(90)]
    assert ramp[:30] == pytest.approx([(s / 30) ** 2 for s in range(30)])
    assert set(ramp[30:]) == {1.0}


@pytest.mark.parametrize(
    ("options", "step", "num_steps", "expected"),
    [
        ({"schedule": "linear", "warmup": 0.5}, 5, 20, 0.5),
        ({"schedule": "quadratic", "warmup": 0.5}, 5, 20, 0.25),
        ({"schedule": "constant", "warmup": 0.5}, 0, 20, 1.0),
        ({"schedule": "linear", "warmup": 4}, 1, 20, 0.25),
        ({"schedule": "linear", "warmup": 1}, 0, 20, 0.0),
        ({"schedule": "linear", "warmup": 0}, 0, 20, 1.0),
        ({"schedule": "linear", "warmup": 0.01}, 0, 20, 0.0),
        ({"schedule": "linear", "warmup": 0.01}, 1, 20, 1.0),
        ({"schedule": "quadratic"}, 0, 0, 1.0),
    ],
)
def test_shares_and_numbers_of_steps(options: dict[str, Any], step: int, num_steps: int, expected: float) -> None:
    assert SpladeLoss(**options).ramp(StepContext(step=step, num_steps=num_steps)) == pytest.approx(expected)


def test_the_weights_that_are_used_are_the_weights_that_are_logged() -> None:
    x, loss = batch(), SpladeLoss(query_weight=0.5, document_weight=0.25)
    main = DOT(x, FULL).mean
    for step, share in ((0, 0.0), (5, 0.25), (10, 1.0), (29, 1.0)):
        out = loss(x, StepContext(step=step, num_steps=30))
        assert float(out.metrics["query_weight"]) == pytest.approx(0.5 * share)
        assert float(out.metrics["document_weight"]) == pytest.approx(0.25 * share)
        torch.testing.assert_close(out.terms["main"], main)
        logged = out.metrics["query_weight"] * out.terms["query_regularizer"]
        logged = logged + out.metrics["document_weight"] * out.terms["document_regularizer"] + out.terms["main"]
        torch.testing.assert_close(out.mean, logged)


# --- what it logs ---------------------------------------------------------------------------------------------------------


def test_terms_and_metrics() -> None:
    x = batch()
    out = SpladeLoss(query_weight=1.0, document_weight=1.0, document_regularizer="l1")(x, FULL)
    documents = [x.local("positive"), x.local("negative_1")]
    torch.testing.assert_close(out.terms["query_regularizer"], flops([x.local("anchor")]))
    torch.testing.assert_close(out.terms["document_regularizer"], l1(documents))
    torch.testing.assert_close(out.metrics["query_active_dims"], mean_active([x.local("anchor")]))
    torch.testing.assert_close(out.metrics["document_active_dims"], mean_active(documents))
    assert 1 < float(out.metrics["document_active_dims"]) < 9
    assert set(out.metrics) == {"query_active_dims", "document_active_dims", "query_weight", "document_weight"}
    assert all(t.dim() == 0 and not t.requires_grad for t in (*out.terms.values(), *out.metrics.values()))


def test_active_terms_are_those_of_this_process_and_the_regulariser_of_all() -> None:
    part = batch().anchors(slice(0, 2))
    out = SpladeLoss(query_weight=1.0)(part, FULL)
    torch.testing.assert_close(out.metrics["query_active_dims"], mean_active([part.local("anchor")]))
    torch.testing.assert_close(out.terms["query_regularizer"], flops([part.columns["anchor"].all.values]))


def test_a_weight_of_zero_leaves_the_regulariser_out() -> None:
    out = SpladeLoss(query_weight=0.0)(batch(), FULL)
    assert "query_regularizer" not in out.terms
    assert "query_weight" not in out.metrics
    assert float(out.metrics["query_active_dims"]) > 0, "still logged"


def test_documents_only_puts_the_anchors_among_the_documents() -> None:
    x = batch()
    out = SpladeLoss(documents_only=True, document_weight=1.0, query_weight=7.0)(x, FULL)
    torch.testing.assert_close(out.terms["document_regularizer"], flops([x.local(r) for r in ("anchor", "positive", "negative_1")]))
    torch.testing.assert_close(out.mean, out.terms["main"] + out.terms["document_regularizer"])


def test_rows_of_one_text() -> None:
    lone = RepBatch.from_values(values(roles=("anchor",)), targets=Targets(vectors={"*": torch.zeros(5, 9, dtype=torch.float64)}))
    out = SpladeLoss(loss=MSELoss(), query_weight=1.0)(lone, FULL)
    assert set(out.terms) == {"main", "query_regularizer"}
    assert "document_active_dims" not in out.metrics
    with pytest.raises(DataError, match="documents_only"):
        SpladeLoss(loss=MSELoss(), document_active_dims=5)(lone, FULL)


def test_inside_a_sum_and_around_one() -> None:
    x, inner = batch(), SpladeLoss(query_weight=0.5, document_weight=0.5)
    outer = SumLoss(terms={"sparse": Term(inner, 0.5), "margin": Term(TripletLoss())})(x, FULL)
    assert {"sparse", "sparse/main", "sparse/query_regularizer", "margin"} <= set(outer.terms)
    torch.testing.assert_close(outer.mean, 0.5 * inner(x, FULL).mean + TripletLoss()(x, FULL).mean)
    assert set(outer.metrics) == {"query_active_dims", "document_active_dims", "query_weight", "document_weight"}
    around = SpladeLoss(loss=SumLoss(terms={"a": Term(DOT), "b": Term(TripletLoss(), 0.1)}), query_weight=0.5, document_weight=0.5)(x, FULL)
    assert {"main", "main/a", "main/b", "document_regularizer"} <= set(around.terms)
    main = DOT(x, FULL).mean + 0.1 * TripletLoss()(x, FULL).mean
    torch.testing.assert_close(around.mean, main + 0.5 * (around.terms["query_regularizer"] + around.terms["document_regularizer"]))


@pytest.mark.parametrize(("loss", "coupling"), [(DOT, "anchor"), (CoSENTLoss(), "batch"), (TripletLoss(), "anchor"), (MSELoss(), "anchor")])
def test_coupling_is_the_tighter_of_both(loss: Any, coupling: str) -> None:
    assert SpladeLoss(loss=loss).effective_coupling() == coupling


def test_citations() -> None:
    found = "".join(SpladeLoss().citations())
    assert all(key in found for key in ("formal2022distillation", "paria2020minimizing", "oord2018representation"))


# --- targets ---------------------------------------------------------------------------------------------------------------


def test_targets_of_the_losses_inside_come_along() -> None:
    assert SpladeLoss().targets() == {}
    sparse = SpladeLoss(query_active_dims=20, document_active_dims=120)
    assert sparse.targets() == {"query_active_dims": 20.0, "document_active_dims": 120.0}
    assert SumLoss(terms={"a": Term(sparse), "b": Term(DOT)}).targets() == sparse.targets()
    with pytest.raises(ConfigError, match="both 120 and 130"):
        SumLoss(terms={"a": Term(sparse), "b": Term(SpladeLoss(document_active_dims=130))}).targets()


def test_a_steered_weight_has_no_warm_up_and_takes_the_factor() -> None:
    loss = SpladeLoss(query_weight=0.5, document_weight=0.5, document_active_dims=4)
    start = StepContext(step=0, num_steps=30)
    assert {n: float(v) for n, v in loss(batch(), start).metrics.items() if n.endswith("_weight")} == {
        "query_weight": 0.0,
        "document_weight": 0.5,
    }
    steered = StepContext(step=0, num_steps=30, factors={"document_active_dims": torch.tensor(3.0)})
    out = loss(batch(), steered)
    assert float(out.metrics["document_weight"]) == 1.5
    torch.testing.assert_close(out.mean, out.terms["main"] + 1.5 * out.terms["document_regularizer"])


def test_a_factor_of_another_metric_does_nothing() -> None:
    loss, x = SpladeLoss(query_weight=0.5, document_weight=0.5), batch()
    other = StepContext(step=1, factors={"something": torch.tensor(3.0)})
    torch.testing.assert_close(loss(x, other).mean, loss(x, FULL).mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_weight": 0.0, "query_active_dims": 5}, "query_weight, which is 0"),
        ({"document_weight": 0.0, "document_active_dims": 5}, "document_weight, which is 0"),
        ({"documents_only": True, "query_active_dims": 5}, "documents_only"),
    ],
)
def test_targets_without_a_weight_to_steer_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpladeLoss(**options)


# --- configuration ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Schema:
    load_components()
    return build_schema()


def named(schema: Schema, loss: Any) -> dict[str, Any]:
    return name_components({"model": {"name": "dense"}, "dataset": {"train": "stdlib://docstrings"}, "loss": loss}, schema)


def test_the_main_loss_has_a_default(schema: Schema) -> None:
    built = build_component("loss", {"name": "SpladeLoss"})
    assert built.loss == DOT
    found = named(schema, {"name": "splade"})
    assert found["sampler"]["name"] == "no_duplicates", "the main loss, though not written, has in-batch negatives"
    assert inner_losses(schema, {"name": "splade"}) == [(("loss",), "mnrl")]
    assert inner_losses(schema, {"name": "splade"}, wrappers=True) == [((), "splade"), (("loss",), "mnrl")]


def test_keys_of_the_default_main_loss_need_no_name(schema: Schema) -> None:
    found = named(schema, {"name": "splade", "loss": {"scale": 3.0}})["loss"]
    assert build_component("loss", found).loss == MultipleNegativesRankingLoss(similarity="dot", scale=3.0)
    nested = named(schema, {"name": "sum", "terms": {"a": {"loss": {"name": "splade", "loss": {"scale": 3.0}}}}})["loss"]
    assert nested["terms"]["a"]["loss"]["loss"]["name"] == "mnrl"
    untouched = named(schema, {"name": "splade", "loss": {"nme": "cosent"}})["loss"]
    assert untouched["loss"] == {"nme": "cosent"}, "a misspelt name is left for the decoder to report"


def test_cached_splade_is_splade_under_recompute(schema: Schema) -> None:
    assert named(schema, {"name": "CachedSpladeLoss"})["strategy"]["name"] == "recompute"


def problems(schema: Schema, loss: Any, kind: str) -> list[str]:
    changed = copy.deepcopy(schema)
    changed["$defs"]["model.dense"]["x-kind"] = kind
    given = {
        "model": {"name": "dense", "name_or_path": "x"},
        "dataset": {"train": "stdlib://docstrings", "format": "pair"},
        "loss": loss,
        "trainer": {},
    }
    values = decode(name_components(given, changed), changed, Origins())
    return [str(p) for p in check(values, changed, Origins()).problems if p.key.startswith("loss")]


def test_wrappers_are_for_kinds_of_model_too(schema: Schema) -> None:
    assert problems(schema, {"name": "splade"}, "sparse") == []
    assert "loss 'splade' is for sparse models" in problems(schema, {"name": "splade"}, "dense")[0]
    cut = {"name": "matryoshka", "dims": [4], "loss": {"name": "mnrl"}}
    assert problems(schema, cut, "dense") == []
    assert "loss 'matryoshka' is for dense models" in problems(schema, cut, "sparse")[0]
    hidden = {"name": "sum", "terms": {"a": {"loss": {"name": "splade"}}}}
    assert problems(schema, hidden, "sparse") == []
    assert problems(schema, hidden, "dense")[0].startswith("loss.terms.a.loss.name: loss 'splade' is for sparse")


def test_documented_names_have_the_documented_defaults() -> None:
    assert build_component("loss", {"name": "SparseMultipleNegativesRankingLoss"}) == build_component("loss", {"name": "sparse_mnrl"})
    sparse = build_component("loss", {"name": "SparseMultipleNegativesRankingLoss"})
    assert (sparse.scale, sparse.similarity) == (1.0, "dot")
    assert build_component("loss", {"name": "SparseDistillKLDivLoss"}).temperature == 2.0
    assert build_component("loss", {"name": "DistillKLDivLoss"}).temperature == 1.0
    x = batch()
    torch.testing.assert_close(sparse(x, FULL).mean, naive.mnrl(values(), similarity="dot", scale=1.0))
