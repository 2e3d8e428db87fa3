"""Routes, steered weights and counters of the module that is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.context import StepContext
from stpipe.core.tokens import Tokens
from stpipe.engine.strategies import Plain, Recompute, Strategy
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CSRLoss, SpladeLoss
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Pooling, Router, SparseAutoEncoder, SparseStaticEmbedding
from tests.engine.tiny import assert_same_gradients, gradients
from tests.models.tiny import VOCAB, make_backbone, make_tokenizer, make_tokens
from tests.models.tiny_splade import make_splade

STEP = StepContext(step=3, num_steps=10, seed=5)


def batch_of(queries: Tokens, documents: Tokens, *, source: str = "default") -> Batch:
    rows = torch.arange(len(queries))
    columns = {"anchor": TextColumn(queries, rows + 100), "positive": TextColumn(documents, rows + 200)}
    return Batch(columns, Targets(), rows, source)


def routed() -> Encoder:
    static = SparseStaticEmbedding(make_tokenizer(), weight=torch.rand(len(VOCAB), generator=torch.Generator().manual_seed(2)))
    return Encoder([Router.for_query_document([static], list(make_splade("bert").stack))]).train()  # type: ignore[arg-type]


def run(module: TrainModule, batch: Batch) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
    module.zero_grad()
    out = module(batch, STEP)
    out.mean.backward()
    return float(out.mean), gradients(module), dict(out.metrics)


QUERIES, DOCUMENTS = make_tokens([5, 4, 6, 5, 7], seed=1), make_tokens([20, 9, 15, 12, 30], seed=2)


def test_each_role_takes_its_route() -> None:
    encoder = routed().eval()
    reps = TrainModule(encoder, {"default": SpladeLoss()}, Plain()).encode(batch_of(QUERIES, DOCUMENTS), STEP)
    static = encoder.input_of("query")
    for text, ids in zip(reps["anchor"].values, QUERIES.ids.split(QUERIES.lengths.tolist()), strict=True):
        expected = torch.zeros(len(VOCAB))
        expected[ids] = static.weight[ids].detach()
        torch.testing.assert_close(text, expected)
    alone = encoder(DOCUMENTS, route="document").values
    assert int((alone > 0).sum()) > 50
    torch.testing.assert_close(reps["positive"].values, alone, rtol=1e-5, atol=1e-5)


def test_a_data_set_may_name_other_routes() -> None:
    encoder = routed().eval()
    module = TrainModule(encoder, {"default": SpladeLoss()}, Plain(), routes={"default": {"anchor": "document"}})
    reps = module.encode(batch_of(QUERIES, DOCUMENTS), STEP)
    torch.testing.assert_close(reps["anchor"].values, encoder(QUERIES, route="document").values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("routes", [True, False])
def test_recompute_equals_plain_on_sparse_models(routes: bool) -> None:
    """With dropout on, whatever the micro-batches, through both routes."""

    def step(strategy: Strategy) -> tuple[float, dict[str, Tensor], dict[str, Tensor]]:
        encoder = routed() if routes else make_splade("bert").train()
        encoder.layout = "packed"
        return run(
            TrainModule(encoder, {"default": SpladeLoss(query_weight=1e-2, document_weight=1e-2)}, strategy), batch_of(QUERIES, DOCUMENTS)
        )

    plain, recompute = step(Plain(token_budget=32)), step(Recompute(token_budget=32))
    assert plain[0] == recompute[0] and plain[0] > 0
    assert_same_gradients(recompute[1], plain[1], tolerance=1e-6)


def test_a_target_is_steered_and_saved() -> None:
    loss = SpladeLoss(document_active_dims=3, document_weight=1e-3)
    module = TrainModule(make_splade("bert"), {"default": loss}, Plain())
    weights = []
    for _ in range(5):
        _, _, metrics = run(module, batch_of(QUERIES, DOCUMENTS))
        assert float(metrics["document_active_dims"]) > 3
        weights.append(float(metrics["document_weight"]))
        module.advance(metrics, mean=lambda v: v, maximum=None)
    assert weights[0] == pytest.approx(1e-3) and weights == sorted(weights) and weights[-1] > 1.2 * weights[0]
    again = TrainModule(make_splade("bert"), {"default": loss}, Plain())
    again.load_state_dict(module.state_dict())
    _, _, metrics = run(again, batch_of(QUERIES, DOCUMENTS))
    _, _, expected = run(module, batch_of(QUERIES, DOCUMENTS))
    assert float(metrics["document_weight"]) == float(expected["document_weight"]) > weights[-1]


def autoencoder() -> tuple[TrainModule, SparseAutoEncoder]:
    torch.manual_seed(0)
    sae = SparseAutoEncoder(32, hidden_dim=64, k=4, k_aux=8)
    return TrainModule(Encoder([make_backbone("bert"), Pooling(32), sae]).train(), {"default": CSRLoss()}, Plain()), sae


def test_dead_latents_are_counted_once_a_step() -> None:
    module, sae = autoencoder()
    run(module, batch_of(QUERIES, DOCUMENTS))
    run(module, batch_of(QUERIES, DOCUMENTS))  # two batches of one step
    fired = sae.fired.clone()
    assert 0 < int(fired.sum()) < 64 and not sae.stats_last_nonzero.any()
    module.advance({}, mean=lambda v: v, maximum=None)
    torch.testing.assert_close(sae.stats_last_nonzero, (~fired).long())


def test_forwards_outside_of_a_step_leave_nothing() -> None:
    module, sae = autoencoder()
    run(module, batch_of(QUERIES, DOCUMENTS))
    assert sae.fired.any()
    module.forget()
    assert not sae.fired.any()
