"""Peak memory of the SPLADE head, forward and backward, of a whole process: sentence-transformers' form against ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import re, sys
import torch
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch.nn.functional import linear
from stpipe.ops.splade_head import splade_head

def high_water():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

texts, tokens, dim, words = 16, 256, 384, 30522
torch.manual_seed(0)
hidden = torch.randn(texts * tokens, dim).requires_grad_()
weight = (torch.randn(words, dim) / dim ** 0.5).requires_grad_()
bias = torch.full((words,), -4.0).requires_grad_()
upstream = torch.randn(texts, words)
lengths, mask = torch.full((texts,), tokens), torch.ones(texts, tokens)
pooling = SpladePooling("max").train()
torch.mm(hidden[:64], weight[:64].t())  # buffers of the libraries
before = high_water()
if sys.argv[1] == "usual":
    value = pooling({"token_embeddings": linear(hidden.unflatten(0, (texts, tokens)), weight, bias), "attention_mask": mask})
    value = value["sentence_embedding"]
else:
    value = splade_head(hidden, weight, bias=bias, lengths=lengths)
(value * upstream).sum().backward()
assert 50 < float((value > 0).float().sum(1).mean()) < 5000
assert all(x.grad.any() for x in (hidden, weight, bias))
print(high_water() - before)
"""


def peak(form: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, form], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the high-water mark of memory")
def test_peak_memory_of_16_documents() -> None:
    """16 x 256 tokens and 30,522 words: the gradient of weight alone takes 47 MB, the logits of all tokens 500 MB."""
    usual, ours = peak("usual"), peak("ours")
    assert usual > 1.5e9, "the usual form would not have been caught"
    assert ours < 0.15e9 and ours < usual / 10
