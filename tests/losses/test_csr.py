"""What is particular to CSR: what it asks for and reports, batches without spread, several processes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from stpipe.config.build import build_component
from stpipe.config.errors import ConfigError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.engine.gather import gather_column, gather_rows, row_counts
from stpipe.losses import CSRLoss, MultipleNegativesRankingLoss, TripletLoss
from stpipe.losses.csr import OUTPUTS, aux_error
from tests.engine.gloo import run_distributed
from tests.losses import naive, naive_csr
from tests.losses.cases import PAIR, WIDTH, rep_batch

CTX = StepContext()
NAMES = (*PAIR, *(f"{role}/{name}" for role in PAIR for name in sorted(OUTPUTS)))
COUNTS = (3, 2)


def draw(*, rows: int = 5, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(rows, WIDTH, generator=g) for name in NAMES}
    return {name: (x if "/" in name else x.relu()).requires_grad_() for name, x in drawn.items()}


def batch_of(values: dict[str, Tensor]) -> RepBatch:
    return rep_batch(values, Targets())


def test_defaults() -> None:
    loss = build_component("loss", {"name": "CSRLoss"})
    assert loss == CSRLoss() and (loss.beta, loss.gamma) == (0.1, 1.0)
    assert loss.loss == MultipleNegativesRankingLoss(similarity="dot", scale=1.0)
    assert loss.kinds == ("sparse",) and "Sparse Coding" in loss.citations()[0] and len(loss.citations()) == 2


def test_it_asks_for_the_outputs_of_the_autoencoder() -> None:
    assert CSRLoss().outputs(CTX) == OUTPUTS == {"sae_input", "sae_k", "sae_4k", "sae_aux", "sae_aux_target"}
    assert CSRLoss(loss=CSRLoss(gamma=0.5)).outputs(CTX) == OUTPUTS


def test_without_them_it_says_what_is_missing() -> None:
    values = {name: x for name, x in draw().items() if name != "positive/sae_k"}
    with pytest.raises(ConfigError, match="SparseAutoEncoder, but the representations of 'positive' lack its outputs sae_k"):
        CSRLoss()(batch_of(values), CTX)


def test_terms_and_metrics() -> None:
    values = draw()
    values["anchor"] = torch.tensor([[1.0, 0, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0], [0] * 6, [1] * 6, [0] * 6])
    out = CSRLoss(beta=0.3, gamma=0.5)(batch_of(values), CTX)
    assert {"main", "reconstruction_k", "reconstruction_4k", "reconstruction_aux"} <= out.terms.keys()
    terms = {name: float(value) for name, value in out.terms.items()}
    expected = 0.5 * terms["main"] + terms["reconstruction_k"] + terms["reconstruction_4k"] / 8 + 0.3 * terms["reconstruction_aux"]
    assert float(out.mean.detach()) == pytest.approx(expected, rel=1e-6) and expected > 1
    assert out.count == 5
    assert float(out.metrics["query_active_dims"]) == pytest.approx((1 + 3 + 0 + 6 + 0) / 5)
    assert float(out.metrics["document_active_dims"]) == pytest.approx(float((values["positive"] > 0).sum()) / 5)
    assert not any(value.requires_grad for value in (*out.terms.values(), *out.metrics.values()))


def test_rows_that_are_equal_have_no_spread_to_divide_by() -> None:
    """Their mean in fp32 may differ from them by rounding; what is left then must not be a divisor."""
    row = torch.tensor([[0.1, 1 / 3, 0.7, 1e-3, 2.7, 1e3]])
    assert ((row.expand(7, -1) - row.expand(7, -1).mean(0)) != 0).any(), "no rounding, so nothing would be tested"
    target = row.repeat(7, 1).requires_grad_()
    rep = Rep(torch.zeros(7, WIDTH), extras={"sae_aux_target": target, "sae_aux": target.detach() + 1})
    column = RepBatch.from_values({"anchor": rep.values}).columns["anchor"]
    error = aux_error(dataclasses.replace(column, local=rep, all=rep))
    torch.testing.assert_close(error, torch.ones(7), rtol=1e-3, atol=0)
    error.sum().backward()
    assert target.grad is not None and target.grad.isfinite().all() and target.grad.any()


def test_weights_of_zero_leave_the_reconstruction() -> None:
    values = draw()
    value = CSRLoss(beta=0.0, gamma=0.0, loss=TripletLoss())(batch_of({**values, **negatives(values)}), CTX).mean
    exact = {name: x.double() for name, x in {**values, **negatives(values)}.items()}
    expected = naive_csr.csr(exact, None, main=naive.triplet, beta=0.0, gamma=0.0)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert value > 1


def negatives(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("positive", "negative_1"): x.flip(0) for name, x in values.items() if name.startswith("positive")}


# --- several processes ---------------------------------------------------------------------------------------------------


def shard() -> tuple[float, dict[str, list[list[float]]]]:
    """Value and gradients of one process's rows, as the engine computes them: sums divided by the count of all rows."""
    rank = torch.distributed.get_rank()
    start = sum(COUNTS[:rank])
    values = {name: x.detach()[start : start + COUNTS[rank]].clone().requires_grad_() for name, x in draw(rows=sum(COUNTS)).items()}
    counts = row_counts(COUNTS[rank], torch.device("cpu"))
    columns = {}
    for i, role in enumerate(PAIR):
        rep = Rep(values[role], extras={name: values[f"{role}/{name}"] for name in sorted(OUTPUTS)})
        columns[role] = gather_column(rep, torch.arange(start, start + COUNTS[rank]) + 100 * i, counts)
    row = torch.arange(start, start + COUNTS[rank])
    out = CSRLoss(beta=2.0)(RepBatch(columns, row, gather_rows(row, counts)), CTX)
    (out.sum / sum(counts)).backward()
    return float(out.sum.detach()), {name: x.grad.tolist() for name, x in values.items() if x.grad is not None}


@pytest.mark.slow
def test_uneven_processes_have_the_value_and_gradient_of_one() -> None:
    values = draw(rows=sum(COUNTS))
    whole = CSRLoss(beta=2.0)(batch_of(values), CTX)
    whole.mean.backward()
    (first, grads_0), (second, grads_1) = run_distributed(shard)
    assert first + second == pytest.approx(float(whole.sum.detach()), rel=1e-5) and first > 1 and second > 1
    assert grads_0.keys() == grads_1.keys() == {name for name, x in values.items() if x.grad is not None} == set(NAMES)
    for name, x in values.items():
        assert x.grad is not None and x.grad.abs().max() > 1e-3
        torch.testing.assert_close(torch.tensor(grads_0[name] + grads_1[name]), x.grad, rtol=1e-4, atol=1e-6)
