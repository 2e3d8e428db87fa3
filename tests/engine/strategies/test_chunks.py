"""Anchors in chunks: the value and gradients of the whole, and no matrix of all anchors with all candidates."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stpipe.core.context import StepContext
from stpipe.core.reps import Column, Rep, RepBatch
from stpipe.engine.strategies import Plain, Recompute, TwoPass
from stpipe.engine.strategies.chunks import SCORES, Chunked, chunked
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CoSENTLoss, CSRLoss, MatryoshkaLoss, MultipleNegativesRankingLoss, SpladeLoss, SumLoss
from stpipe.losses.base import Loss, Term
from tests.engine.tiny import assert_same_gradients, random_batch, started, step_gradients, tiny_encoder
from tests.losses.cases import CASES, LossCase, rep_batch
from tests.losses.further_cases import FURTHER

CTX = StepContext(step=3, num_steps=10, seed=1)
LONE = ("query_to_query", "doc_to_doc")
OTHERS = ("query_to_query", "doc_to_query", "doc_to_doc")


def has_anchors(loss: Loss) -> bool:
    return any(isinstance(part, Chunked) for part in parts(chunked(loss, 1)))


def parts(loss: Loss) -> Iterator[Loss]:
    yield loss
    for inner in loss.inner():
        yield from parts(inner)


def modes() -> Iterator[MultipleNegativesRankingLoss]:
    """Every set of directions with every way to make softmaxes of them, with hardness weights."""
    for number in range(4):
        for chosen in combinations(OTHERS, number):
            for mode in ("joint", "per_direction"):
                if mode == "per_direction" and set(chosen) & set(LONE):
                    continue
                yield MultipleNegativesRankingLoss(
                    directions=("query_to_doc", *chosen), partition_mode=mode, hardness_mode="all_negatives", hardness_strength=2.0
                )


def compare(loss: Loss, batch: RepBatch, leaves: list[Tensor], ctx: StepContext, size: int) -> None:
    found = []
    for computed in (loss, chunked(loss, size)):
        out = computed(batch, ctx)
        found.append((out, torch.autograd.grad(out.sum, leaves, allow_unused=True)))
    (whole, expected), (cut, grads) = found
    torch.testing.assert_close(cut.sum, whole.sum, rtol=1e-6, atol=1e-6)
    assert float(cut.count) == float(whole.count) > 0
    assert cut.terms.keys() == whole.terms.keys() and cut.metrics.keys() == whole.metrics.keys()
    for name in whole.metrics:
        torch.testing.assert_close(cut.metrics[name], whole.metrics[name], rtol=1e-5, atol=1e-6)
    largest = max(float(g.abs().max()) for g in expected if g is not None)
    assert largest > 1e-6
    for g, e in zip(grads, expected, strict=True):
        assert (g is None) == (e is None)
        if g is not None and e is not None:
            assert float((g - e).abs().max()) <= 2e-6 * max(largest, 1.0)


ANCHORED = [case for case in (*CASES, *FURTHER) if has_anchors(case.loss)]


@pytest.mark.parametrize("case", ANCHORED, ids=lambda c: c.id)
@pytest.mark.parametrize("size", [1, 3])
def test_every_anchor_coupled_loss(case: LossCase, size: int) -> None:
    values, targets = case.values(seed=3), case.make_targets(seed=3)
    compare(case.loss, rep_batch(values, targets), list(values.values()), case.context, size)


def test_the_losses_that_are_meant_are_there() -> None:
    names = {type(part).__name__ for case in ANCHORED for part in parts(case.loss)}
    assert {"MultipleNegativesRankingLoss", "SpladeLoss", "CSRLoss", "MatryoshkaLoss"} <= names and len(ANCHORED) > 20


@pytest.mark.parametrize("loss", list(modes()), ids=lambda m: "-".join((m.partition_mode, *m.directions)))
def test_every_direction_and_partition(loss: MultipleNegativesRankingLoss) -> None:
    g = torch.Generator().manual_seed(0)
    values = {role: torch.randn(9, 5, generator=g).requires_grad_() for role in ("anchor", "positive", "negative_1", "negative_2")}
    ids = {role: torch.arange(9) + 100 * i for i, role in enumerate(values)}
    ids["positive"][4] = ids["positive"][2]  # a duplicate, which is masked
    ids["anchor"][7] = ids["anchor"][1]
    compare(loss, RepBatch.from_values(values, text_id=ids), list(values.values()), CTX, 4)


def test_anchors_of_one_process_among_the_candidates_of_several() -> None:
    g = torch.Generator().manual_seed(0)
    all_rows = {role: torch.randn(9, 5, generator=g).requires_grad_() for role in ("anchor", "positive")}
    own = slice(3, 8)
    columns = {r: Column(Rep(x[own]), Rep(x), torch.arange(9) + 100 * i) for i, (r, x) in enumerate(all_rows.items())}
    batch = RepBatch(columns, torch.arange(9)[own], torch.arange(9))
    compare(MultipleNegativesRankingLoss(), batch, list(all_rows.values()), CTX, 2)


def test_what_wraps_the_formula_is_taken_once() -> None:
    mnrl = MultipleNegativesRankingLoss()
    assert chunked(SpladeLoss(loss=mnrl), 4) == SpladeLoss(loss=Chunked(mnrl, 4))
    assert chunked(CSRLoss(loss=mnrl), 4) == CSRLoss(loss=Chunked(mnrl, 4))
    both = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=mnrl, dims=(4,)), 0.5), "b": Term(CoSENTLoss())})
    expected = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=Chunked(mnrl, 4), dims=(4,)), 0.5), "b": Term(CoSENTLoss())})
    assert chunked(both, 4) == expected
    assert chunked(CoSENTLoss(), 4) == CoSENTLoss()


@pytest.mark.parametrize("strategy", [Plain, Recompute, TwoPass])
def test_under_every_strategy(strategy: type) -> None:
    found = []
    for size in (None, 2):
        module = TrainModule(tiny_encoder(), {"default": MultipleNegativesRankingLoss()}, strategy(token_budget=32, score_chunk=size))
        found.append(step_gradients(started(module), [random_batch(9)], CTX))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert_same_gradients(found[1][1], found[0][1])


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.numel())
        return out


def largest_tensor(loss: Loss, rows: int) -> int:
    values = {role: torch.nn.functional.normalize(torch.randn(rows, 4), dim=1).requires_grad_() for role in ("anchor", "positive")}
    with LargestTensor() as mode:
        loss(RepBatch.from_values(values), CTX).mean.backward()
    assert values["anchor"].grad is not None and float(values["anchor"].grad.abs().max()) > 0
    return mode.largest


def test_the_matrix_of_all_scores_is_never_there() -> None:
    loss = MultipleNegativesRankingLoss()
    assert largest_tensor(loss, 600) >= 600 * 600
    assert largest_tensor(chunked(loss, 50), 600) <= 2 * 50 * 600, "the scores of a chunk, or two masks of them stacked"


@pytest.mark.slow
def test_a_batch_of_sixteen_thousand_pairs() -> None:
    """By default, without a chunk size: 268 million scores, 17 million at a time."""
    assert largest_tensor(chunked(MultipleNegativesRankingLoss(), None), 16_384) <= 2 * SCORES < 16_384**2


def test_small_batches_stay_whole() -> None:
    """No checkpoint, so no second computation, up to SCORES scores."""
    calls = []

    class Counted(MultipleNegativesRankingLoss):
        def __call__(self, batch: RepBatch, ctx: StepContext) -> Any:
            calls.append(len(batch))
            return super().__call__(batch, ctx)

    largest_tensor(chunked(Counted(), None), 1000)
    assert calls == [1000]
    largest_tensor(chunked(Counted(), 600), 1000)
    assert calls == [1000, 600, 400, 400, 600]
