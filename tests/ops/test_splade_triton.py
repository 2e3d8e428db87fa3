"""The triton kernel of the SPLADE head: run in triton's interpreter on the CPU, and compiled to machine code for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stpipe.ops.splade_head import splade_head

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed; it comes with torch for CUDA, on Linux also as `pip install triton`"
)


def run(what: str, **environment: str) -> dict[str, Any]:
    """The findings of splade_triton_run.py in a process of its own: triton reads TRITON_INTERPRET when it is imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    done = subprocess.run(
        [sys.executable, str(HERE / "splade_triton_run.py"), what],
        capture_output=True,
        text=True,
        env=kept | {"PYTHONPATH": str(HERE.parents[1])} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.slow
def test_interpreted_kernel_equals_the_torch_form(tmp_path: Path) -> None:
    found = run("interpret", TRITON_INTERPRET="1", TRITON_CACHE_DIR=str(tmp_path))
    for name in ("fp32", "fp32 narrow", "bf16", "fp16"):
        tolerance = 1e-5 if name.startswith("fp32") else 2**-7  # gradients are rounded to half precision
        assert len(found[name]) == 4
        for difference, largest in found[name]:
            assert largest > 0.01 and difference <= tolerance * largest, name
    assert found["winners"]["equal"] and found["winners"]["pairs"] == 7 * 200 and found["winners"]["ties"] > 0.3
    assert found["winners"]["empty"] == [-1, True]
    assert found["nan"] == [5]  # rows 14 to 163 are the text of 150 tokens
    assert found["no texts"] == [0, 200]


@needs_triton
@pytest.mark.slow
def test_kernel_compiles_for_gpus(tmp_path: Path) -> None:
    """For Ampere and Hopper, without a GPU: to tensor-core instructions in half precision, and to no atomics at all."""
    found = run("compile", TRITON_CACHE_DIR=str(tmp_path))
    assert sorted(found) == ["sm_80 bf16", "sm_80 fp32", "sm_90 bf16", "sm_90 fp32"]
    for name, facts in found.items():
        assert facts["tensor cores"] == name.endswith("bf16") and not facts["atomics"], name
        assert facts["code"] > 1000 and 0 < facts["shared"] <= 99 * 1024, name


@pytest.mark.slow
def test_the_kernel_is_not_imported_unless_it_is_used() -> None:
    script = "import sys, torch, stpipe.ops.splade_head as m; h = torch.ones(2, 3); w = torch.ones(4, 3, requires_grad=True)\n"
    script += "out = m.splade_head(h, w, bias=None, lengths=torch.tensor([2])); out.sum().backward()\n"
    script += "assert w.grad.any(); print('stpipe.ops.splade_triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_float64_is_refused() -> None:
    import torch

    with pytest.raises(ValueError, match="kernel='torch' does"):
        splade_head(torch.zeros(1, 2).double(), torch.zeros(3, 2), bias=None, lengths=torch.tensor([1]), kernel="triton")
