"""The controller on simulated plants, and the guard on made-up logs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.engine import sparsity
from stpipe.engine.callbacks import SparsityWatch
from stpipe.engine.sparsity import SparsityController, SparsityGuard, controllers
from stpipe.losses import MultipleNegativesRankingLoss, SpladeLoss, SumLoss, Term
from tests.losses.test_suite import NoHostSync

TARGET = 120.0
WITHIN = math.log(1.1)


class Plants:
    """Models (N of them, simulated together) whose log of active terms follows the log of the weight, all numbers in steps.

    gain: how far the log goes in the end when that of the weight moves by 1; lag: of first order; delay: until a weight acts; start:
    log(active / target) at the beginning, and for ever at factor 1; noise: deviation of one batch's log; warmup: steps over which the
    learning rate, and so the speed of everything, rises from 0; momentum: share of the last move that is kept, and speed: the
    most that the log moves in a step, as under Adam.
    """

    def __init__(self, rows: list[dict[str, float]], *, seed: int = 0) -> None:
        def column(name: str, default: float = 0.0) -> Tensor:
            return torch.tensor([row.get(name, default) for row in rows], dtype=torch.float64)

        self.gain, self.lag, self.start, self.noise = column("gain"), column("lag"), column("start"), column("noise")
        self.warmup, self.momentum, self.speed, self.delay = (
            column("warmup"),
            column("momentum"),
            column("speed", 1e6),
            column("delay").long(),
        )
        self.state, self.moving, self.step = self.start.clone(), torch.zeros(len(rows), dtype=torch.float64), 0
        self.inputs = torch.zeros(int(self.delay.max()) + 1, len(rows), dtype=torch.float64)  # the last one first
        self.generator = torch.Generator().manual_seed(seed)

    def active(self) -> Tensor:
        """(N,) what a step's batch shows."""
        noise = self.noise * torch.randn(len(self.noise), generator=self.generator, dtype=torch.float64)
        return TARGET * torch.exp(self.state + noise)

    def apply(self, log_factor: Tensor) -> None:
        """One optimiser step."""
        self.step += 1
        self.inputs = torch.cat([log_factor.double()[None], self.inputs[:-1]])
        acting = self.inputs.gather(0, self.delay[None])[0]
        wanted = self.speed * torch.tanh((self.start - self.gain * acting - self.state) / self.lag / self.speed)
        self.moving = self.momentum * self.moving + (1 - self.momentum) * wanted
        self.state = self.state + self.moving * (self.step / self.warmup.clamp(min=1)).clamp(max=1)


def controller_of(count: int) -> SparsityController:
    """As many controllers in one: what one does to a number it does to each of many."""
    controller = SparsityController(TARGET)
    for name, value in dict(controller.named_buffers()).items():
        setattr(controller, name, value.expand(count).clone())
    return controller


def simulate(plants: Plants, *, steps: int = 400, drift: float = 0.0) -> Tensor:
    """(N, steps) log(active / target) after each step, without the noise. drift: growth of what the plants tend to, a step."""
    controller, found = controller_of(len(plants.gain)), []
    for _ in range(steps):
        active = plants.active()
        plants.start = plants.start + drift
        plants.apply(controller.log_factor)
        controller.observe(active)
        found.append(plants.state)
    return torch.stack(found, 1)


def settled(history: Tensor) -> Tensor:
    """(N,) the first step from which on the target is met within 10 %."""
    steps = torch.arange(1, history.shape[1] + 1)
    return torch.where(history.abs() > WITHIN, steps, 0).amax(1)


def overshoot(history: Tensor) -> Tensor:
    """(N,) how far the log goes beyond the target on the other side of where it began."""
    return (-history[:, :1].sign() * history).amax(1).clamp(min=0)


def reversals(history: Tensor, *, amplitude: float) -> int:
    """How often the error changes its sign by more than the amplitude, at most: an oscillation does so again and again."""
    signs = [[x > 0 for x in row if abs(x) > amplitude] for row in history.tolist()]
    return max(sum(a != b for a, b in itertools.pairwise(row)) for row in signs)


def product(**options: tuple[float, ...]) -> list[dict[str, float]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def drawn(count: int, **ranges: tuple[float, float]) -> list[dict[str, float]]:
    """Plants with everything drawn evenly from its range."""
    g = torch.Generator().manual_seed(5)
    return [{k: low + (high - low) * float(torch.rand((), generator=g)) for k, (low, high) in ranges.items()} for _ in range(count)]


SLOW = [
    p
    for p in product(gain=(0.3, 0.5, 1.0), lag=(10, 15, 20), start=(-1.5, 0.5, 1.5, 3.0), delay=(0, 3))
    if p["start"] / p["gain"] < sparsity.LARGEST_LOG_FACTOR
]
NERVOUS = product(gain=(1.0, 2.0, 4.0), lag=(5, 12, 20), start=(-1.0, 1.0, 2.5), momentum=(0.9,), speed=(0.1, 0.2), warmup=(0, 30))


def test_slow_plants_reach_the_target_soon_and_do_not_pass_it() -> None:
    """From a fifth of the target and from up to 20 times of it; the numbers are those that the constants promise."""
    history = simulate(Plants(SLOW))
    assert history.shape == (66, 400)
    assert min(abs(p["start"]) for p in SLOW) > WITHIN, "without the controller none is there"
    assert int(settled(history).max()) <= 130
    assert float(overshoot(history).max()) < 0.05
    assert reversals(history, amplitude=0.01) <= 2
    assert float(history[:, -1].abs().max()) < 1e-2, "no error remains"


def test_nervous_plants_do_not_swing() -> None:
    """What Adam makes of it: momentum, a bounded speed, high gain, a warm-up of the learning rate in which nothing answers."""
    history = simulate(Plants(NERVOUS))
    assert history.shape == (108, 400)
    assert int(settled(history).max()) <= 155
    assert float(overshoot(history).max()) < -math.log(0.54)
    assert float(history[:, 200:].abs().max()) < 0.06


def test_gains_that_never_calm_down_would_let_them_swing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the derivative and the calming are for; also that these plants can tell."""
    for name, value in {"DERIVATIVE": 0.0, "CALMING": 1.0, "PROPORTIONAL": 2.0}.items():
        monkeypatch.setattr(sparsity, name, value)
    assert float(simulate(Plants(NERVOUS))[:, 200:].abs().max()) > 0.5


def test_slow_plants_under_noise_and_a_warm_up() -> None:
    ranges = {"gain": (0.3, 1.0), "lag": (10, 20), "start": (-2.0, 2.5), "delay": (0, 4.99), "noise": (0, 0.1), "warmup": (0, 60)}
    plants = Plants(drawn(300, **ranges))
    noise, history = plants.noise, simulate(plants)
    assert float((history[:, 200:].abs().amax(1) - noise).max()) < WITHIN
    assert float((overshoot(history) - 1.5 * noise).max()) < 0.35
    assert reversals(history[:, 200:], amplitude=0.15) <= 1


def test_nervous_plants_under_noise() -> None:
    """On average within 10 %, while single batches are up to 15 % off."""
    ranges = {"gain": (1.0, 4.0), "lag": (5, 20), "start": (-1.0, 2.5), "noise": (0, 0.15), "speed": (0.1, 0.2), "warmup": (0, 40)}
    plants = Plants([{**p, "momentum": 0.9} for p in drawn(300, **ranges)])
    tail = simulate(plants)[:, 200:]
    assert float(tail.square().mean(1).sqrt().max()) < WITHIN


def test_a_target_that_drifts_away_is_followed() -> None:
    """The model learns on, so the weight that holds a number of terms today is not that of tomorrow."""
    plants = Plants([{"gain": 0.6, "lag": 15, "start": 1.0}])
    history = simulate(plants, steps=600, drift=0.003)
    assert float(plants.start) > 2.5
    assert float(history[:, 150:].abs().max()) < WITHIN


def test_nothing_winds_up_at_the_bound() -> None:
    """A target out of reach holds the factor at its bound, and a single batch beyond the target begins to bring it back."""
    controller = SparsityController(TARGET)
    for _ in range(500):
        controller.observe(torch.tensor(20 * TARGET))
    assert float(controller.log_factor) == pytest.approx(sparsity.LARGEST_LOG_FACTOR)
    before = float(controller.log_factor)
    controller.observe(torch.tensor(0.5 * TARGET))
    assert float(controller.log_factor) < before
    for _ in range(2000):
        controller.observe(torch.tensor(0.0))
    assert float(controller.log_factor) == pytest.approx(-sparsity.LARGEST_LOG_FACTOR)


def test_the_first_step_uses_the_weight_as_given_and_no_batch_moves_it_far() -> None:
    controller = SparsityController(TARGET)
    assert float(controller.factor()) == 1.0
    log = [0.0]
    for active in (1e6, 0.0, 1e6, 5.0, 120.0):
        controller.observe(torch.tensor(active))
        log.append(float(controller.log_factor))
    steps = [abs(b - a) for a, b in itertools.pairwise(log)]
    assert max(steps) == pytest.approx(sparsity.LARGEST_CHANGE)
    assert min(steps) > 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_left_out(value: float) -> None:
    a, b = SparsityController(TARGET), SparsityController(TARGET)
    for c in (a, b):
        c.observe(torch.tensor(300.0))
    a.observe(torch.tensor(value))
    assert a.state_dict() == b.state_dict()
    fresh = SparsityController(TARGET)
    fresh.observe(torch.tensor(value))
    assert float(fresh.started) == 0


def test_a_resumed_controller_goes_on_as_one_that_never_stopped() -> None:
    values = [TARGET * math.exp(2 - 0.05 * step + 0.3 * math.sin(step)) for step in range(80)]
    controller = SparsityController(TARGET)
    for value in values[:50]:
        controller.observe(torch.tensor(value))
    resumed = SparsityController(TARGET)
    resumed.load_state_dict(controller.state_dict())
    for value in values[50:]:
        controller.observe(torch.tensor(value))
        resumed.observe(torch.tensor(value))
    assert controller.state_dict() == resumed.state_dict()
    assert float(controller.factor()) != 1.0
    assert float(controller.gain) < 1.0, "the whole state was in play"


def test_the_host_never_waits() -> None:
    controller, active = SparsityController(TARGET), torch.tensor(300.0)
    with NoHostSync():
        controller.observe(active)
        controller.factor()


def test_half_precision_of_the_model_leaves_the_state_in_fp32() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": SparsityController(TARGET)})
    controller: Any = module["b"]
    controller.observe(torch.tensor(121.0))
    before = float(controller.log_factor)
    module.to(torch.bfloat16).half()
    assert module["a"].weight.dtype == torch.float16
    assert controller.log_factor.dtype == torch.float32
    assert float(controller.log_factor) == before != 0
    controller.to("meta")
    assert controller.log_factor.device.type == "meta"


def test_controllers_of_a_run() -> None:
    sparse = SpladeLoss(query_active_dims=20, document_active_dims=120)
    plain = MultipleNegativesRankingLoss()
    found = controllers([sparse, SumLoss(terms={"a": Term(sparse), "b": Term(plain)}), plain])
    assert {name: c.target for name, c in found.items()} == {"query_active_dims": 20.0, "document_active_dims": 120.0}  # type: ignore[union-attr]
    assert len(controllers([plain])) == 0
    with pytest.raises(ConfigError, match="both 20 and 30"):
        controllers([sparse, SpladeLoss(query_active_dims=30)])


# --- guard ----------------------------------------------------------------------------------------------------------------

VOCABULARY = 30_522


def feed(guard: SparsityGuard, value: Callable[[int], float], steps: range) -> list[tuple[int, str]]:
    """Warnings by step when queries and documents have the same value."""
    found = []
    for step in steps:
        warning = guard.observe(step, value(step), value(step), VOCABULARY)
        if warning is not None:
            found.append((step, warning))
    return found


@pytest.mark.parametrize("side", ["query", "document"])
def test_collapse_ends_training_and_says_what_to_change(side: str) -> None:
    guard, logged = SparsityGuard(), []
    values: dict[str, float | None] = {"query_active": 30.0, "document_active": 80.0, f"{side}_active": 0.4}

    def training() -> None:
        for step in range(10, 200, 10):
            logged.append(step)
            guard.observe(step, vocabulary=VOCABULARY, **values)  # type: ignore[arg-type]

    with pytest.raises(TrainingError) as caught:
        training()
    last, message = logged[-1], str(caught.value)
    assert last == 10 * sparsity.COLLAPSED_LOGS, "found within a few logs"
    for part in ("0.40 of 30,522", f"loss.{side}_weight", "loss.warmup", "optimizer.lr", f"loss.{side}_active_dims", f"step {last}"):
        assert part in message


def test_one_log_is_no_collapse_and_neither_are_the_first_steps() -> None:
    guard = SparsityGuard()
    assert feed(guard, lambda step: 0.0, range(1, sparsity.COLLAPSE_AFTER)) == []
    assert feed(guard, lambda step: 0.2 if step % 30 else 9.0, range(30, 300, 10)) == []
    with pytest.raises(TrainingError):
        feed(guard, lambda step: 0.2, range(300, 400, 10))


@pytest.mark.parametrize("every", [5, 10, 40, 67, 100, 500])
def test_collapse_is_found_however_rare_logs_are(every: int) -> None:
    """From the start, and after healthy logs: a log is the mean over the steps since the one before."""
    for healthy in (0, 3 * every):
        guard, logged = SparsityGuard(), []

        def training(guard: SparsityGuard = guard, logged: list[int] = logged, healthy: int = healthy) -> None:
            for step in range(every, 10 * every, every):
                logged.append(step)
                guard.observe(step, 30.0, 9.0 if step <= healthy else 0.2, VOCABULARY)

        with pytest.raises(TrainingError, match=r"0\.20 of 30,522 terms .* in all logs of the last \d+ steps"):
            training()
        assert logged[-1] <= healthy + max(every, sparsity.COLLAPSED_STEPS + every)
        assert logged[-1] - healthy >= min(sparsity.COLLAPSED_STEPS, 2 * every)


def test_steps_without_such_texts_are_no_collapse() -> None:
    guard = SparsityGuard()
    for step in range(10, 300, 10):
        assert guard.observe(step, 5.0, 20.0 if step == 10 else None, VOCABULARY) is None
    assert guard.observe(300, 5.0, 0.0, VOCABULARY) is None, "one log of ten steps"


@pytest.mark.parametrize("every", [10, 67, 101, 150, 500])
def test_saturation_is_judged_however_rare_logs_are(every: int) -> None:
    found = feed(SparsityGuard(), lambda step: 15_000.0, range(every, 10 * every, every))
    assert [step for step, _ in found] == [max(2 * every, sparsity.SATURATION_AFTER)]


def test_saturation_is_one_warning() -> None:
    found = feed(SparsityGuard(), lambda step: 15_000.0, range(10, 400, 10))
    assert len(found) == 1
    step, text = found[0]
    assert step <= sparsity.SATURATION_UNTIL
    for part in ("15,000 of 30,522", "loss.query_weight", "loss.document_weight", "loss.warmup", "loss.document_active_dims"):
        assert part in text


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (lambda step: 15_000 * math.exp(-step / 100), range(10, 400, 10)),
        (lambda step: 5_000.0, range(10, 400, 10)),
        (lambda step: 15_000.0, range(10, 50, 10)),
        (lambda step: 15_000.0 if step > sparsity.SATURATION_UNTIL else 5_000.0, range(10, 400, 10)),
        (lambda step: 15_000 * math.exp(-step / 1000), range(150, 2000, 150)),
        (lambda step: 15_000.0, range(150, 300, 150)),
    ],
    ids=["falling", "sparse", "too early", "later", "falling in rare logs", "first log"],
)
def test_no_warning(value: Callable[[int], float], steps: range) -> None:
    assert feed(SparsityGuard(), value, steps) == []


def test_texts_that_are_not_there_are_not_judged() -> None:
    guard = SparsityGuard()
    for step in range(10, 200, 10):
        assert guard.observe(step, None, None, VOCABULARY) is None
    for step in range(10, 10 * sparsity.COLLAPSED_LOGS, 10):
        assert guard.observe(step, None, 0.0, VOCABULARY) is None
    with pytest.raises(TrainingError, match="documents have collapsed"):
        guard.observe(200, None, 0.0, VOCABULARY)


def test_the_callback_reads_the_log_warns_and_resumes() -> None:
    heard: list[str] = []
    watch = SparsityWatch(VOCABULARY, heard.append)

    def log(callback: SparsityWatch, step: int, **values: float) -> None:
        trainer: Any = SimpleNamespace(state=SimpleNamespace(step=step))
        callback.on_log(trainer, {"loss": 1.0, **values})

    log(watch, 10)
    log(watch, 20, query_active_dims=12_000.0, document_active_dims=12_000.0)
    log(watch, 60, query_active_dims=12_000.0, document_active_dims=12_000.0)
    log(watch, 70, query_active_dims=0.1, document_active_dims=50.0)
    log(watch, 80, query_active_dims=0.1, document_active_dims=50.0)
    assert len(heard) == 1
    resumed = SparsityWatch(VOCABULARY, heard.append)
    resumed.load_state_dict({})
    resumed.load_state_dict(watch.state_dict())
    assert resumed.guard == watch.guard
    with pytest.raises(TrainingError, match="queries have collapsed"):
        log(resumed, 90, query_active_dims=0.1, document_active_dims=50.0)
    assert len(heard) == 1


def test_a_target_is_meant_without_dropout() -> None:
    """A model that has 1.25 times as many terms in training is steered to the target without dropout."""
    control = SparsityController(100.0)
    control.correct(torch.tensor(80.0), torch.tensor(100.0))
    control.observe(torch.tensor(125.0))
    assert float(control.factor()) == pytest.approx(1.0, abs=1e-4)
    control.correct(torch.tensor(100.0), torch.tensor(100.0))  # the mean of both looks: 0.9
    plain = SparsityController(100.0)
    plain.observe(torch.tensor(125.0))
    assert float(plain.factor()) > 1.01
    before = control.state_dict()
    control.correct(torch.tensor(torch.nan), torch.tensor(100.0))
    assert all(torch.equal(value, before[name]) for name, value in control.state_dict().items())
    assert float(before["offset"]) == pytest.approx(math.log(0.8) / 2)
