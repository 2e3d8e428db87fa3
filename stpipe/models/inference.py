"""From texts to what a model makes of them: sorted by length, packed under a token budget, put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stpipe.core.tokenize import prompt_length, tokenize
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder

CHUNK = 8192  # texts tokenised at once, so that memory does not grow with the corpus
MAX_TOKENS = 16384  # of one forward: beyond it nothing gets faster
CPU_TOKENS = 4096  # the same on a CPU, where larger activations leave the cache (MiniLM: 13 % slower with 16,384)
MAX_CELLS = 1 << 25  # texts x words that one forward holds: thousands of short queries times a large vocabulary would be gigabytes


@dataclass(frozen=True)
class Job:
    """Inputs to be computed.

    texts: the inputs, of a cross-encoder pairs of texts; prompt: put before each text, or the first of each pair; batch_size: a
    forward takes no more tokens than so many texts of the maximum length; max_seq_length: longest text in tokens, None has no
    limit; progress: show a bar; route: way through a Router; max_active_dims: sparse embeddings keep the largest so many weights
    of a text, None all; max_texts: of one forward, None has no other limit than the tokens.
    """

    texts: Sequence[Any]
    prompt: str = ""
    batch_size: int = 32
    max_seq_length: int | None = None
    progress: bool = False
    route: str | None = None
    max_active_dims: int | None = None
    max_texts: int | None = None


@dataclass(frozen=True)
class Share:
    """The micro-batches of a job that one process computes: every `of`-th one, from number `number` on. All of them by default.

    What micro-batches there are depends on the job alone, so each text gets the same value whoever computes it.
    """

    number: int = 0
    of: int = 1

    def has(self, batch: int) -> bool:
        """Whether the micro-batch of this number is one of them."""
        return batch % self.of == self.number


@dataclass(frozen=True)
class Work:
    """A job and what is wanted of it, all of it values that can be sent to another process.

    kind: "dense" or "sparse" embeddings, or "scores"; dim: first dimensions of dense embeddings that are kept, None all;
    unit_length: divide them by their norm afterwards.
    """

    kind: Literal["dense", "sparse", "scores"]
    job: Job
    dim: int | None = None
    unit_length: bool = False

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**vars(self), "job": {**vars(self.job), "texts": list(self.job.texts)}}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Work:
        """What `as_json` gave, without a progress bar."""
        return Work(**{**values, "job": Job(**{**values["job"], "progress": False})})


#: Takes the places of some inputs (n,) on the CPU, and what was computed of them: see REDUCE.
Place = Callable[..., None]
#: Places of inputs -> their tokens in that order, on the CPU.
TokensOf = Callable[[Sequence[int]], Tokens]


class Sharing(Protocol):
    """How the micro-batches of a work are divided (models/team.py)."""

    def compute(self, work: Work, own: Callable[[Share, Place], None], place: Place) -> None:
        """See to it that `place` gets what there is to be had of the work.

        own: computes a share in this process.
        """


#: The encoder whose work is divided now, and how; None where every process computes alone. Other threads do not see it.
DIVIDED: ContextVar[tuple[Encoder, Sharing] | None] = ContextVar("stpipe_divided", default=None)


def sharing_of(encoder: Encoder) -> Sharing | None:
    """How the work of this encoder is divided now."""
    found = DIVIDED.get()
    return found[1] if found is not None and found[0] is encoder else None


def sentence_embeddings(encoder: Encoder, job: Job, *, dim: int | None, unit_length: bool, to_cpu: bool) -> Tensor:
    """(N, D) embeddings, the first `dim` dimensions of each (None: all), then divided by the norm if unit_length."""
    device = torch.device("cpu") if to_cpu else encoder.device
    width = min(dim, encoder.embedding_dim) if dim else encoder.embedding_dim
    out = torch.zeros(len(job.texts), width, dtype=encoder.dtype, device=device)

    def place(places: Tensor, values: Tensor) -> None:
        out[places.to(device)] = values.to(device=device, dtype=out.dtype)

    compute(encoder, Work("dense", job, width, unit_length), place, text_tokens(encoder, job))
    return out


def sparse_embeddings(encoder: Encoder, job: Job, *, to_cpu: bool) -> Tensor:
    """(N, V) sparse COO tensor of the weights, coalesced; only one forward's texts are ever dense."""
    device = torch.device("cpu") if to_cpu else encoder.device
    entries: list[tuple[Tensor, ...]] = []

    def place(places: Tensor, *found: Tensor) -> None:
        entries.append(tuple(values.to(device) for values in found))

    job = replace(job, max_texts=max(1, MAX_CELLS // encoder.embedding_dim))
    compute(encoder, Work("sparse", job), place, text_tokens(encoder, job))
    shape = (len(job.texts), encoder.embedding_dim)
    if not entries:
        return torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.int64), torch.empty(0), shape, device=device, check_invariants=False)
    rows, columns, values = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False).coalesce()


def scores(encoder: Encoder, job: Job, tokens_of: TokensOf, *, to_cpu: bool) -> Tensor:
    """(N, C) logits of a cross-encoder, at least float32: half precision would tie what is close."""
    device = torch.device("cpu") if to_cpu else encoder.device
    dtype = torch.promote_types(encoder.dtype, torch.float32)
    out = torch.zeros(len(job.texts), encoder.embedding_dim, dtype=dtype, device=device)

    def place(places: Tensor, values: Tensor) -> None:
        out[places.to(device)] = values.to(device=device, dtype=dtype)

    compute(encoder, Work("scores", job), place, tokens_of)
    return out


def compute(encoder: Encoder, work: Work, place: Place, tokens_of: TokensOf) -> None:
    """Compute a work, with other processes where there are some that help."""

    def own(share: Share, place: Place) -> None:
        perform(encoder, work, share, place, tokens_of)

    sharing = sharing_of(encoder)
    if sharing is None:
        own(Share(), place)
    else:
        sharing.compute(work, own, place)


def perform(encoder: Encoder, work: Work, share: Share, place: Place, tokens_of: TokensOf | None = None) -> None:
    """Compute one share of a work in this process; tokens_of: None where the inputs are texts."""
    reduce = REDUCE[work.kind]

    def consume(features: dict[str, Any], numbers: list[int]) -> None:
        places = torch.tensor(numbers)
        place(places, *reduce(features[encoder.feature], places, work))

    run_in_batches(encoder, work.job, tokens_of or text_tokens(encoder, work.job), consume, share)


def dense_rows(vectors: Tensor, places: Tensor, work: Work) -> tuple[Tensor, ...]:
    """Vectors (n, D) -> (n, work.dim)."""
    values = vectors[:, : work.dim]
    return (normalize(values, p=2, dim=1) if work.unit_length else values,)


def sparse_entries(vectors: Tensor, places: Tensor, work: Work) -> tuple[Tensor, ...]:
    """Vectors (n, V) -> row among all inputs, column and value of the entries that are not zero, each (E,)."""
    if work.job.max_active_dims is not None:
        vectors = keep_largest(vectors, work.job.max_active_dims)
    row, column = vectors.nonzero(as_tuple=True)  # waits for the device: how many there are decides the shape
    return places.to(row.device)[row], column, vectors[row, column].to(torch.float32)


#: Kind of work -> what is kept of a micro-batch: feature (n, ...), places (n,), work -> tensors.
REDUCE: Mapping[str, Callable[[Tensor, Tensor, Work], tuple[Tensor, ...]]] = {
    "dense": dense_rows,
    "sparse": sparse_entries,
    "scores": lambda logits, places, work: (logits,),
}


def keep_largest(dense: Tensor, count: int) -> Tensor:
    """(N, V) with all but the `count` largest absolute values of each row set to zero."""
    if count >= dense.shape[1]:
        return dense
    index = dense.abs().topk(count, dim=1).indices
    return torch.zeros_like(dense).scatter_(1, index, dense.gather(1, index))


def token_embeddings(encoder: Encoder, job: Job) -> list[Tensor]:
    """One tensor (tokens, D) a text, special tokens included, padding not."""
    out: list[Tensor] = [torch.empty(0)] * len(job.texts)

    def consume(features: dict[str, Any], places: list[int]) -> None:
        for place, values in zip(places, split(features["token_embeddings"], features["lengths"]), strict=True):
            out[place] = values

    run(encoder, job, consume)
    return out


def all_features(encoder: Encoder, job: Job) -> list[dict[str, Tensor]]:
    """A dict a text: input_ids (tokens,), attention_mask (tokens,), token_embeddings (tokens, D), sentence_embedding (D,)."""
    out: list[dict[str, Tensor]] = [{} for _ in job.texts]

    def consume(features: dict[str, Any], places: list[int]) -> None:
        ids = split(features["input_ids"], features["lengths"])
        vectors = split(features["token_embeddings"], features["lengths"])
        for row, place in enumerate(places):
            out[place] = {
                "input_ids": ids[row],
                "attention_mask": torch.ones_like(ids[row]),
                "token_embeddings": vectors[row],
                "sentence_embedding": features["sentence_embedding"][row],
            }

    run(encoder, job, consume)
    return out


def run(encoder: Encoder, job: Job, consume: Callable[[dict[str, Any], list[int]], None]) -> None:
    """Compute the features of all texts; `consume` gets those of some texts and their places, longest texts first."""
    run_in_batches(encoder, job, text_tokens(encoder, job), consume)


def text_tokens(encoder: Encoder, job: Job) -> TokensOf:
    """The tokens of the job's texts."""
    entry = encoder.input_of(job.route)
    skip = prompt_length(entry.tokenizer, job.prompt)

    def tokens_of(places: Sequence[int]) -> Tokens:
        texts = [job.texts[i] for i in places]
        ids = tokenize(entry.tokenizer, texts, prompt=job.prompt, max_length=job.max_seq_length, special_tokens=entry.special_tokens)
        return Tokens.from_lists(ids, prompt_lengths=[skip] * len(ids) if skip else None)

    return tokens_of


def size_of(text: Any) -> int:
    """Letters of a text, or of a pair of texts, which the number of its tokens grows with."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


def run_in_batches(
    encoder: Encoder, job: Job, tokens_of: TokensOf, consume: Callable[[dict[str, Any], list[int]], None], share: Share | None = None
) -> None:
    """Compute the features of all inputs, longest first, packed under a token budget.

    Args:
        encoder: computes them.
        job: the inputs, and the limits of a forward.
        tokens_of: their tokens.
        consume: gets the features of some inputs and their places.
        share: only these of the micro-batches; None all.
    """
    share = share or Share()
    order = sorted(range(len(job.texts)), key=lambda i: -size_of(job.texts[i]))
    padded = encoder.layout == "padded"
    most = CPU_TOKENS if encoder.device.type == "cpu" else MAX_TOKENS
    budget = min(most, job.batch_size * min(job.max_seq_length or most, most))
    limits = [job.max_texts, job.batch_size if padded else None]
    max_texts = min((limit for limit in limits if limit is not None), default=None)
    number = 0
    with bar(len(order), show=job.progress) as advance:
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            tokens = tokens_of(places)
            by_length = tokens.lengths.argsort(descending=True, stable=True)
            tokens = tokens.rows(by_length)
            for batch in batches(tokens.lengths.tolist(), budget=budget, max_texts=max_texts, padded=padded):
                if share.has(number):
                    part = tokens.rows(torch.arange(batch.start, batch.stop)).to(encoder.device)
                    features = encoder.features(part, route=job.route, max_active_dims=job.max_active_dims)
                    consume(features, [places[i] for i in by_length[batch.start : batch.stop].tolist()])
                number += 1
                advance(len(batch))


def batches(lengths: Sequence[int], *, budget: int, max_texts: int | None, padded: bool) -> Iterator[range]:
    """Cut texts of falling length into runs of at most `budget` tokens, padding included where padded, and max_texts texts."""
    start = used = 0
    for i, length in enumerate(lengths):
        cost = lengths[start] if padded else length
        if i > start and (used + cost > budget or (max_texts is not None and i - start >= max_texts)):
            yield range(start, i)
            start, used, cost = i, 0, length
        used += cost
    if start < len(lengths):
        yield range(start, len(lengths))


@contextmanager
def bar(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over texts; the value is called with the number of texts just done."""
    if not show:
        yield lambda count: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task("Encoding", total=total)
        yield lambda count: progress.advance(task, count)


def split(values: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """Flat token values (T, ...) -> one tensor a text."""
    return torch.split(values, lengths.tolist())
