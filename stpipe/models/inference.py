"""From texts to what a model makes of them: sorted by length, packed under a token budget, put back in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stpipe.core.tokenize import prompt_length, tokenize
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder

CHUNK = 8192  # texts tokenised at once, so that memory does not grow with the corpus
MAX_TOKENS = 16384  # of one forward: beyond it nothing gets faster


@dataclass(frozen=True)
class Job:
    """Texts to be computed.

    prompt: put before each text; batch_size: a forward takes no more tokens than so many texts of the maximum length;
    max_seq_length: longest text in tokens, None has no limit; progress: show a bar.
    """

    texts: Sequence[str]
    prompt: str = ""
    batch_size: int = 32
    max_seq_length: int | None = None
    progress: bool = False


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
    order = sorted(range(len(job.texts)), key=lambda i: -len(job.texts[i]))
    skip = prompt_length(encoder.tokenizer, job.prompt)
    budget = min(MAX_TOKENS, job.batch_size * min(job.max_seq_length or MAX_TOKENS, MAX_TOKENS))
    padded = encoder.layout == "padded"
    with bar(len(job.texts), show=job.progress) as advance:
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            ids = tokenize(encoder.tokenizer, [job.texts[i] for i in places], prompt=job.prompt, max_length=job.max_seq_length)
            by_length = sorted(range(len(places)), key=lambda i: -len(ids[i]))
            for batch in batches([len(ids[i]) for i in by_length], budget=budget, batch_size=job.batch_size, padded=padded):
                rows = [by_length[i] for i in batch]
                tokens = Tokens.from_lists([ids[i] for i in rows], prompt_lengths=[skip] * len(rows) if skip else None)
                consume(encoder.features(tokens.to(encoder.device)), [places[i] for i in rows])
                advance(len(rows))


def batches(lengths: Sequence[int], *, budget: int, batch_size: int, padded: bool) -> Iterator[range]:
    """Cut texts of falling length into runs of at most `budget` tokens; padded runs hold at most batch_size texts too."""
    start = used = 0
    for i, length in enumerate(lengths):
        cost = lengths[start] if padded else length
        if i > start and (used + cost > budget or (padded and i - start >= batch_size)):
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
