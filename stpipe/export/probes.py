"""Inputs that every export is compared on: real texts cut and joined so that all lengths from one token to the limit occur."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stpipe.config.errors import DataError
from stpipe.export.source import Source
from stpipe.models import CrossEncoder
from stpipe.models.base_model import limit_of

LONGEST = 512  # tokens; a model without a limit, or with a very large one, is probed up to here


@dataclass(frozen=True)
class Probe:
    """Inputs of one way through the model. prompt: put before each; task: route, None without a Router; lengths: in tokens, prompt and
    special tokens left out, of the first and (for pairs) the second text together."""

    inputs: tuple[Any, ...]
    prompt: str
    task: str | None
    lengths: tuple[int, ...]


def probes(source: Source, *, count: int = 64) -> list[Probe]:
    """About `count` inputs for each prompt and each route of the model.

    Lengths grow from one token to beyond the limit, so that truncation is part of what is compared; the order is shuffled by a fixed
    rule, so that batches mix short and long.

    Raises:
        DataError: there are no real texts.
    """
    model = source.model
    if not source.inputs:
        raise DataError("an export is verified on real texts, and there are none: name data (dataset=..., or a run directory)")
    found = []
    for task in model.encoder.routes or (None,):
        entry = model.encoder.input_of(task)
        limit = min(limit_of(entry.tokenizer) or LONGEST, LONGEST)
        lengths = spread(limit + 3, count)
        inputs: list[Any] = (
            list(pair_inputs(source, entry.tokenizer, lengths))
            if isinstance(model, CrossEncoder)
            else list(cut_texts(source.texts, entry.tokenizer, lengths))
        )
        mixed = [place for start in range(7) for place in range(start, len(inputs), 7)]
        for prompt in prompts_of(source):
            found.append(Probe(tuple(inputs[i] for i in mixed), prompt, task, tuple(lengths[i] for i in mixed)))
    return found


def prompts_of(source: Source) -> list[str]:
    """No prompt, and each of the model's own."""
    return list(dict.fromkeys(["", *source.model.prompts.values()]))


def spread(longest: int, count: int) -> list[int]:
    """`count` rising lengths from 1 to `longest`: all short ones, then wider apart."""
    few = min(count, longest)
    rising = [1 + round((longest - 1) * (i / max(1, few - 1)) ** 2) for i in range(few)]
    for i in range(1, few):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    return [min(length, longest) for length in rising] + [longest] * (count - few)


def cut_texts(texts: Sequence[str], tokenizer: Any, lengths: Sequence[int], *, start: int = 0) -> Iterator[str]:
    """A text of about each length: real ones from number `start` on, joined while they are too short, cut where the length is reached.

    A cut lies between tokens, so that it falls inside words, too.
    """
    place = start
    for length in lengths:
        text, ends = "", [0]
        for _ in range(1000):
            text = f"{text} {texts[place % len(texts)]}".strip()
            place += 1
            encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
            ends = [end for _, end in encoded["offset_mapping"]]
            if len(ends) >= length:
                break
        yield text[: ends[length - 1]] if len(ends) >= length else text


def pair_inputs(source: Source, tokenizer: Any, lengths: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Pairs whose two texts have about each length together, the first one the shorter on every other pair."""
    firsts, seconds = [pair[0] for pair in source.pairs], [pair[1] for pair in source.pairs]
    shares = [max(1, length // (3 if i % 2 else 2)) for i, length in enumerate(lengths)]
    left = cut_texts(firsts, tokenizer, shares)
    right = cut_texts(seconds, tokenizer, [max(1, length - share) for length, share in zip(lengths, shares, strict=True)])
    return zip(left, right, strict=True)
