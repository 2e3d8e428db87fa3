"""What tests/ops/test_splade_triton.py runs in a process of its own; prints its findings as JSON.

`interpret` needs TRITON_INTERPRET=1 in the environment before triton is imported: the kernel then runs on CPU tensors.
`compile` needs it absent: the kernel becomes machine code for GPUs, which needs none.
"""

from __future__ import annotations

import json
import re
import sys

import torch
from torch import Tensor

from stpipe.ops.splade_head import splade_head
from stpipe.ops.splade_pairs import Pairs, winners
from stpipe.ops.splade_tiles import Products

LENGTHS = [3, 0, 1, 5, 5, 150, 64, 65, 0]  # empty, one token, one step of the kernel exactly, one more, several


def case(dtype: torch.dtype, words: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(sum(LENGTHS), dim).to(dtype), (torch.randn(words, dim) / dim**0.5).to(dtype)
    return hidden, weight, torch.randn(words) * 0.3 - 1.5


def results(kernel: str, hidden: Tensor, weight: Tensor, bias: Tensor, activation: str) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    value = splade_head(leaves[0], leaves[1], bias=leaves[2], lengths=torch.tensor(LENGTHS), activation=activation, kernel=kernel)
    generator = torch.Generator().manual_seed(1)
    (value * torch.randn(value.shape, generator=generator)).sum().backward()
    return [value.detach(), *(x.grad.float() for x in leaves)]


def interpret() -> dict[str, object]:
    from stpipe.ops.splade_triton import max_with_winners

    found: dict[str, object] = {}
    for name, dtype, words, dim, activation in (
        ("fp32", torch.float32, 301, 100, "relu"),
        ("fp32 narrow", torch.float32, 7, 3, "log1p_relu"),
        ("bf16", torch.bfloat16, 128, 64, "relu"),
        ("fp16", torch.float16, 130, 65, "log1p_relu"),
    ):
        tensors = case(dtype, words, dim)
        pairs = zip(results("triton", *tensors, activation), results("torch", *tensors, activation), strict=True)
        found[name] = [(float((a - b).abs().max()), float(b.abs().max())) for a, b in pairs]
    lengths = torch.tensor(LENGTHS)
    hidden, weight = torch.randint(-1, 2, (sum(LENGTHS), 6)).float(), torch.randint(-1, 2, (200, 6)).float()
    largest, place = max_with_winners(hidden, weight, lengths)
    everything = Pairs.of(largest.isfinite().float(), largest, "relu")
    expected = winners(hidden, weight, lengths, everything, Products(torch.float32, torch.float32))
    logits = hidden @ weight.t()
    last = torch.cat([part.flip(0).argmax(0) for part in logits.split(LENGTHS) if part.numel()])
    found["winners"] = {
        "equal": torch.equal(place[everything.text, everything.word].long(), expected),
        "pairs": expected.numel(),
        "ties": float((last != 0).float().mean()),
        "empty": [*place[1].unique().tolist(), bool((largest[1] == -torch.inf).all())],
    }
    hidden[70, 0] = torch.nan
    found["nan"] = [n for n in range(len(LENGTHS)) if max_with_winners(hidden, weight, lengths)[0][n].isnan().all()]
    found["no texts"] = list(max_with_winners(hidden[:0], weight, lengths[:0])[0].shape)
    return found


def compile_for_gpus() -> dict[str, object]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from stpipe.ops.splade_triton import BYTES, TOKENS, WORDS, max_kernel

    found: dict[str, object] = {}
    for capability in (80, 90):
        for dtype, size in (("bf16", 2), ("fp32", 4)):
            types = {"hidden": f"*{dtype}", "weight": f"*{dtype}", "starts": "*i64", "largest": "*fp32", "winner": "*i32"}
            types |= {"num_words": "i32", "width": "i32"} | dict.fromkeys(("TOKENS", "WORDS", "WIDTH", "PRECISION"), "constexpr")
            constants = {"TOKENS": TOKENS, "WORDS": WORDS, "WIDTH": BYTES // size, "PRECISION": "ieee"}
            aligned = {(i,): [["tt.divisibility", 16]] for i in (0, 1, 6)}  # as the launch finds pointers and widths to be
            source = ASTSource(max_kernel, types, constexprs=constants, attrs=aligned)
            kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            text = kernel.asm["ptx"]
            found[f"sm_{capability} {dtype}"] = {
                "tensor cores": "mma.sync" in text or "wgmma" in text,
                "atomics": bool(re.search(r"\b(atom|red)\.", text)),
                "shared": kernel.metadata.shared,
                "code": len(kernel.asm["cubin"]),
            }
    return found


if __name__ == "__main__":
    print(json.dumps({"interpret": interpret, "compile": compile_for_gpus}[sys.argv[1]]()))
