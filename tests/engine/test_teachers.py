"""What other models make of the texts in the engine: a guide's vectors come with the batch, a twin is trained beside the model.

Every strategy and number of processes has the loss and the gradients of one forward and backward on one process, for the twin's weights, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Batch, Targets
from stpipe.core.reps import RepBatch
from stpipe.engine.strategies import Micro, Plain, Recompute, Strategy, TwoPass
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import by_twin, representations
from stpipe.losses import (
    AdaptiveLayerLoss,
    ContrastiveTensionLoss,
    ContrastiveTensionLossInBatchNegatives,
    GISTEmbedLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SumLoss,
    Term,
)
from stpipe.losses.base import Loss
from tests.engine.gloo import run_distributed
from tests.engine.strategies.test_processes import CTX, SHARES, ddp
from tests.engine.tiny import assert_same_gradients, random_batch, started, step_gradients, tiny_encoder

GIST = GISTEmbedLoss(temperature=0.2, margin=0.05)
IN_BATCH = ContrastiveTensionLossInBatchNegatives(scale=5.0)
FIXED = replace(IN_BATCH, learn_scale=False)
PAIRS = ContrastiveTensionLoss()
TRIPLET = ("anchor", "positive", "negative_1")
LOSSES: dict[str, tuple[Loss, tuple[str, ...]]] = {
    "gist": (GIST, TRIPLET),
    "matryoshka of gist": (MatryoshkaLoss(loss=GIST, dims=(16, 4)), TRIPLET),
    "tension": (IN_BATCH, ("anchor",)),
    "tension, scale fixed": (FIXED, ("anchor",)),
    "matryoshka of tension": (MatryoshkaLoss(loss=FIXED, dims=(16, 4)), ("anchor",)),
    "layers of tension": (AdaptiveLayerLoss(loss=FIXED, layers=(1,)), ("anchor",)),
    "pairs": (PAIRS, ("anchor", "positive")),
    "pairs and gist": (SumLoss(terms={"a": Term(PAIRS), "b": Term(GIST)}), ("anchor", "positive")),
}
STRATEGIES: tuple[Strategy, ...] = (
    Recompute(token_budget=20),
    TwoPass(token_budget=20),
    Micro(token_budget=20),
    Plain(token_budget=20, score_chunk=2),
)
RECOMPUTE, TWO_PASS, MICRO, PLAIN = STRATEGIES
CELLS = [
    ("gist", RECOMPUTE),
    ("gist", TWO_PASS),
    ("gist", PLAIN),
    ("matryoshka of gist", RECOMPUTE),
    ("tension", RECOMPUTE),
    ("tension", PLAIN),
    ("tension, scale fixed", TWO_PASS),
    ("matryoshka of tension", TWO_PASS),
    ("layers of tension", TWO_PASS),
    ("pairs", MICRO),
    ("pairs", TWO_PASS),
    ("pairs and gist", TWO_PASS),
]
#: Those that are computed by several processes, too.
SHARED = [
    ("gist", RECOMPUTE),
    ("gist", TWO_PASS),
    ("tension", RECOMPUTE),
    ("matryoshka of tension", TWO_PASS),
    ("pairs", MICRO),
    ("pairs and gist", PLAIN),
]


def guided(batch: Batch, *, seed: int = 0) -> Batch:
    """The batch with a guide's vectors, in which some negatives are nearer than the positive, and a label for pairs."""
    g = torch.Generator().manual_seed(seed)
    vectors = {role: 1 + torch.randn(len(batch), 5, generator=g) for role in batch.columns}
    return replace(batch, teacher={"guide": vectors}, targets=Targets(label=torch.arange(len(batch)) % 2))


def case(name: str, strategy: Strategy, *, dropout: float = 0.0) -> tuple[TrainModule, list[Batch]]:
    """A module whose twin differs from the model already, and the batches of a step, of all processes together."""
    loss, roles = LOSSES[name]
    module = TrainModule(tiny_encoder(dropout=dropout), {"default": loss}, strategy)
    if module.twin is not None:
        g = torch.Generator().manual_seed(1)
        for parameter in module.twin.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    return module, [guided(random_batch(8, roles=roles, seed=seed), seed=seed) for seed in (0, 1)]


def cell_id(cell: tuple[str, Strategy]) -> str:
    return f"{cell[0]}-{cell[1].name}"


# --- one process ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids=cell_id)
def test_every_strategy_has_the_loss_and_gradients_of_plain(cell: tuple[str, Strategy]) -> None:
    dropout = 0.0 if isinstance(cell[1], Micro) else 0.2  # micro draws dropout for each part
    whole, batches = case(cell[0], Plain(token_budget=20), dropout=dropout)
    expected, reference = step_gradients(started(whole), batches, CTX)
    module, batches = case(*cell, dropout=dropout)
    found, grads = step_gradients(started(module), batches, CTX)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(grads, reference, tolerance=2e-5)
    assert any(name.startswith("twin.") for name in grads) == (module.twin is not None)


def test_the_twin_starts_as_the_model_and_gets_gradients_of_its_own() -> None:
    module = TrainModule(tiny_encoder(dropout=0.0), {"default": PAIRS}, Plain())
    assert module.twin is not None
    for (name, ours), (other, its) in zip(module.encoder.named_parameters(), module.twin.named_parameters(), strict=True):
        assert name == other and ours is not its and torch.equal(ours, its)
    _, grads = step_gradients(started(module), [guided(random_batch(6))], CTX)
    pairs = [(grads[f"encoder.{n}"], grads[f"twin.{n}"]) for n, _ in module.encoder.named_parameters() if f"encoder.{n}" in grads]
    assert len(pairs) > 10 and max(float((a - b).abs().max()) for a, b in pairs) > 1e-4


def test_each_copy_encodes_the_texts_that_are_its_own() -> None:
    module, (batch, *_) = case("pairs", Plain())
    assert [(group.roles, group.twin, group.first) for group in module.groups(batch)] == [(("positive",), False, 0), (("anchor",), True, 8)]
    assert list(module.encode(batch, CTX)) == ["positive", by_twin("anchor")]
    module, (batch, *_) = case("pairs and gist", Plain())
    assert [(group.roles, group.twin) for group in module.groups(batch)] == [(("anchor", "positive"), False), (("anchor",), True)]


def test_both_copies_draw_dropout_of_their_own() -> None:
    module = TrainModule(tiny_encoder(dropout=0.3), {"default": IN_BATCH}, Plain()).train()
    reps = module.encode(random_batch(4, roles=("anchor",)), CTX)
    assert float((reps["anchor"].values - reps[by_twin("anchor")].values).detach().abs().max()) > 1e-3


def test_losses_without_a_twin_make_none() -> None:
    module = TrainModule(tiny_encoder(), {"default": MultipleNegativesRankingLoss()}, Plain())
    assert module.twin is None and not any(name.startswith("twin") for name, _ in module.named_parameters())
    both = TrainModule(tiny_encoder(), {"a": MultipleNegativesRankingLoss(), "b": PAIRS}, Plain())
    assert both.skips_parameters and not module.skips_parameters


def test_two_pass_trains_a_twin_but_no_scale() -> None:
    TrainModule(tiny_encoder(), {"default": FIXED}, TwoPass())
    with pytest.raises(ConfigError, match=r"two_pass does not train .*log_scale"):
        TrainModule(tiny_encoder(), {"default": IN_BATCH}, TwoPass())


def test_the_guide_comes_in_float32_and_in_the_coupling_of_the_loss() -> None:
    module, (batch, *_) = case("gist", Plain())
    half = replace(batch, teacher={"guide": {role: x.half() for role, x in batch.teacher["guide"].items()}})
    for coupling in ("anchor", "batch"):
        seen: RepBatch = representations(half, module.encode(half, CTX), coupling)
        column = seen.teacher["guide"]["anchor"]
        assert column.local.values.dtype == torch.float32 and torch.equal(column.text_id, batch.columns["anchor"].text_id)
    moved = batch.to("meta")
    assert moved.teacher["guide"]["anchor"].device.type == "meta"


# --- several processes ------------------------------------------------------------------------------------------------------------


def share(name: str, strategy: Strategy) -> dict[str, Any]:
    """What one process finds: gradients of two steps, of which the first moves the weights."""
    module, batches = case(name, strategy)
    runtime = ddp(module)
    rows = torch.tensor(list(SHARES[runtime.rank]))
    found = []
    for _ in range(2):
        _, grads = step_gradients(runtime, [batch.rows(rows) for batch in batches], replace(CTX, rank=runtime.rank))
        found.append({n: g.tolist() for n, g in grads.items()})
        runtime.clip_and_step(None, None)
    return {"steps": found}


def all_shares(cells: list[tuple[str, Strategy]]) -> dict[str, Any]:
    return {cell_id(cell): share(*cell) for cell in cells}


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """By process, what it found in each cell; all cells in one launch, because starting processes takes longest."""
    return run_distributed(all_shares, SHARED)


@pytest.mark.slow
@pytest.mark.parametrize("cell", SHARED, ids=cell_id)
def test_two_processes_have_the_gradients_of_one(cell: tuple[str, Strategy], results: list[dict[str, Any]]) -> None:
    module, batches = case(cell[0], Plain())
    runtime = started(module)
    for group in runtime.optimizer.param_groups:
        group["lr"] = 0.1
    for step in range(2):
        _, reference = step_gradients(runtime, batches, CTX)
        for process in results:
            found = {n: torch.tensor(g) for n, g in process[cell_id(cell)]["steps"][step].items()}
            assert_same_gradients(found, reference, tolerance=3e-5)
        runtime.clip_and_step(None, None)
    assert len(results) == 2
