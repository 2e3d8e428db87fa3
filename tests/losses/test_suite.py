"""What holds for every loss: right value and gradients, declared coupling, precision, degenerate batches, no host syncs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stpipe.config.build import build_component
from stpipe.config.formats import FORMATS
from stpipe.config.registry import LOSSES
from stpipe.core.batch import Targets
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from tests.losses.cases import CASES as FIRST_CASES
from tests.losses.cases import ROWS, LossCase, rep_batch
from tests.losses.further_cases import FURTHER

CASES = (*FIRST_CASES, *FURTHER)


def cases(fits: Callable[[LossCase], bool]) -> Any:
    """Parametrise over the cases that a property is about; there must be many."""
    chosen = [c for c in CASES if fits(c)]
    assert len(chosen) >= 20
    return pytest.mark.parametrize("case", chosen, ids=lambda c: c.id)


all_cases = cases(lambda c: True)
# stopgrad(similarity) is held fixed on purpose, so the value has another derivative than the loss: only the loop can check it.
# The last layer is a fixed target of the divergence of earlier ones, too. A threshold on the number of non-zero weights is a step: moving a zero takes a text over it.
differentiable_cases = cases(
    lambda c: not (getattr(c.loss, "hardness_strength", 0) or getattr(c.loss, "kl_temperature", 0) or c.id.endswith("threshold"))
)
gathered_cases = cases(lambda c: c.loss.effective_coupling() != "batch")
compared_cases = cases(lambda c: c.compares_rows)


def gradients(value: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(value, list(values.values()), allow_unused=True, retain_graph=True)
    return {r: torch.zeros_like(x) if g is None else g for (r, x), g in zip(values.items(), found, strict=True)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of the largest gradient, which must not be nothing."""
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-4, "the reference has no gradient, so nothing would be compared"
    assert found.keys() == expected.keys()
    for role, grad in expected.items():
        assert grad.numel() > 0
        difference = float((found[role].double() - grad.double()).abs().max())
        assert difference <= tolerance * max(largest, 1.0), f"{role}: {difference:.2e} of {largest:.2e}"


def total(outputs: Sequence[LossOutput]) -> Tensor:
    """What the engine does with the outputs of chunks or processes."""
    return torch.stack([o.sum for o in outputs]).sum() / torch.stack([o.count for o in outputs]).sum().clamp(min=1)


# --- value and gradients ---------------------------------------------------------------------------------------------


@all_cases
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradients_are_those_of_a_float64_loop(case: LossCase, seed: int) -> None:
    values, targets = case.values(seed=seed), case.make_targets(seed=seed)
    out = case.loss(rep_batch(values, targets), case.context)
    expected, grads = case.expected(values, targets)
    assert out.sum.shape == out.count.shape == ()
    assert out.sum.dtype == torch.float32
    assert float(expected) > 1e-3
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert_close(gradients(out.mean, values), grads)


@differentiable_cases
def test_gradients_agree_with_finite_differences(case: LossCase) -> None:
    values, targets = case.values(seed=5, rows=4, dtype=torch.float64), case.make_targets(seed=5, rows=4, dtype=torch.float64)

    def value(*tensors: Tensor) -> Tensor:
        return case.loss(rep_batch(dict(zip(case.roles, tensors, strict=True)), targets), case.context).mean

    assert torch.autograd.gradcheck(value, tuple(values.values()), atol=1e-6)


@all_cases
def test_order_of_rows_does_not_matter(case: LossCase) -> None:
    values, targets = case.values(), case.make_targets()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(order, torch.arange(ROWS))
    moved = {role: x.detach()[order].requires_grad_() for role, x in values.items()}
    a = case.loss(rep_batch(values, targets), case.context).mean
    b = case.loss(rep_batch(moved, targets.rows(order)), case.context).mean
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert_close(gradients(b, moved), {role: g[order] for role, g in gradients(a, values).items()})


@all_cases
def test_inputs_and_loss_are_left_alone(case: LossCase) -> None:
    values, targets = case.values(), case.make_targets()
    before = {role: x.detach().clone() for role, x in values.items()}
    batch = rep_batch(values, targets)
    first, second = case.loss(batch, case.context), case.loss(batch, case.context)
    assert torch.equal(first.sum, second.sum)
    assert all(torch.equal(before[role], x) for role, x in values.items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.loss.anything = 1  # type: ignore[attr-defined]


# --- coupling ----------------------------------------------------------------------------------------------------------

CHUNKS = (slice(0, 1), slice(1, 4), slice(4, ROWS))


def split_rows(values: dict[str, Tensor], targets: Targets) -> list[RepBatch]:
    """The batch as three batches that know nothing of each other."""
    return [rep_batch({role: x[c] for role, x in values.items()}, targets.rows(c)) for c in CHUNKS]


def split_anchors(values: dict[str, Tensor], targets: Targets) -> list[RepBatch]:
    """The batch as three chunks of anchors against one pool: also what three processes see under gathering."""
    return [rep_batch(values, targets).anchors(c) for c in CHUNKS]


SPLITS: dict[str, Callable[[dict[str, Tensor], Targets], list[RepBatch]]] = {"row": split_rows, "anchor": split_anchors}


@all_cases
def test_declared_coupling_is_true(case: LossCase) -> None:
    coupling = case.loss.effective_coupling()
    values, targets = case.values(), case.make_targets()
    whole = case.loss(rep_batch(values, targets), case.context)
    for name in {"row": ("row", "anchor"), "anchor": ("anchor",), "batch": ()}[coupling]:
        parts = [case.loss(part, case.context) for part in SPLITS[name](values, targets)]
        assert len(parts) == len(CHUNKS)
        torch.testing.assert_close(total(parts), whole.mean, rtol=1e-5, atol=1e-6)
        assert_close(gradients(total(parts), values), gradients(whole.mean, values))


@all_cases
def test_declared_coupling_is_the_loosest_that_is_true(case: LossCase) -> None:
    coupling = case.loss.effective_coupling()
    values, targets = case.values(), case.make_targets()
    whole = case.loss(rep_batch(values, targets), case.context)
    for name in {"row": (), "anchor": ("row",), "batch": ("anchor",)}[coupling]:
        parts = [case.loss(part, case.context) for part in SPLITS[name](values, targets)]
        assert abs(float((total(parts) - whole.mean).detach())) > 1e-4


@gathered_cases
def test_gathered_rows_of_other_processes_give_the_loss_of_one_process(case: LossCase) -> None:
    """Three processes with their own row ids; the sum over processes has the value and gradient of one large batch."""
    values, targets = case.values(), case.make_targets()
    ids = torch.tensor([905, 3, 77, 12, 6, 400, 41])
    batch = dataclasses.replace(rep_batch(values, targets), row=ids, row_all=ids)
    parts = [case.loss(batch.anchors(c), case.context) for c in CHUNKS]
    whole = case.loss(rep_batch(values, targets), case.context)
    torch.testing.assert_close(total(parts), whole.mean, rtol=1e-5, atol=1e-6)
    assert_close(gradients(total(parts), values), gradients(whole.mean, values))


# --- precision ---------------------------------------------------------------------------------------------------------


@all_cases
def test_half_precision_embeddings_are_scored_in_fp32(case: LossCase) -> None:
    """The loss of bf16 embeddings is that of the same numbers in fp32, also under autocast."""
    half, targets = case.values(dtype=torch.bfloat16), case.make_targets()
    full = {role: x.detach().float().requires_grad_() for role, x in half.items()}
    expected = case.loss(rep_batch(full, targets), case.context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.loss(rep_batch(half, targets), case.context)
        again = case.loss(rep_batch(full, targets), case.context)
    assert out.sum.dtype == torch.float32
    torch.testing.assert_close(out.mean, expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert_close(gradients(out.mean, half), gradients(expected.mean, full), tolerance=1e-2)  # gradients are stored in bf16


# --- degenerate batches --------------------------------------------------------------------------------------------------


def assert_finite(case: LossCase, values: dict[str, Tensor], targets: Targets) -> LossOutput:
    out = case.loss(rep_batch(values, targets), case.context)
    assert torch.isfinite(out.mean)
    assert all(torch.isfinite(g).all() for g in gradients(out.mean, values).values())
    return out


@all_cases
def test_one_row(case: LossCase) -> None:
    out = assert_finite(case, case.values(rows=1), case.make_targets(rows=1))
    assert float(out.mean.detach()) >= -1e-6


@all_cases
def test_all_texts_equal(case: LossCase) -> None:
    row = torch.linspace(-1, 1, case.width)
    values = {role: row.repeat(ROWS, 1).requires_grad_() for role in case.roles}
    assert_finite(case, values, case.make_targets())


@all_cases
def test_embeddings_of_zeros(case: LossCase) -> None:
    """What a head of ReLUs gives for a text that activates nothing."""
    values = {role: torch.zeros(ROWS, case.width, requires_grad=True) for role in case.roles}
    assert_finite(case, values, case.make_targets())


@compared_cases
def test_nothing_to_learn_from_is_zero_loss_and_zero_gradient(case: LossCase) -> None:
    """All texts of a role are one text, all labels are equal: no negative and no partner is left."""
    values, targets = case.values(), case.make_targets()
    if targets.score is not None:
        targets = Targets(score=torch.ones(ROWS))
    if targets.label is not None:
        targets = Targets(label=torch.ones(ROWS, dtype=torch.int64))
    one_text = dict.fromkeys(case.roles, torch.zeros(ROWS, dtype=torch.int64))
    out = case.loss(rep_batch(values, targets, text_id=one_text), case.context)
    if "doc_to_query" in getattr(case.loss, "directions", ()) and case.loss.partition_mode == "joint":  # type: ignore[attr-defined]
        assert float(out.mean.detach()) > 0.1  # the pair stands in the sum once per direction, so log 2 is the least
        return
    assert abs(float(out.mean.detach())) < 1e-6
    assert all(float(g.abs().max()) < 1e-6 for g in gradients(out.mean, values).values())


# --- the host never waits ---------------------------------------------------------------------------------------------------


class NoHostSync(TorchDispatchMode):
    """Refuses what makes a GPU's result reach the host: reading a number, or a shape that depends on values."""

    SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "repeat_interleave")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in self.SYNCS, f"{func.name()} waits for the device"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "indexing by a mask waits for the device"
        return func(*args, **(kwargs or {}))


@all_cases
def test_forward_and_backward_never_wait_for_the_device(case: LossCase) -> None:
    values, targets = case.values(), case.make_targets()
    batch = rep_batch(values, targets)
    with NoHostSync():
        out = case.loss(batch, case.context)
        torch.autograd.grad(out.mean, list(values.values()), allow_unused=True)


def test_the_guard_against_waiting_can_fail() -> None:
    x = torch.ones(3)
    with NoHostSync(), pytest.raises(AssertionError, match="waits"):
        x[x > 0]
    with NoHostSync(), pytest.raises(AssertionError, match="waits"):
        x.sum().item()


# --- surface ------------------------------------------------------------------------------------------------------------------


def test_every_registered_loss_has_cases() -> None:
    covered = {LOSSES.name_of(type(case.loss)) for case in CASES}
    own = [name for name in LOSSES if LOSSES.get(name).__module__.startswith("stpipe.")]
    assert covered == {name for name in own if LOSSES.get(name).kinds != ("cross_encoder",)}  # those are in score_cases.py
    assert len(CASES) > 60


@pytest.mark.parametrize("name", [n for n in LOSSES if LOSSES.get(n).__module__.startswith("stpipe.")])
def test_declarations(name: str) -> None:
    cls = LOSSES.get(name)
    doc = cls.__doc__ or ""
    assert "L_" in doc or "L =" in doc, "the docstring has the formula"
    assert "Coupling:" in doc
    assert cls.wraps or ("Source:" in doc and "Shapes:" in doc)
    assert cls.coupling in ("row", "anchor", "batch", "inherit")
    assert set(cls.formats) <= FORMATS.keys()
    assert bool(cls.formats) != bool(cls.wraps)
    assert all(f.metadata["help"] for f in dataclasses.fields(cls))


def as_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [as_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: as_plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": LOSSES.name_of(type(value)), **fields} if type(value) in {LOSSES.get(n) for n in LOSSES} else fields
    return value


@all_cases
def test_configuration_round_trip(case: LossCase) -> None:
    assert build_component("loss", as_plain(case.loss)) == case.loss
