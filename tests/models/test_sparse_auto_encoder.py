"""The code, its reconstructions, the latents that never fire, and the folder on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stpipe.config.errors import ConfigError
from stpipe.losses import csr
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Pooling
from stpipe.models.modules.sparse_auto_encoder import OUTPUTS, SparseAutoEncoder
from tests.engine.gloo import run_distributed
from tests.models.tiny import make_backbone, make_tokens

ROWS, WIDTH, LATENTS = 6, 5, 12
SETTINGS = {"hidden_dim": LATENTS, "k": 2, "k_aux": 3}


def make_module(*, dead: tuple[int, ...] = (1, 4, 5, 8, 10), seed: int = 0, **changes: Any) -> SparseAutoEncoder:
    """Random weights and biases, some latents dead; evaluation mode."""
    torch.manual_seed(seed)
    module = SparseAutoEncoder(WIDTH, **{**SETTINGS, **changes}).eval()
    with torch.no_grad():
        module.weight.normal_()
        module.pre_bias.normal_()
        module.latent_bias.normal_()
        module.stats_last_nonzero[list(dead)] = 31
    return module


def inputs(*, rows: int = ROWS, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).requires_grad_()


def run(module: SparseAutoEncoder, x: Tensor, *, outputs: frozenset[str] = OUTPUTS, **more: Any) -> dict[str, Tensor]:
    return module({"sentence_embedding": x, "outputs": outputs, **more})


def naive(module: SparseAutoEncoder, x: Tensor, *, k: int) -> dict[str, Tensor]:
    """Every output in float64, a row and a latent at a time; carries gradient to `x` and to copies of the parameters."""
    w, pre, latent = (p.detach().double().requires_grad_() for p in (module.weight, module.pre_bias, module.latent_bias))
    dead = module.stats_last_nonzero > module.dead_threshold
    rows: dict[str, list[Tensor]] = {name: [] for name in ("sentence_embedding", *sorted(OUTPUTS))}
    for v in x:
        shift, scale = v.new_zeros(()), v.new_ones(())
        if module.normalize:
            shift = sum(v) / WIDTH
            scale = (sum((e - shift) ** 2 for e in v) / (WIDTH - 1)).sqrt()
        u = (v - shift) / (scale + 1e-5) - pre if module.normalize else v - pre
        z = [(w[h] * u).sum() + latent[h] for h in range(LATENTS)]

        def code(values: list[Tensor], n: int) -> Tensor:
            best = sorted(range(LATENTS), key=lambda h: -float(values[h].detach()))[:n]
            return torch.stack([values[h] if h in best and values[h] > 0 else values[h] * 0 for h in range(LATENTS)])

        def back(s: Tensor, scale: Tensor) -> Tensor:
            return (sum(s[h] * w[h] for h in range(LATENTS)) + pre) * scale

        kept = code(z, k)
        rows["sentence_embedding"].append(kept)
        rows["sae_input"].append(v)
        rows["sae_k"].append(back(kept, scale) + shift)
        rows["sae_4k"].append(back(code(z, 4 * k), scale) + shift)
        target = v - (back(kept, scale) + shift - pre * scale).detach()
        rows["sae_aux_target"].append(target)
        among_dead = [value * bool(d) for value, d in zip(z, dead, strict=True)]
        rows["sae_aux"].append(back(code(among_dead, module.k_aux), scale))
    out = {name: torch.stack(values) for name, values in rows.items()}
    return {**out, "weight": w, "pre_bias": pre, "latent_bias": latent}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dead", [(1, 4, 5, 8, 10), ()], ids=["dead", "none dead"])
def test_outputs_and_gradients_are_those_of_a_float64_loop(normalize: bool, dead: tuple[int, ...]) -> None:
    module, x = make_module(normalize=normalize, dead=dead), inputs()
    exact = x.detach().double().requires_grad_()
    found, expected = run(module, x), naive(module, exact, k=2)
    parameters = ("weight", "pre_bias", "latent_bias")
    for name in ("sentence_embedding", *sorted(OUTPUTS)):
        assert found[name].shape == expected[name].shape and found[name].dtype == torch.float32
        assert expected[name].any()
        torch.testing.assert_close(found[name].double(), expected[name].detach(), rtol=1e-5, atol=1e-6, msg=name)
        up = torch.randn(found[name].shape, generator=torch.Generator().manual_seed(9))
        ours = torch.autograd.grad(
            (found[name] * up).sum(), [x, *(getattr(module, p) for p in parameters)], retain_graph=True, allow_unused=True
        )
        theirs = torch.autograd.grad(
            (expected[name] * up.double()).sum(), [exact, *(expected[p] for p in parameters)], retain_graph=True, allow_unused=True
        )
        assert any(g is not None and g.abs().max() > 0.1 for g in theirs)
        for a, b in zip(ours, theirs, strict=True):
            a, b = (torch.zeros(1) if g is None else g.double() for g in (a, b))
            torch.testing.assert_close(a, b.expand_as(a) if b.numel() == 1 else b, rtol=1e-4, atol=1e-4, check_dtype=False, msg=name)


def test_the_code_has_at_most_k_entries_and_none_below_zero() -> None:
    module, x = make_module(), inputs(rows=40)
    code = run(module, x)["sentence_embedding"]
    active = (code > 0).sum(-1)
    assert (code >= 0).all() and active.max() == 2 and active.float().mean() > 1
    more = run(module, x, max_active_dims=5)["sentence_embedding"]
    assert (more > 0).sum(-1).max() == 5
    assert torch.equal(more * (code > 0), code)
    assert (run(module, x, max_active_dims=99)["sentence_embedding"] > 0).sum(-1).max() <= LATENTS


def test_nothing_more_is_computed_than_asked_for() -> None:
    module, x = make_module(), inputs()
    features = {"sentence_embedding": x, "outputs": frozenset({"layer_1"})}
    assert module(features).keys() == features.keys()
    assert features["sentence_embedding"] is x
    assert run(module, x, outputs=frozenset({"sae_k"})).keys() >= OUTPUTS
    assert torch.equal(run(module, x)["sentence_embedding"], module({"sentence_embedding": x})["sentence_embedding"])


def test_the_loss_asks_for_what_the_module_gives() -> None:
    assert csr.OUTPUTS == OUTPUTS


def test_without_auxiliary_latents_their_error_is_zero() -> None:
    out = run(make_module(k_aux=0), inputs())
    assert torch.equal(out["sae_aux"], out["sae_aux_target"]) and out["sae_aux"].any()


def test_sums_are_taken_in_full_precision() -> None:
    module, x = make_module(), inputs()
    expected = run(module, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(module, x)
    half = run(make_module().bfloat16(), x.bfloat16())
    for name in ("sentence_embedding", *sorted(OUTPUTS)):
        assert torch.equal(found[name], expected[name]) and half[name].dtype == torch.float32


def test_an_encoder_hands_the_outputs_on() -> None:
    torch.manual_seed(0)
    module = SparseAutoEncoder(32, hidden_dim=64, k=4, k_aux=8)
    module.stats_last_nonzero[:32] = 31
    encoder = Encoder([make_backbone("bert"), Pooling(32), module]).eval()
    assert encoder.embedding_dim == 64
    rep = encoder(make_tokens([4, 7, 5]), OUTPUTS)
    assert rep.values.shape == (3, 64) and rep.extras.keys() == OUTPUTS
    assert all(value.shape == (3, 32) and value.any() for value in rep.extras.values())
    assert encoder(make_tokens([4, 7, 5])).extras == {}


# --- latents that never fire ------------------------------------------------------------------------------------------------


def in_code(module: SparseAutoEncoder, x: Tensor) -> Tensor:
    """(H,) bool: latents that are active in some row."""
    return (run(module, x, outputs=frozenset())["sentence_embedding"] > 1e-5).any(0)


def test_steps_are_counted_not_forwards() -> None:
    module, batches = make_module(dead=()), [inputs(seed=s, rows=2) for s in range(3)]
    fired = torch.stack([in_code(module, x) for x in batches]).any(0)
    assert 0 < fired.sum() < LATENTS
    module.train()
    for x in (*batches, *batches):
        run(module, x)
    assert not module.stats_last_nonzero.any() and torch.equal(module.fired, fired)
    module.advance()
    assert torch.equal(module.stats_last_nonzero, (~fired).long()) and not module.fired.any()
    run(module, batches[0])
    module.advance()
    assert torch.equal(module.stats_last_nonzero, torch.where(in_code(module.eval(), batches[0]), 0, (~fired).long() + 1))


def test_only_training_leaves_a_trace() -> None:
    module, x = make_module(), inputs()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    run(module, x)
    with torch.no_grad():
        run(module.train(), x)
    assert before.keys() == {"stats_last_nonzero", "fired"}
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    run(module, x)
    assert module.fired.any()


def test_a_latent_is_dead_after_the_threshold_and_lives_when_it_fires() -> None:
    module, x = make_module(dead=(), dead_threshold=2), inputs(rows=1)
    alive = in_code(module, x)
    module.train()
    bias_only = run(module, x)["sae_aux"]
    torch.testing.assert_close(bias_only, module.pre_bias.expand(1, -1))
    for _ in range(2):
        module.advance()
        assert torch.equal(run(module, x)["sae_aux"], bias_only)  # 1, then 2 steps: not more than the threshold
    module.stats_last_nonzero.zero_()
    for _ in range(3):
        run(module, x)
        module.advance()
    assert torch.equal(module.stats_last_nonzero > module.dead_threshold, ~alive)
    assert not torch.equal(run(module, x)["sae_aux"], bias_only)


def test_recomputation_has_the_same_values_gradients_and_counts() -> None:
    """The second forward of a checkpoint sees all that fired since the first: it must not look."""
    results = []
    for recompute in (False, True):
        module = make_module(dead_threshold=0, dead=(0, 1, 2, 3, 4, 5)).train()
        total = torch.zeros(())
        for seed in (1, 2, 3):
            x = inputs(seed=seed, rows=3)
            out = checkpoint(run, module, x, use_reentrant=False) if recompute else run(module, x)
            total = total + sum(out[name].square().sum() for name in ("sentence_embedding", "sae_k", "sae_4k", "sae_aux"))
        total.backward()
        module.advance()
        results.append((total.detach(), [p.grad for p in module.parameters()], module.stats_last_nonzero))
    (a, grads_a, counts_a), (b, grads_b, counts_b) = results
    assert torch.equal(a, b) and torch.equal(counts_a, counts_b) and counts_a.any()
    assert all(torch.equal(g, h) and g.any() for g, h in zip(grads_a, grads_b, strict=True))


def all_reduce_max(tensor: Tensor) -> Tensor:
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor


def one_rank() -> list[int]:
    module = make_module(dead=()).train()
    run(module, inputs(rows=1, seed=torch.distributed.get_rank()))
    module.advance(all_reduce_max)
    return module.stats_last_nonzero.tolist()


@pytest.mark.slow
def test_what_fires_on_one_process_fires_on_all() -> None:
    module = make_module(dead=())
    fired = [in_code(module, inputs(rows=1, seed=rank)) for rank in range(2)]
    assert not torch.equal(*fired)
    counts = run_distributed(one_rank)
    assert counts[0] == counts[1] == (~(fired[0] | fired[1])).long().tolist()


def learn(*, beta: float) -> tuple[float, int, int]:
    """Last error of the reconstruction relative to the first one, most latents that were dead, and those at the end."""
    torch.manual_seed(0)
    x = torch.randn(64, 3) @ torch.randn(3, WIDTH)
    module = SparseAutoEncoder(WIDTH, hidden_dim=32, k=2, k_aux=8, dead_threshold=5).train()
    with torch.no_grad():
        module.weight[:24] *= 0.02  # above zero for half of the texts, but never among the largest
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    errors, dead = [], []
    for _ in range(150):
        out = run(module, x)
        error = (out["sae_input"] - out["sae_k"]).square().mean()
        aux = (out["sae_aux"] - out["sae_aux_target"]).square().mean()
        optimizer.zero_grad()
        (error + beta * aux).backward()
        optimizer.step()
        module.advance()
        errors.append(float(error.detach()))
        dead.append(int((module.stats_last_nonzero > 5).sum()))
    return errors[-1] / errors[0], max(dead), dead[-1]


def test_it_learns_to_reconstruct_and_the_auxiliary_error_wakes_the_dead() -> None:
    without, with_aux = learn(beta=0.0), learn(beta=0.5)
    assert without[1] >= 24 and with_aux[1] >= 24
    assert with_aux[2] <= without[2] - 3
    assert with_aux[0] < 0.7 * without[0] < 0.1


# --- disk ----------------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    module = make_module(normalize=True, dead_threshold=7)
    module.fired.fill_(True)
    module.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "input_dim": WIDTH,
        "hidden_dim": LATENTS,
        "k": 2,
        "k_aux": 3,
        "normalize": True,
        "dead_threshold": 7,
    }
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == {"pre_bias", "latent_bias", "stats_last_nonzero", "decoder.linear.weight"}
    loaded, x = SparseAutoEncoder.load(tmp_path).eval(), inputs()
    assert loaded.config() == module.config() and not loaded.fired.any()
    for name, value in run(module, x).items():
        assert name == "outputs" or torch.equal(run(loaded, x)[name], value)


@pytest.mark.parametrize("names", [("encoder.weight",), ("decoder.linear.weight",), ("encoder.weight", "decoder.linear.weight")])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_either_name_of_the_shared_weight_is_read(tmp_path: Path, names: tuple[str, ...], file: str) -> None:
    module = make_module()
    module.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    shared = stored.pop("decoder.linear.weight")
    (tmp_path / "model.safetensors").unlink()
    stored.update({name: shared.clone() for name in names})
    (save_file if file.endswith("safetensors") else torch.save)(stored, tmp_path / file)  # type: ignore[operator]
    assert torch.equal(SparseAutoEncoder.load(tmp_path).weight, module.weight)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    for k in (0, 13):
        with pytest.raises(ConfigError, match=f"k is {k}; it must be between 1 and hidden_dim, which is 12"):
            SparseAutoEncoder(WIDTH, hidden_dim=12, k=k)
    with pytest.raises(ConfigError, match="k_aux is -1"):
        SparseAutoEncoder(WIDTH, k_aux=-1)
    with pytest.raises(ConfigError, match="no input_dim"):
        SparseAutoEncoder.load(tmp_path)
    make_module().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_dim": 13}))
    with pytest.raises(ConfigError, match="(?s)do not fit SparseAutoEncoder.*latent_bias"):
        SparseAutoEncoder.load(tmp_path)


def test_defaults_are_those_of_the_format() -> None:
    assert SparseAutoEncoder.from_config({"input_dim": 9}).config() == {
        "input_dim": 9,
        "hidden_dim": 512,
        "k": 8,
        "k_aux": 512,
        "normalize": False,
        "dead_threshold": 30,
    }
    assert SparseAutoEncoder.from_config({"input_dim": 9, "k_aux": None}).k_aux == 0
