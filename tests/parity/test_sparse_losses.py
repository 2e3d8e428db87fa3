"""Sparse losses and score distillation against sentence-transformers 6.2: value, gradient, warm-up of the weights.

Its losses own the forward pass, so they are given a model that returns its input. Where the two differ on purpose, the
test says by how much, and docs/losses.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as DENSE
from sentence_transformers.sparse_encoder import losses as ST
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.training_args import SparseEncoderTrainingArguments
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.ops.regularizers import flops
from tests.parity.test_losses import CTX, PAIRWISE, Identity, assert_same, ours, roles, run, theirs

ROWS, WIDTH = 12, 40
SCORES = torch.randint(0, 6, (ROWS,), generator=torch.Generator().manual_seed(4)) / 5
#: Weights that are seen next to the main loss.
WEIGHTS = {"query_weight": 0.4, "document_weight": 0.3}
PEER_WEIGHTS = {"query_regularizer_weight": 0.4, "document_regularizer_weight": 0.3}


class SparseIdentity(Identity):
    """A model whose texts are their representations; some sparse losses set its similarity."""

    similarity_fn_name = "dot"


def lexical(names: tuple[str, ...], *, seed: int = 0) -> dict[str, Tensor]:
    """Non-negative rows, most of whose terms are 0."""
    g = torch.Generator().manual_seed(seed)
    found = {r: (torch.randn(ROWS, WIDTH, generator=g) - 0.5).relu().requires_grad_() for r in names}
    assert all(0.2 < float((x > 0).float().mean()) < 0.5 for x in found.values())
    return found


def summed(loss: nn.Module, x: dict[str, Tensor], labels: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Its components, added up as its trainer does."""
    parts = loss([{"x": v} for v in x.values()], labels)
    return run(torch.stack(list(parts.values())).sum(), x)


def peer_splade(inner: Callable[[nn.Module], nn.Module], **options: Any) -> nn.Module:
    model = SparseIdentity()
    return ST.SpladeLoss(model, inner(model), **{**PEER_WEIGHTS, **options})  # type: ignore[arg-type]


def mnrl(model: Any) -> nn.Module:
    return ST.SparseMultipleNegativesRankingLoss(model)


# --- SpladeLoss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize(
    ("mine", "peer"),
    [
        ({}, {}),
        (
            {"query_threshold": 12, "document_threshold": 13},
            {"query_regularizer_threshold": 12, "document_regularizer_threshold": 13},
        ),
        ({"documents_only": True}, {"use_document_regularizer_only": True, "query_regularizer_weight": None}),
        ({"query_weight": 0.0}, {"query_regularizer_weight": None}),
    ],
    ids=["plain", "threshold", "documents_only", "no_query"],
)
def test_splade(negatives: int, mine: dict[str, Any], peer: dict[str, Any]) -> None:
    x = lexical(roles(negatives))
    found, expected = ours(L.SpladeLoss(**{**WEIGHTS, **mine}), x, Targets()), summed(peer_splade(mnrl, **peer), x, None)
    assert_same(found, expected)
    main = float(ours(L.SparseMultipleNegativesRankingLoss(), x, Targets())[0])
    assert abs(float(found[0]) - main) > 0.05, "the regularisers matter"


def test_the_threshold_of_the_test_leaves_some_rows_out() -> None:
    x = lexical(roles(1))
    count = torch.cat([(x[r] != 0).sum(1) for r in ("positive", "negative_1")])
    assert 0 < int((count <= 13).sum()) < count.numel()


def test_the_components_have_the_same_values() -> None:
    x = lexical(roles(1))
    theirs_ = peer_splade(mnrl)([{"x": v} for v in x.values()], None)
    out = L.SpladeLoss(**WEIGHTS)(RepBatch.from_values(x), CTX)
    torch.testing.assert_close(out.terms["main"], theirs_["base_loss"].detach())
    for side in ("query", "document"):
        weighted = out.terms[f"{side}_regularizer"] * out.metrics[f"{side}_weight"]
        torch.testing.assert_close(weighted, theirs_[f"{side}_regularizer_loss"].detach())


@pytest.mark.parametrize("threshold", [None, 13])
def test_flops(threshold: int | None) -> None:
    x = lexical(("anchor",))
    peer = ST.FlopsLoss(SparseIdentity(), threshold=threshold)  # type: ignore[arg-type]
    assert_same(run(flops([x["anchor"]], threshold=threshold), x), run(peer.compute_loss_from_embeddings(x["anchor"]), x))


@pytest.mark.parametrize("schedule", ["quadratic", "linear"])
@pytest.mark.parametrize(("warmup", "steps"), [(1 / 3, 100), (0.5, 7), (0.01, 20)])
def test_warm_up_of_the_weights(schedule: Any, warmup: float, steps: int, tmp_path: Any) -> None:
    peer = peer_splade(mnrl)
    callback = SpladeRegularizerWeightSchedulerCallback(peer, scheduler_type=schedule, warmup_ratio=warmup)
    args, state, control = SparseEncoderTrainingArguments(output_dir=str(tmp_path)), TrainerState(max_steps=steps), TrainerControl()
    callback.on_train_begin(args, state, control)
    loss = L.SpladeLoss(**WEIGHTS, schedule=schedule, warmup=warmup)
    seen = set()
    for step in range(steps):
        state.global_step = step
        callback.on_step_begin(args, state, control)
        ramp = loss.ramp(StepContext(step=step, num_steps=steps))
        assert WEIGHTS["query_weight"] * ramp == pytest.approx(peer.query_regularizer_weight)
        assert WEIGHTS["document_weight"] * ramp == pytest.approx(peer.document_regularizer_weight)
        seen.add(ramp)
    assert {0.0, 1.0} <= seen


# --- main losses, whose forward refuses to run alone there: inside SpladeLoss on both sides -----------------------------------


def assert_main(mine: L.Loss, inner: Callable[[Any], nn.Module], x: dict[str, Tensor], targets: Targets, labels: Tensor | None) -> None:
    assert_same(ours(L.SpladeLoss(loss=mine, **WEIGHTS), x, targets), summed(peer_splade(inner), x, labels))


def test_sparse_cosent_and_cosine_similarity() -> None:
    x = lexical(roles(0))
    assert_main(L.CoSENTLoss(), lambda m: ST.SparseCoSENTLoss(m), x, Targets(score=SCORES), SCORES)
    assert_main(L.CosineSimilarityLoss(), lambda m: ST.SparseCosineSimilarityLoss(m), x, Targets(score=SCORES), SCORES)


def test_sparse_angle() -> None:
    x = lexical(roles(0))
    assert_main(L.AnglELoss(), lambda m: ST.SparseAnglELoss(m), x, Targets(score=SCORES), SCORES)


def test_sparse_triplet() -> None:
    assert_main(L.TripletLoss(), lambda m: ST.SparseTripletLoss(m), lexical(roles(1)), Targets(), None)


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("form", ["margins", "scores"])
def test_sparse_margin_mse(negatives: int, form: str) -> None:
    x, y = lexical(roles(negatives)), 3 * torch.randn(ROWS, negatives + (form == "scores"))
    assert_main(L.MarginMSELoss(), lambda m: ST.SparseMarginMSELoss(m), x, Targets(scores=y), y)


@pytest.mark.parametrize("negatives", [1, 3])
def test_sparse_distill_kl_div(negatives: int) -> None:
    x, y = lexical(roles(negatives)), 3 * torch.randn(ROWS, negatives + 1)
    assert_main(L.SparseDistillKLDivLoss(), lambda m: ST.SparseDistillKLDivLoss(m), x, Targets(scores=y), y)


def test_sparse_mse_alone() -> None:
    x, y = lexical(roles(0)), torch.rand(ROWS, WIDTH)
    assert_same(ours(L.MSELoss(), x, Targets(vectors={"*": y})), theirs(ST.SparseMSELoss(SparseIdentity()), x, y))  # type: ignore[arg-type]


# --- differences on purpose ----------------------------------------------------------------------------------------------------


def test_sparse_mse_inside_splade() -> None:
    """There column k is held against the vector of row k of the batch, broadcast; here each text against its own."""
    x, y = lexical(roles(0)), torch.rand(ROWS, WIDTH)
    found = ours(L.SpladeLoss(loss=L.MSELoss(), query_weight=0.0, document_weight=0.3), x, Targets(vectors={"*": y}))
    other = summed(peer_splade(lambda m: ST.SparseMSELoss(m), query_regularizer_weight=None), x, y)  # type: ignore[arg-type]
    right = torch.stack([(v - y).square().mean() for v in x.values()]).mean() + 0.3 * x["positive"].mean(0).square().sum()
    torch.testing.assert_close(found[0], right.detach())
    mixed = torch.stack([(v - y[k]).square().mean() for k, v in enumerate(x.values())]).mean()
    torch.testing.assert_close(other[0], (mixed + 0.3 * x["positive"].mean(0).square().sum()).detach())
    assert abs(float(other[0] - found[0])) > 1e-3


def test_building_its_losses_changes_the_model() -> None:
    """A loss here has no model that it could change."""
    model = SparseIdentity()
    ST.SparseCoSENTLoss(model)  # type: ignore[arg-type]
    assert model.similarity_fn_name == "cosine"


# --- score distillation of dense models ------------------------------------------------------------------------------------------


def dense(negatives: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {r: (0.6 * torch.randn(ROWS, WIDTH, generator=g)).requires_grad_() for r in roles(negatives)}


@pytest.mark.parametrize("similarity", list(PAIRWISE))
def test_margin_mse(similarity: Any) -> None:
    x, y = dense(1), torch.randn(ROWS)
    peer = DENSE.MarginMSELoss(Identity(), similarity_fct=PAIRWISE[similarity])  # type: ignore[arg-type]
    assert_same(ours(L.MarginMSELoss(similarity=similarity), x, Targets(score=y)), theirs(peer, x, y))
    x, y = dense(3), torch.randn(ROWS, 4)
    assert_same(ours(L.MarginMSELoss(similarity=similarity), x, Targets(scores=y)), theirs(peer, x, y))


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 2.0}, {"temperature": 0.5, "teacher_temperature": 3.0}, {"student_temperature": 4.0}]
)
def test_distill_kl_div(negatives: int, options: dict[str, float]) -> None:
    x, y = dense(negatives), 4 * torch.randn(ROWS, negatives + 1)
    peer = DENSE.DistillKLDivLoss(Identity(), **options)  # type: ignore[arg-type]
    assert_same(ours(L.DistillKLDivLoss(**options), x, Targets(scores=y)), theirs(peer, x, y))
