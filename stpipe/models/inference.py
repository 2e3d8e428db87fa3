"""From texts to what a model makes of them: sorted by length, packed under a token budget, put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

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
    """Texts to be computed.

    prompt: put before each text; batch_size: a forward takes no more tokens than so many texts of the maximum length;
    max_seq_length: longest text in tokens, None has no limit; progress: show a bar; route: way through a Router;
    max_active_dims: sparse embeddings keep the largest so many weights of a text, None all; max_texts: of one forward, None has
    no other limit than the tokens.
    """

    texts: Sequence[str]
    prompt: str = ""
    batch_size: int = 32
    max_seq_length: int | None = None
    progress: bool = False
    route: str | None = None
    max_active_dims: int | None = None
    max_texts: int | None = None


def sentence_embeddings(encoder: Encoder, job: Job, *, dim: int | None, unit_length: bool, to_cpu: bool) -> Tensor:
    """(N, D) embeddings, the first `dim` dimensions of each (None: all), then divided by the norm if unit_length."""
    device = torch.device("cpu") if to_cpu else encoder.device
    width = min(dim, encoder.embedding_dim) if dim else encoder.embedding_dim
    out = torch.empty(len(job.texts), width, dtype=encoder.dtype, device=device)

    def consume(features: dict[str, Any], places: list[int]) -> None:
        values = features["sentence_embedding"][:, :width]
        values = normalize(values, p=2, dim=1) if unit_length else values
        out[torch.tensor(places, device=device)] = values.to(device=device, dtype=out.dtype)

    run(encoder, job, consume)
    return out


def sparse_embeddings(encoder: Encoder, job: Job, *, to_cpu: bool) -> Tensor:
    """(N, V) sparse COO tensor of the weights, coalesced; only one forward's texts are ever dense."""
    device = torch.device("cpu") if to_cpu else encoder.device
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    values: list[Tensor] = []

    def consume(features: dict[str, Any], places: list[int]) -> None:
        dense = features["sentence_embedding"]
        if job.max_active_dims is not None:
            dense = keep_largest(dense, job.max_active_dims)
        row, column = dense.nonzero(as_tuple=True)  # waits for the device: how many there are decides the shape
        rows.append(torch.tensor(places, device=device)[row.to(device)])
        columns.append(column.to(device))
        values.append(dense[row, column].to(device=device, dtype=torch.float32))

    run(encoder, replace(job, max_texts=max(1, MAX_CELLS // encoder.embedding_dim)), consume)
    if not rows:
        return torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.int64), torch.empty(0), (0, encoder.embedding_dim), device=device)
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    shape = (len(job.texts), encoder.embedding_dim)
    return torch.sparse_coo_tensor(index, torch.cat(values), shape, check_invariants=False).coalesce()


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


def scores(encoder: Encoder, job: Job, sizes: Sequence[int], tokens_of: Callable[[Sequence[int]], Tokens], *, to_cpu: bool) -> Tensor:
    """(N, C) logits of a cross-encoder, at least float32: half precision would tie what is close. Arguments as for run_in_batches."""
    device = torch.device("cpu") if to_cpu else encoder.device
    dtype = torch.promote_types(encoder.dtype, torch.float32)
    out = torch.empty(len(sizes), encoder.embedding_dim, dtype=dtype, device=device)

    def consume(features: dict[str, Any], places: list[int]) -> None:
        out[torch.tensor(places, device=device)] = features[encoder.feature].to(device=device, dtype=dtype)

    run_in_batches(encoder, job, sizes, tokens_of, consume)
    return out


def run(encoder: Encoder, job: Job, consume: Callable[[dict[str, Any], list[int]], None]) -> None:
    """Compute the features of all texts; `consume` gets those of some texts and their places, longest texts first."""
    entry = encoder.input_of(job.route)
    skip = prompt_length(entry.tokenizer, job.prompt)

    def tokens_of(places: Sequence[int]) -> Tokens:
        texts = [job.texts[i] for i in places]
        ids = tokenize(entry.tokenizer, texts, prompt=job.prompt, max_length=job.max_seq_length, special_tokens=entry.special_tokens)
        return Tokens.from_lists(ids, prompt_lengths=[skip] * len(ids) if skip else None)

    run_in_batches(encoder, job, [len(text) for text in job.texts], tokens_of, consume)


def run_in_batches(
    encoder: Encoder,
    job: Job,
    sizes: Sequence[int],
    tokens_of: Callable[[Sequence[int]], Tokens],
    consume: Callable[[dict[str, Any], list[int]], None],
) -> None:
    """Compute the features of all inputs, longest first, packed under a token budget.

    Args:
        encoder: computes them.
        job: limits of a forward; its texts are not read.
        sizes: of each input, growing with its number of tokens.
        tokens_of: places of inputs -> their tokens in that order, on the CPU.
        consume: gets the features of some inputs and their places.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    padded = encoder.layout == "padded"
    most = CPU_TOKENS if encoder.device.type == "cpu" else MAX_TOKENS
    budget = min(most, job.batch_size * min(job.max_seq_length or most, most))
    limits = [job.max_texts, job.batch_size if padded else None]
    max_texts = min((limit for limit in limits if limit is not None), default=None)
    with bar(len(order), show=job.progress) as advance:
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            tokens = tokens_of(places)
            by_length = tokens.lengths.argsort(descending=True, stable=True)
            tokens = tokens.rows(by_length)
            for batch in batches(tokens.lengths.tolist(), budget=budget, max_texts=max_texts, padded=padded):
                part = tokens.rows(torch.arange(batch.start, batch.stop)).to(encoder.device)
                features = encoder.features(part, route=job.route, max_active_dims=job.max_active_dims)
                consume(features, [places[i] for i in by_length[batch.start : batch.stop].tolist()])
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
