"""Details of losses with a guide, with layers, of spread: duplicates, draws, what is missing, several processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import (
    AdaptiveLayerLoss,
    ContrastiveTensionLoss,
    ContrastiveTensionLossInBatchNegatives,
    DenoisingAutoEncoderLoss,
    EmbedDistillLoss,
    GISTEmbedLoss,
    GlobalOrthogonalRegularizationLoss,
    Guide,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MegaBatchMarginLoss,
    MSELoss,
    MultipleNegativesRankingLoss,
    SumLoss,
    Term,
)
from stpipe.losses.base import ModelFacts
from tests.losses import naive_further as further
from tests.losses.cases import NEGATIVES, PAIR, ROWS, WIDTH, LossCase, rep_batch
from tests.losses.further_cases import with_teacher
from tests.losses.test_suite import assert_close, gradients

CTX = StepContext(step=3, seed=1)
MNRL = MultipleNegativesRankingLoss()
GIST = GISTEmbedLoss(temperature=0.1)

# --- duplicates ----------------------------------------------------------------------------------------------------------------

REPEATS: list[dict[str, list[int]]] = [
    {"anchor": [0, 1, 0, 0, 1, 0, 6], "positive": [10, 11, 12, 13, 14, 15, 16], "negative_1": [20, 21, 22, 23, 24, 25, 26]},
    {"anchor": [0, 1, 2, 3, 4, 5, 6], "positive": [10, 11, 11, 13, 14, 11, 16], "negative_1": [20, 16, 22, 23, 10, 25, 26]},
    {"anchor": [0, 1, 1, 3, 4, 1, 6], "positive": [10, 11, 12, 10, 14, 15, 16], "negative_1": [15, 21, 11, 23, 24, 25, 12]},
]


@pytest.mark.parametrize("ids", REPEATS, ids=["anchors", "positives", "both"])
@pytest.mark.parametrize(
    ("loss", "reference", "teacher"),
    [
        (GIST, partial(further.gist_embed, temperature=0.1), "guide"),
        (GISTEmbedLoss(temperature=0.1, margin=-3.0), partial(further.gist_embed, temperature=0.1, margin=-3.0), "guide"),
        (MegaBatchMarginLoss(), further.mega_batch_margin, None),
    ],
    ids=["gist", "gist-without-filter", "mega_batch"],
)
def test_known_positives_are_no_negatives(loss: Any, reference: Any, teacher: str | None, ids: dict[str, list[int]]) -> None:
    roles = NEGATIVES[1] if teacher is None else with_teacher(teacher, NEGATIVES[1])
    case = LossCase("duplicates", loss, partial(reference, ids=ids), roles)
    unmasked = type(loss)(**{**loss.__dict__, "mask_duplicates": False})
    differences = []
    for seed in range(8):
        values = case.values(seed=seed)
        batch = rep_batch(values, Targets(), text_id={role: torch.tensor(i) for role, i in ids.items()})
        out = loss(batch, CTX)
        expected, grads = case.expected(values, Targets())
        torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
        assert_close(gradients(out.mean, values), grads)
        differences.append(abs(float((unmasked(batch, CTX).mean - out.mean).detach())))
        parts = [loss(batch.anchors(slice(a, b)), CTX) for a, b in ((0, 2), (2, 3), (3, ROWS))]
        torch.testing.assert_close(sum(p.sum for p in parts) / ROWS, out.mean, rtol=1e-5, atol=1e-6)
    assert max(differences) > 1e-3, "no known positive was a negative that counts"


def test_a_text_of_several_rows_counts_once_among_spread_texts() -> None:
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    doubled = RepBatch.from_values({"anchor": x[[0, 1, 2, 1, 3, 4, 0]]}, text_id={"anchor": torch.tensor([9, 4, 7, 4, 1, 3, 9])})
    loss = GlobalOrthogonalRegularizationLoss()
    found = loss(doubled, CTX)
    torch.testing.assert_close(found.mean, further.gor({"anchor": x}))
    assert float(found.count) == 7
    apart = RepBatch.from_values({"anchor": x[[0, 1, 2, 1, 3, 4, 0]]})
    assert float(loss(apart, CTX).mean) > float(found.mean) + 0.01


# --- the guide -----------------------------------------------------------------------------------------------------------------


def test_the_guide_decides_what_is_left_out() -> None:
    """A guide that finds every pair alike drops nothing at margin 0, all at a positive one, where the loss is then 0."""
    values = LossCase("guide", GIST, further.gist_embed, PAIR).values()
    constant = {f"guide@{role}": torch.ones(ROWS, 2) for role in PAIR}
    batch = rep_batch({**values, **constant}, Targets())
    kept, dropped = GIST(batch, CTX), GISTEmbedLoss(temperature=0.1, margin=0.5)(batch, CTX)
    same = MultipleNegativesRankingLoss(scale=10.0, directions=("query_to_doc", "query_to_query", "doc_to_doc"))
    torch.testing.assert_close(kept.mean, same(batch, CTX).mean)
    assert float(kept.metrics["false_negatives"]) == 0 and float(kept.mean.detach()) > 1
    assert abs(float(dropped.mean.detach())) < 1e-6 and float(dropped.metrics["false_negatives"]) > 0.7


def test_the_cases_of_the_suite_have_false_negatives_and_others() -> None:
    case = LossCase("guide", GIST, further.gist_embed, with_teacher("guide", NEGATIVES[3]))
    assert 0.1 < float(GIST(rep_batch(case.values(), Targets()), CTX).metrics["false_negatives"]) < 0.9


def test_the_guide_gets_no_gradient() -> None:
    values = LossCase("guide", GIST, further.gist_embed, with_teacher("guide", PAIR)).values()
    GIST(rep_batch(values, Targets()), CTX).mean.backward()
    assert values["anchor"].grad is not None and all(values[f"guide@{role}"].grad is None for role in PAIR)


def test_prefixes_leave_the_guide_whole() -> None:
    case = LossCase("guide", GIST, further.gist_embed, with_teacher("guide", NEGATIVES[1]))
    values = case.values()
    cut = {role: x if "@" in role else x[:, :3] for role, x in values.items()}
    found = MatryoshkaLoss(loss=GIST, dims=(3,))(rep_batch(values, Targets()), CTX)
    torch.testing.assert_close(found.mean, GIST(rep_batch(cut, Targets()), CTX).mean)


def test_teachers_are_named() -> None:
    loss = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=GIST, dims=(2,))), "b": Term(MNRL)})
    assert loss.needs_teachers() == {"guide"} and MNRL.needs_teachers() == frozenset()
    assert ContrastiveTensionLossInBatchNegatives().needs_teachers() == ContrastiveTensionLoss().needs_teachers() == {"twin"}


def test_what_the_model_and_its_twin_encode() -> None:
    roles = frozenset(PAIR)
    pairs = ContrastiveTensionLoss()
    assert (pairs.encoded(roles), pairs.encoded_by_twin(roles)) == ({"positive"}, {"anchor"})
    in_batch, text = ContrastiveTensionLossInBatchNegatives(), frozenset({"anchor"})
    assert in_batch.encoded(text) == in_batch.encoded_by_twin(text) == text
    both = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=pairs, dims=(2,))), "b": Term(MNRL)})
    assert (both.encoded(roles), both.encoded_by_twin(roles)) == (roles, {"anchor"})
    assert (GIST.encoded(roles), GIST.encoded_by_twin(roles)) == (roles, frozenset())


def test_prefixes_cut_the_twin_too() -> None:
    case = LossCase("twin", MNRL, further.contrastive_tension, with_teacher("twin", ("anchor",)))
    loss, values = ContrastiveTensionLossInBatchNegatives(learn_scale=False), case.values()
    cut = {role: x[:, :3] for role, x in values.items()}
    found = MatryoshkaLoss(loss=loss, dims=(3,))(rep_batch(values, Targets()), CTX)
    torch.testing.assert_close(found.mean, loss(rep_batch(cut, Targets()), CTX).mean)
    assert abs(float((found.mean - loss(rep_batch(values, Targets()), CTX).mean).detach())) > 1e-3


def test_guides_are_found_inside_wrappers() -> None:
    guide = Guide("some/model")
    named = GISTEmbedLoss(guide=guide)
    assert SumLoss(terms={"a": Term(MatryoshkaLoss(loss=named, dims=(2,))), "b": Term(MNRL)}).guides() == {guide}
    assert MNRL.guides() == GIST.guides() == frozenset()


def test_widths_that_a_teacher_must_have() -> None:
    assert MSELoss().target_width(8) == MatryoshkaLoss(loss=MSELoss(), dims=(2,)).target_width(8) == 8
    assert EmbedDistillLoss(projection_dim=5).target_width(8) == 5 and EmbedDistillLoss().target_width(8) == 8
    assert MNRL.target_width(8) is None


def values_of(*roles: str) -> dict[str, Tensor]:
    return {role: torch.randn(3, WIDTH) for role in roles}


@pytest.mark.parametrize(
    ("loss", "roles", "message"),
    [
        (GIST, PAIR, "guide model's representations of anchor, positive, but the batch has none of anchor, positive"),
        (GIST, (*NEGATIVES[1], "guide@anchor", "guide@positive"), "none of negative_1"),
        (ContrastiveTensionLossInBatchNegatives(learn_scale=False), ("anchor",), "second, trained copy of the model"),
    ],
)
def test_a_teacher_that_is_not_there(loss: Any, roles: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss(rep_batch(values_of(*roles), Targets()), CTX)


# --- layers --------------------------------------------------------------------------------------------------------------------


def drawn(**options: Any) -> Any:
    return AdaptiveLayerLoss(loss=MNRL, **options).for_model(ModelFacts(WIDTH, num_layers=6))


def test_layers_are_drawn_from_all_but_the_last_alike_on_all_ranks() -> None:
    loss = drawn(n_layers_per_step=2)
    plans = [loss.plan(StepContext(step=s, seed=7)) for s in range(40)]
    assert all(len(set(p)) == 2 and p == sorted(p) for p in plans)
    assert {layer for p in plans for layer in p} == set(range(6))
    assert len({tuple(p) for p in plans}) > 5
    assert plans == [loss.plan(StepContext(step=s, seed=7, rank=3)) for s in range(40)]
    assert plans != [loss.plan(StepContext(step=s, seed=8)) for s in range(40)]
    assert drawn(n_layers_per_step=None).plan(CTX) == list(range(6))
    assert drawn(layers=(5, 1), n_layers_per_step=9).plan(CTX) == [1, 5]


def test_outputs_are_asked_for_before_the_forward() -> None:
    loss = SumLoss(terms={"a": Term(MatryoshkaLoss(loss=drawn(n_layers_per_step=2), dims=(2,)))})
    assert loss.outputs(CTX) == {f"layer_{layer}" for layer in drawn(n_layers_per_step=2).plan(CTX)}
    inside = SumLoss(terms={"a": Term(AdaptiveLayerLoss(loss=MNRL))}).for_model(ModelFacts(WIDTH, num_layers=2))
    assert inside.outputs(CTX) < {"layer_0", "layer_1"}


def test_the_draw_leaves_the_global_generators_alone() -> None:
    state = torch.get_rng_state()
    drawn().plan(CTX)
    assert torch.equal(state, torch.get_rng_state())


def test_terms_are_logged_by_layer() -> None:
    names = [f"{role}/layer_{k}" for role in PAIR for k in (0, 2)]
    loss = Matryoshka2dLoss(loss=MNRL, layers=(0, 2), n_layers_per_step=None, dims=(4, 2), n_dims_per_step=None, last_layer_weight=0.5)
    out = loss(rep_batch(values_of(*PAIR, *names), Targets()), CTX)
    tops = {name: float(value) for name, value in out.terms.items() if "/" not in name}
    assert set(tops) == {"last", "layer_0", "layer_0_kl", "layer_2", "layer_2_kl"}
    assert {"last/dim_4", "last/dim_2", "layer_2/dim_2"} <= out.terms.keys()
    expected = 0.5 * tops["last"] + 0.5 * (tops["layer_0"] + tops["layer_2"]) + 0.3 * (tops["layer_0_kl"] + tops["layer_2_kl"])
    assert float(out.mean) == pytest.approx(expected, rel=1e-5)


def test_the_last_layer_is_no_student_of_the_divergence() -> None:
    values = LossCase("kl", MNRL, further.gor, (*PAIR, "anchor/layer_1", "positive/layer_1")).values()
    loss = AdaptiveLayerLoss(loss=MNRL, layers=(1,), last_layer_weight=0.0, prior_layers_weight=0.0)
    loss(rep_batch(values, Targets()), CTX).mean.backward()
    assert float(values["anchor/layer_1"].grad.abs().max()) > 1e-3  # type: ignore[union-attr]
    assert float(values["anchor"].grad.abs().max()) == 0  # type: ignore[union-attr]


def test_citations_of_both_dimensions() -> None:
    found = [c.split("{")[1].split(",")[0] for c in Matryoshka2dLoss(loss=MNRL, dims=(2,)).citations()]
    assert found == ["li2024matryoshka", "kusupati2022matryoshka", "oord2018representation"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(AdaptiveLayerLoss, loss=MNRL, layers=()), "at least one layer and none twice"),
        (partial(AdaptiveLayerLoss, loss=MNRL, layers=(1, 1)), "at least one layer and none twice"),
        (lambda: drawn(layers=(2, 6)), "6 is no earlier layer: the model has 6, so 0 to 5"),
        (lambda: AdaptiveLayerLoss(loss=MNRL).for_model(ModelFacts(8)), "'adaptive_layer' needs a model with layers"),
        (lambda: AdaptiveLayerLoss(loss=MNRL).plan(CTX), "does not know the layers of the model"),
        (partial(Matryoshka2dLoss, loss=MNRL, dims=(4, 4)), "none twice"),
        (partial(Matryoshka2dLoss, loss=MNRL, dims=(4, 2), weights=(1.0,)), "1 entries for 2 dims"),
        (partial(GlobalOrthogonalRegularizationLoss, mean_weight=0.0, second_moment_weight=0.0), "nothing is left"),
        (partial(ContrastiveTensionLossInBatchNegatives, scale=200.0), "at most 100"),
        (partial(DenoisingAutoEncoderLoss, decoder_name_or_path="x"), "has no effect with tie_encoder_decoder"),
        (partial(DenoisingAutoEncoderLoss, tie_encoder_decoder=False), "names the start weights of a decoder"),
        (lambda: DenoisingAutoEncoderLoss().learned(ModelFacts(4)), "needs a model with a transformer"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- teachers' vectors and whole texts ------------------------------------------------------------------------------------------


def test_vectors_of_another_width_are_refused() -> None:
    batch = rep_batch(values_of("anchor"), Targets(vectors={"*": torch.randn(3, 4)}))
    with pytest.raises(DataError, match=rf"'embed_distill': .* have 4 dimensions, the model has {WIDTH}\. .*projection_dim"):
        EmbedDistillLoss()(batch, CTX)
    with pytest.raises(DataError, match="needs a teacher's vector for 'anchor', found: none"):
        EmbedDistillLoss()(rep_batch(values_of("anchor"), Targets()), CTX)


def test_denoising_needs_the_whole_texts() -> None:
    with pytest.raises(DataError, match="needs the whole texts beside the damaged ones"):
        DenoisingAutoEncoderLoss()(rep_batch(values_of("anchor"), Targets()), CTX)


def test_denoising_asks_for_deleted_words() -> None:
    loss = SumLoss(terms={"a": Term(DenoisingAutoEncoderLoss(del_ratio=0.4)), "b": Term(GlobalOrthogonalRegularizationLoss())})
    assert loss.deleted_words() == 0.4 and MNRL.deleted_words() == 0 and DenoisingAutoEncoderLoss().deleted_words() == 0.6
