"""Whole runs under each backend that cuts something over processes: the model of DDP, evaluated, saved, and continued exactly."""

from __future__ import annotations

import numpy as np
import pytest

from stpipe.models.sentence_transformer import SentenceTransformer
from tests.launch.runs import Runs, trouble

pytestmark = pytest.mark.slow

TWO = "backend.num_processes=2"
BACKENDS = {
    "fsdp2": ("backend=fsdp2",),
    "zero1": ("backend=deepspeed_zero1",),
    "zero2": ("backend=deepspeed_zero2",),
    "zero3": ("backend=deepspeed_zero3", "backend.small_parameters=0"),
}


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_run_is_that_of_ddp_and_continues_exactly(runs: Runs, name: str) -> None:
    """With dropout, accumulation, evaluation between and the best model kept, on micro-batches of few tokens."""
    shared = ("trainer.accumulation_steps=2", "trainer.eval_steps=4", "trainer.best_metric=dev_cosine_mrr@10", "strategy=recompute",
              "strategy.token_budget=32", TWO)  # fmt: skip
    kill = trouble("kill", step=5)
    assert runs.run("run.dir=ddp", *shared).returncode == 0
    whole = runs.run("run.dir=whole", *BACKENDS[name], *shared, *kill, NO_TROUBLE="1")
    assert whole.returncode == 0, whole.stderr[-3000:]
    losses = runs.records("ddp", "loss")
    assert runs.records("whole", "loss") == [(step, pytest.approx(value, rel=2e-3)) for step, value in losses]
    assert len(losses) == 8
    found, expected = (SentenceTransformer(str(runs.folder / run / "model")).encode(["w1 w2", "w9"]) for run in ("whole", "ddp"))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert runs.run("run.dir=cut", *BACKENDS[name], *shared, *kill, "trainer.resume=auto").returncode == 1
    again = runs.run("run.dir=cut", *BACKENDS[name], *shared, *kill, "trainer.resume=auto", NO_TROUBLE="1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert [r["step"] for r in runs.status("cut")["resumed"]] == [4]
    assert runs.weights("cut") == runs.weights("whole")
    assert runs.records("cut", "loss") == runs.records("whole", "loss")


@pytest.mark.parametrize("backend", ["ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_half_precision(runs: Runs, backend: str) -> None:
    """bf16 in every backend is autocast: close to one process in bf16, with weights in fp32."""
    from safetensors.torch import load_file

    off = ("trainer.precision=bf16", "model.hidden_dropout=0", "model.attention_dropout=0", "trainer.max_steps=3")
    assert runs.run("run.dir=one", "trainer.batch_size=8", *off).returncode == 0
    done = runs.run("run.dir=two", f"backend={backend}", TWO, *off)
    assert done.returncode == 0, done.stderr[-3000:]
    one = runs.records("one", "loss")
    assert len(one) == 3
    assert runs.records("two", "loss") == [(step, pytest.approx(value, rel=2e-2)) for step, value in one]
    assert {str(t.dtype) for t in load_file(runs.folder / "two" / "model" / "model.safetensors").values()} == {"torch.float32"}
