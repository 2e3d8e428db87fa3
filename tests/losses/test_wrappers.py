"""Matryoshka and sums: what they draw, cut, log and inherit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import CoSENTLoss, MatryoshkaLoss, MSELoss, MultipleNegativesRankingLoss, SumLoss, Term, TripletLoss
from tests.losses import naive

MNRL = MultipleNegativesRankingLoss()
DOT = MultipleNegativesRankingLoss(similarity="dot", scale=1.0)


def pairs(width: int = 8, rows: int = 5) -> dict[str, torch.Tensor]:
    return {role: torch.randn(rows, width, dtype=torch.float64) for role in ("anchor", "positive")}


def test_a_step_draws_the_same_dimensions_on_every_rank_and_others_at_other_steps() -> None:
    loss = MatryoshkaLoss(loss=MNRL, dims=(8, 6, 4, 3, 2), weights=(5.0, 4.0, 3.0, 2.0, 1.0), n_dims_per_step=2)
    plans = [loss.plan(StepContext(step=s, seed=7)) for s in range(30)]
    assert all(len(p) == 2 for p in plans)
    assert len({tuple(p) for p in plans}) > 5
    assert plans == [loss.plan(StepContext(step=s, seed=7, rank=3)) for s in range(30)]
    assert plans != [loss.plan(StepContext(step=s, seed=8)) for s in range(30)]
    assert {d for p in plans for d, _ in p} == {8, 6, 4, 3, 2}
    assert all(w == {8: 5.0, 6: 4.0, 4: 3.0, 3: 2.0, 2: 1.0}[d] for p in plans for d, w in p)


def test_the_draw_leaves_the_global_generators_alone() -> None:
    state = torch.get_rng_state()
    MatryoshkaLoss(loss=MNRL, dims=(4, 2), n_dims_per_step=1).plan(StepContext(step=1))
    assert torch.equal(state, torch.get_rng_state())


def test_weights_stay_with_their_dimensions() -> None:
    values = pairs()
    a = MatryoshkaLoss(loss=MNRL, dims=(2, 8), weights=(3.0, 1.0))(RepBatch.from_values(values), StepContext()).mean
    b = MatryoshkaLoss(loss=MNRL, dims=(8, 2), weights=(1.0, 3.0))(RepBatch.from_values(values), StepContext()).mean
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a, naive.matryoshka(naive.mnrl, values, None, dims=(8, 2), weights=(1.0, 3.0)))


def test_under_dot_the_full_width_is_the_inner_loss_itself() -> None:
    """Lengths carry meaning under dot; scaling each prefix to length 1 would train something else."""
    values = pairs()
    batch = RepBatch.from_values(values)
    wrapped = MatryoshkaLoss(loss=DOT, dims=(8,))(batch, StepContext()).mean
    torch.testing.assert_close(wrapped, DOT(batch, StepContext()).mean)
    scaled = MatryoshkaLoss(loss=DOT, dims=(8,), normalize=True)(batch, StepContext()).mean
    assert abs(float(scaled - wrapped)) > 0.1


def test_normalize_changes_nothing_under_cosine() -> None:
    batch = RepBatch.from_values(pairs())
    options: dict[str, Any] = {"loss": MNRL, "dims": (8, 4)}
    torch.testing.assert_close(
        MatryoshkaLoss(**options)(batch, StepContext()).mean, MatryoshkaLoss(**options, normalize=True)(batch, StepContext()).mean
    )


def test_vectors_of_a_teacher_are_cut_too() -> None:
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    batch = RepBatch.from_values({"anchor": x}, targets=Targets(vectors={"*": y}))
    found = MatryoshkaLoss(loss=MSELoss(), dims=(8, 3))(batch, StepContext()).mean
    torch.testing.assert_close(found, ((x - y) ** 2).mean() + ((x - y)[:, :3] ** 2).mean())
    assert batch.targets.vectors["*"].shape == (4, 8)


def test_terms_are_logged_by_name() -> None:
    batch = RepBatch.from_values(pairs())
    loss = SumLoss(terms={"wide": Term(MatryoshkaLoss(loss=MNRL, dims=(8, 4)), 0.5), "plain": Term(DOT)})
    out = loss(batch, StepContext())
    assert set(out.terms) == {"wide", "plain", "wide/dim_8", "wide/dim_4"}
    assert not any(t.requires_grad for t in out.terms.values())
    torch.testing.assert_close(out.mean, 0.5 * out.terms["wide"] + out.terms["plain"])
    torch.testing.assert_close(out.terms["wide"], out.terms["wide/dim_8"] + out.terms["wide/dim_4"])


@pytest.mark.parametrize(
    ("terms", "coupling"),
    [((MSELoss(),), "row"), ((MSELoss(), MNRL), "anchor"), ((MNRL, CoSENTLoss()), "batch"), ((TripletLoss(), MSELoss()), "row")],
)
def test_a_sum_is_as_tight_as_its_tightest_term(terms: tuple[Any, ...], coupling: str) -> None:
    loss = SumLoss(terms={str(i): Term(t) for i, t in enumerate(terms)})
    assert loss.effective_coupling() == coupling
    assert MatryoshkaLoss(loss=loss, dims=(2,)).effective_coupling() == coupling


def test_wrappers_pass_on_what_the_loss_inside_asks_of_the_encoder() -> None:
    class Asking(MultipleNegativesRankingLoss):
        def outputs(self, ctx: StepContext) -> frozenset[str]:
            return frozenset({f"layer.{ctx.step}"})

    loss = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=Asking(), dims=(2,))), "b": Term(MNRL)})
    assert loss.outputs(StepContext(step=4)) == {"layer.4"}


def test_citations_of_the_losses_inside_come_along_once() -> None:
    found = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=MNRL, dims=(2,))), "b": Term(DOT)}).citations()
    assert [c.split("{")[1].split(",")[0] for c in found] == ["kusupati2022matryoshka", "oord2018representation"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MatryoshkaLoss, loss=MNRL, dims=()), "at least one"),
        (partial(MatryoshkaLoss, loss=MNRL, dims=(4, 4)), "twice"),
        (partial(MatryoshkaLoss, loss=MNRL, dims=(4, 2), weights=(1.0,)), "1 entries for 2 dims"),
        (partial(SumLoss, terms={}), "at least one term"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_dimension_beyond_the_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 is more than the 8 dimensions"):
        MatryoshkaLoss(loss=MNRL, dims=(16,))(RepBatch.from_values(pairs()), StepContext())
