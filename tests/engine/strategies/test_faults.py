"""The equality of strategies must be able to fail: known mistakes, made on purpose, are found by the same comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.strategies import Micro, MicroBatch, Plain, Recompute, Strategy, TwoPass
from stpipe.engine.strategies.chunks import Chunked
from stpipe.engine.strategies.two_pass import Replay
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss, SpladeLoss
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder
from tests.engine.test_train_module import DOCUMENTS, QUERIES, batch_of
from tests.engine.tiny import assert_same_gradients, gradients, random_batch, started, tiny_encoder
from tests.models.tiny_splade import make_splade

CTX = StepContext(step=3, num_steps=10, seed=5)
COSINE, MNRL = CosineSimilarityLoss(), MultipleNegativesRankingLoss()
BATCHES = (random_batch(9), random_batch(4, seed=1))
BUDGET = 60


def grads_of(
    strategy: Strategy,
    loss: Loss,
    *,
    batches: Sequence[Batch] = BATCHES,
    dropout: float = 0.0,
    accumulation: type[Accumulation] = Accumulation,
) -> dict[str, Tensor]:
    encoder = make_splade("bert").eval() if isinstance(loss, SpladeLoss) else tiny_encoder(dropout=dropout)
    module = TrainModule(encoder, {"default": loss}, strategy)
    step = accumulation(started(module))
    for i, batch in enumerate(batches):
        strategy.run(step, batch, replace(CTX, micro=i), last=i == len(batches) - 1)
    scale = 1.0 if step.rescale is None else step.rescale
    return {name: g * scale for name, g in gradients(module).items()}


def assert_found(right: dict[str, Tensor], wrong: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert_same_gradients(right, reference)
    with pytest.raises(AssertionError, match="differs by"):
        assert_same_gradients(wrong, reference)


class MeanOfEach(Accumulation):
    """Each part is divided by its own count, so the gradient grows with the number of parts."""

    def scale(self, count: Tensor, *, share: float = 1.0) -> Tensor:
        super().scale(count, share=share)
        return 1 / count

    @property
    def rescale(self) -> None:
        return None


class MeanOfMeans(MeanOfEach):
    """As before, divided by the number of batches: small batches weigh as much as large ones."""

    @property
    def rescale(self) -> Tensor:  # type: ignore[override]
        return torch.tensor(1 / len(BATCHES))


@pytest.mark.parametrize(
    "strategy", [Plain(token_budget=BUDGET), Micro(token_budget=BUDGET), TwoPass(token_budget=BUDGET)], ids=lambda s: s.name
)
@pytest.mark.parametrize("fault", [MeanOfEach, MeanOfMeans])
def test_a_wrong_divisor(strategy: Strategy, fault: type[Accumulation]) -> None:
    reference = grads_of(Plain(), COSINE)
    assert_found(grads_of(strategy, COSINE), grads_of(strategy, COSINE, accumulation=fault), reference)


@dataclass(frozen=True)
class MicroWithoutLast(Micro):
    """The last part of each batch is lost."""

    def parts(self, batch: Batch, *, layout: str, device_type: str, at_least: int = 1) -> list[Tensor]:
        return super().parts(batch, layout=layout, device_type=device_type, at_least=at_least)[:-1]


@dataclass(frozen=True)
class TwoPassWithoutLast(TwoPass):
    """The last micro-batch gets no second pass."""

    def rounds(self, module: TrainModule, batch: Batch, ctx: StepContext, gradients: Mapping[str, Rep]) -> list[Replay]:
        return super().rounds(module, batch, ctx, gradients)[:-1]


@pytest.mark.parametrize(("right", "wrong"), [(Micro, MicroWithoutLast), (TwoPass, TwoPassWithoutLast)])
def test_a_lost_part(right: type[Strategy], wrong: type[Strategy]) -> None:
    reference = grads_of(Plain(), COSINE)
    assert_found(grads_of(right(token_budget=BUDGET), COSINE), grads_of(wrong(token_budget=BUDGET), COSINE), reference)


@dataclass(frozen=True)
class MicroForAll(Micro):
    """Takes losses that look at other rows, too."""

    couplings: ClassVar[tuple[str, ...]] = ("row", "anchor", "batch")


@pytest.mark.parametrize("name", ["in-batch negatives", "flops"])
def test_a_loss_of_the_part_alone(name: str) -> None:
    """What a loss with in-batch negatives, or FLOPS of the texts of one part, would train: why `micro` refuses them."""
    if name == "flops":
        loss: Loss = SpladeLoss(loss=COSINE, document_weight=1.0, query_weight=1.0)
        plain = batch_of(QUERIES, DOCUMENTS)
        batches: Sequence[Batch] = [replace(plain, targets=replace(plain.targets, score=torch.rand(5)))]
    else:
        loss, batches = MNRL, BATCHES
    reference = grads_of(Plain(), loss, batches=batches)
    right, wrong = (grads_of(s, loss, batches=batches) for s in (Recompute(token_budget=40), MicroForAll(token_budget=40)))
    assert_found(right, wrong, reference)


@dataclass(frozen=True)
class OtherDropout(TwoPass):
    """The second pass draws another dropout than the first."""

    def micro_batches(
        self,
        encoder: Encoder,
        tokens: Tokens,
        ctx: StepContext,
        outputs: frozenset[str] = frozenset(),
        *,
        route: str | None = None,
        first: int = 0,
    ) -> list[MicroBatch]:
        parts = super().micro_batches(encoder, tokens, ctx, outputs, route=route, first=first)
        return [replace(part, seed=part.seed + torch.is_grad_enabled()) for part in parts]


def test_another_dropout_in_the_second_pass() -> None:
    reference = grads_of(Plain(token_budget=BUDGET), MNRL, dropout=0.1)
    right, wrong = (grads_of(s(token_budget=BUDGET), MNRL, dropout=0.1) for s in (TwoPass, OtherDropout))
    assert_found(right, wrong, reference)


@dataclass(frozen=True)
class PoolInChunks(Chunked):
    """The candidates are cut with the anchors."""

    def _part(self, batch: RepBatch, rows: Tensor, ctx: StepContext) -> LossOutput:
        part = batch.anchors(rows)
        columns = {role: replace(c, all=c.all.rows(rows), text_id=c.text_id[rows]) for role, c in part.columns.items()}
        return self.loss(replace(part, columns=columns, row_all=part.row_all[rows]), ctx)


def test_a_pool_that_is_cut_with_the_anchors() -> None:
    values = {
        role: torch.randn(9, 5, generator=torch.Generator().manual_seed(i)).requires_grad_()
        for i, role in enumerate(("anchor", "positive"))
    }
    found = []
    for loss in (MNRL, Chunked(MNRL, 4), PoolInChunks(MNRL, 4)):
        grads = torch.autograd.grad(loss(RepBatch.from_values(values), CTX).mean, list(values.values()))
        found.append(dict(zip(values, grads, strict=True)))
    assert_found(found[1], found[2], found[0])
