"""The SPLADE head against loops in float64, against sentence-transformers' pooling, and against what would make it pointless."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from stpipe.ops.splade_head import splade_head
from stpipe.ops.splade_tiles import has_products

POOLINGS = ["max", "sum"]
ACTIVATIONS = ["relu", "log1p_relu"]
both = pytest.mark.parametrize(("pooling", "activation"), [(p, a) for p in POOLINGS for a in ACTIVATIONS])
LENGTHS = [3, 0, 1, 5, 5, 600, 2, 0]  # empty texts in between and at the end, one token, equal neighbours, longer than a block


def inputs(lengths: list[int], dim: int = 37, words: int = 1501, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """hidden, weight, bias and upstream gradient; about a tenth of the pairs is active."""
    hidden, weight = torch.randn(sum(lengths), dim), torch.randn(words, dim) / math.sqrt(dim)
    bias = torch.randn(words) * 0.3 - 1.5
    return [x.to(dtype) for x in (hidden, weight, bias, torch.randn(len(lengths), words))]


def whole(hidden: Tensor, weight: Tensor, bias: Tensor | None, lengths: list[int], pooling: str, activation: str) -> Tensor:
    """The usual form: all logits of a text at once, every token activated, then pooled by torch."""
    rows = []
    for states in hidden.split(lengths):
        x = states @ weight.t() + (0 if bias is None else bias)
        x = x.relu().log1p()
        x = x.log1p() if activation == "log1p_relu" else x
        rows.append(x.new_zeros(x.shape[1]) if not x.shape[0] else x.max(0).values if pooling == "max" else x.sum(0))
    return torch.stack(rows)


def with_gradients(function: Any, tensors: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Value and gradients of (value * upstream).sum() by all tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    (value * upstream.to(value.dtype)).sum().backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def head(lengths: list[int], **options: Any) -> Any:
    return lambda h, w, b: splade_head(h, w, bias=b, lengths=torch.tensor(lengths), **options)


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    """Each within tolerance of its largest entry, which is not zero."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.numel()
        scale = float(b.abs().max())
        assert scale > 0 and float((a.double() - b.double()).abs().max()) <= tolerance * scale


@both
def test_against_loops(pooling: str, activation: str) -> None:
    lengths = [2, 0, 3, 1]
    hidden, weight, bias, upstream = inputs(lengths, dim=3, words=6, dtype=torch.float64)
    bias += 1.5
    h, w, b, u = hidden.tolist(), weight.tolist(), bias.tolist(), upstream.tolist()
    value = [[0.0] * 6 for _ in lengths]
    grad_h, grad_w, grad_b = [[0.0] * 3 for _ in h], [[0.0] * 3 for _ in w], [0.0] * 6
    start = 0
    for n, length in enumerate(lengths):
        for v in range(6):
            logit = [sum(x * y for x, y in zip(h[t], w[v], strict=True)) + b[v] for t in range(start, start + length)]
            first = [math.log1p(max(0.0, x)) for x in logit]
            act = [math.log1p(y) if activation == "log1p_relu" else y for y in first]
            value[n][v] = 0.0 if not act else max(act) if pooling == "max" else sum(act)
            for i, x in enumerate(logit):
                if x <= 0 or (pooling == "max" and i != act.index(max(act))):
                    continue
                slope = 1 / (1 + x) / (1 + first[i] if activation == "log1p_relu" else 1)
                for d in range(3):
                    grad_h[start + i][d] += u[n][v] * slope * w[v][d]
                    grad_w[v][d] += u[n][v] * slope * h[start + i][d]
                grad_b[v] += u[n][v] * slope
        start += length
    ours = with_gradients(head(lengths, pooling=pooling, activation=activation), [hidden, weight, bias], upstream)
    assert ours[0].dtype == torch.float64
    assert_same(ours, [torch.tensor(x, dtype=torch.float64) for x in (value, grad_h, grad_w, grad_b)], 1e-12)


@both
@pytest.mark.parametrize("words", [1, 63, 1501, 2048])
def test_against_the_whole_form(pooling: str, activation: str, words: int) -> None:
    """Fewer words than a tile, several tiles, and a last tile that is not full (a block of 600 tokens has 873 words a tile)."""
    hidden, weight, bias, upstream = inputs(LENGTHS, words=words)
    ours = with_gradients(head(LENGTHS, pooling=pooling, activation=activation), [hidden, weight, bias], upstream)
    double = [x.double() for x in (hidden, weight, bias)]
    theirs = with_gradients(lambda h, w, b: whole(h, w, b, LENGTHS, pooling, activation), double, upstream)
    assert ours[0].dtype == torch.float32 and not ours[0][1].any() and not ours[0][7].any()
    assert 0.01 < float((theirs[0] > 0).double().mean()) < 0.9
    assert_same(ours, theirs, 5e-6)


@pytest.mark.parametrize("training", [True, False])
@both
def test_against_sentence_transformers(pooling: str, activation: str, training: bool) -> None:
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    lengths = [4, 9, 1, 9]
    hidden, weight, bias, upstream = inputs(lengths)
    mask = torch.arange(9)[None, :] < torch.tensor(lengths)[:, None]
    module = SpladePooling(pooling, activation_function=activation).train(training)

    def theirs(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        padded = torch.zeros(4, 9, h.shape[1]).index_put((mask,), h)
        logits = torch.nn.functional.linear(padded, w, b)
        return module({"token_embeddings": logits, "attention_mask": mask.long()})["sentence_embedding"]

    ours = head(lengths, pooling=pooling, activation=activation)
    if training:
        tensors = [hidden, weight, bias]
        assert_same(with_gradients(ours, tensors, upstream), with_gradients(theirs, tensors, upstream), 2e-6)
    else:  # its logarithm is in place then, and it has no gradient
        with torch.no_grad():
            assert_same([ours(hidden, weight, bias)], [theirs(hidden, weight, bias)], 2e-6)


@both
def test_gradcheck(pooling: str, activation: str) -> None:
    hidden, weight, bias, _ = inputs([3, 0, 1, 4], dim=5, words=7, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias + 1)]
    assert torch.autograd.gradcheck(head([3, 0, 1, 4], pooling=pooling, activation=activation), leaves)


def test_of_equal_logits_the_first_token_wins() -> None:
    """Small whole numbers: all products are exact and most maxima are shared by several tokens."""
    lengths = [40, 7, 1, 300]
    hidden, weight = torch.randint(-1, 2, (sum(lengths), 6)).float(), torch.randint(-1, 2, (700, 6)).float()
    bias, upstream = torch.randint(-2, 1, (700,)).float(), torch.randn(4, 700)
    logits = hidden[:40] @ weight.t()
    shared = (logits == logits.amax(0)).sum(0)
    assert float((shared > 1).float().mean()) > 0.5
    ours = with_gradients(head(lengths), [hidden, weight, bias], upstream)
    theirs = with_gradients(lambda h, w, b: whole(h, w, b, lengths, "max", "relu"), [hidden, weight, bias], upstream)
    assert_same(ours, theirs, 1e-6)
    last = with_gradients(lambda h, w, b: whole(h.flip(0), w, b, lengths[::-1], "max", "relu").flip(0), [hidden, weight, bias], upstream)
    with pytest.raises(AssertionError):  # another rule for ties would be seen
        assert_same(ours, last, 1e-6)


@both
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_tokens_that_are_not_kept_take_no_part(pooling: str, activation: str, share: float) -> None:
    hidden, weight, bias, upstream = inputs(LENGTHS)
    keep = torch.rand(sum(LENGTHS)) < share
    keep[:3] = False  # one text loses all its tokens
    counts = [int(part.sum()) for part in keep.split(LENGTHS)]
    ours = with_gradients(head(LENGTHS, pooling=pooling, activation=activation, keep=keep), [hidden, weight, bias], upstream)
    if not share:
        assert not any(x.any() for x in ours)
        return
    theirs = with_gradients(lambda h, w, b: whole(h[keep], w, b, counts, pooling, activation), [hidden, weight, bias], upstream)
    assert not ours[0][0].any() and not ours[1][~keep].any()
    assert_same(ours, theirs, 5e-6)


@both
def test_gradients_of_only_some_inputs(pooling: str, activation: str) -> None:
    lengths = [5, 2]
    tensors = inputs(lengths)
    complete = with_gradients(head(lengths, pooling=pooling, activation=activation), tensors[:3], tensors[3])
    for wanted in range(3):
        leaves = [x.clone().requires_grad_(i == wanted) for i, x in enumerate(tensors[:3])]
        (head(lengths, pooling=pooling, activation=activation)(*leaves) * tensors[3]).sum().backward()
        assert torch.equal(leaves[wanted].grad, complete[1 + wanted])
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != wanted)


@both
def test_without_bias(pooling: str, activation: str) -> None:
    lengths = [5, 2]
    hidden, weight, _, upstream = inputs(lengths)
    options = {"pooling": pooling, "activation": activation}
    ours = with_gradients(lambda h, w: head(lengths, **options)(h, w, None), [hidden, weight], upstream)
    theirs = with_gradients(lambda h, w: whole(h, w, None, lengths, pooling, activation), [hidden, weight], upstream)
    assert_same(ours, theirs, 2e-6)


@both
def test_recomputed_by_checkpoint(pooling: str, activation: str) -> None:
    tensors = inputs(LENGTHS)
    function = head(LENGTHS, pooling=pooling, activation=activation)
    plain = with_gradients(function, tensors[:3], tensors[3])
    again = with_gradients(lambda *x: checkpoint(function, *x, use_reentrant=False), tensors[:3], tensors[3])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(plain, again, strict=True))


@both
def test_autocast_rounds_the_factors_only(pooling: str, activation: str) -> None:
    """bf16 keeps 8 bits: a logit is off by 2^-8 of |h| |w| at most, and where the hardware returns bf16 by 2^-9 of itself."""
    lengths = [30, 4, 60]
    hidden, weight, bias, upstream = inputs(lengths)

    def ours(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return head(lengths, pooling=pooling, activation=activation)(h, w, b)

    found = with_gradients(ours, [hidden, weight, bias], upstream)
    assert all(x.dtype == torch.float32 for x in found)
    rounded = [hidden.bfloat16().double(), weight.bfloat16().double(), bias.double()]
    expected = with_gradients(lambda h, w, b: whole(h, w, b, lengths, pooling, activation), rounded, upstream)
    assert_same(found[:1], expected[:1], 2**-8 if has_products(torch.bfloat16, "cpu") else 2e-6)
    exact = with_gradients(lambda h, w, b: whole(h, w, b, lengths, pooling, activation), [hidden, weight, bias], upstream)
    assert not torch.allclose(found[0], exact[0], rtol=1e-5, atol=1e-6), "nothing was rounded"
    for a, b in zip(found[1:], exact[1:], strict=True):  # a near tie may choose another token, so no bound on each entry
        assert float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) > 0.98
    half = with_gradients(ours, [hidden.bfloat16(), weight, bias], upstream)
    assert half[1].dtype == torch.bfloat16 and torch.equal(half[0], found[0])


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_model(pooling: str, activation: str, dtype: torch.dtype) -> None:
    """Without autocast, in numbers that half precision holds exactly: the results are those of float32, rounded at the end."""
    lengths = [9, 3]
    tensors = [torch.randint(-2, 3, (12, 8)), torch.randint(-2, 3, (50, 8)), torch.randint(-3, 1, (50,))]
    upstream = torch.randn(2, 50)
    options = {"pooling": pooling, "activation": activation}
    found = with_gradients(head(lengths, **options), [x.to(dtype) for x in tensors], upstream)
    expected = with_gradients(lambda h, w, b: whole(h, w, b, lengths, pooling, activation), [x.float() for x in tensors], upstream)
    assert [x.dtype for x in found] == [torch.float32, dtype, dtype, dtype]
    assert_same(found[:1], expected[:1], 1e-6)
    assert_same(found[1:], expected[1:], 2**-8)


def test_not_a_number_is_not_hidden() -> None:
    hidden, weight, bias, _ = inputs([4, 4])
    hidden[5, 0] = torch.nan
    out = splade_head(hidden, weight, bias=bias, lengths=torch.tensor([4, 4]))
    assert out[1].isnan().all() and not out[0].isnan().any()


def test_no_texts_and_no_tokens() -> None:
    weight = torch.randn(9, 3, requires_grad=True)
    none = splade_head(torch.zeros(0, 3), weight, bias=None, lengths=torch.zeros(0, dtype=torch.int64))
    assert none.shape == (0, 9)
    hidden = torch.zeros(0, 3, requires_grad=True)
    for pooling in POOLINGS:
        empty = splade_head(hidden, weight, bias=None, lengths=torch.tensor([0, 0]), pooling=pooling)
        assert torch.equal(empty, torch.zeros(2, 9))
        grads = torch.autograd.grad(empty.sum(), (hidden, weight))
        assert grads[0].shape == (0, 3) and torch.equal(grads[1], torch.zeros(9, 3))


class Largest(TorchDispatchMode):
    """Notes the most elements that a tensor had while it was active."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_large_vocabulary_without_its_logits(pooling: str) -> None:
    """250,000 words, 2 x 60 tokens: 30 million logits in the usual form; here nothing is larger than weight, result or tile."""
    lengths, words, dim = [60, 60], 250_000, 4
    hidden, weight, bias, upstream = inputs(lengths, dim=dim, words=words)
    with Largest() as largest:
        found = with_gradients(head(lengths, pooling=pooling), [hidden, weight, bias], upstream)
    assert words * dim <= largest.elements <= max(words * dim, 1 << 20) < sum(lengths) * words / 25
    some = torch.randperm(words)[:300]
    part = [hidden.double(), weight[some].double(), bias[some].double()]
    expected = with_gradients(lambda h, w, b: whole(h, w, b, lengths, pooling, "relu"), part, upstream[:, some])
    assert_same([found[0][:, some], found[2][some], found[3][some]], [expected[0], expected[2], expected[3]], 5e-6)
    with Largest() as usual:
        whole(hidden, weight[:1000], bias[:1000], lengths, pooling, "relu")
    assert usual.elements >= 60 * 1000, "the usual form would be seen"


def test_a_large_vocabulary_all_active() -> None:
    """As an uncalibrated head starts: every pair is active; the logits of the winners are made in tiles, too."""
    lengths = [150, 150]
    hidden, weight, bias, upstream = inputs(lengths, dim=4, words=30_000)
    with Largest() as largest:
        found = with_gradients(head(lengths), [hidden, weight, bias + 10], upstream)
    assert bool((found[0] > 0).all()) and largest.elements <= 1 << 20
    expected = with_gradients(lambda h, w, b: whole(h, w, b, lengths, "max", "relu"), [hidden, weight, bias + 10], upstream)
    assert_same(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": torch.zeros(2, 3, 4)}, "laid end to end"),
        ({"weight": torch.zeros(5, 7)}, "same width"),
        ({"lengths": torch.tensor([2, 3])}, "together 6"),
        ({"lengths": torch.tensor([[6]])}, "lengths is (1, 1)"),
        ({"bias": torch.zeros(4)}, "bias is (4,), expected (5,)"),
        ({"keep": torch.ones(5, dtype=torch.bool)}, "keep is (5,), expected (6,)"),
        ({"pooling": "mean"}, "'max', 'sum'"),
        ({"activation": "gelu"}, "'relu', 'log1p_relu'"),
        ({"kernel": "cuda"}, "'auto', 'torch', 'triton'"),
    ],
)
def test_errors(change: dict[str, Any], said: str) -> None:
    arguments = {"hidden": torch.zeros(6, 4), "weight": torch.zeros(5, 4), "bias": None, "lengths": torch.tensor([2, 4])} | change
    with pytest.raises(ValueError) as caught:
        splade_head(arguments.pop("hidden"), arguments.pop("weight"), **arguments)
    assert said in str(caught.value)
