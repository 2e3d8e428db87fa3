"""Pairs of texts from the tokens of single texts, as a tokenizer would have made them.

Tokenising each text once and joining is what makes rerankers cheap to feed: a query with 100 documents is 101 texts, but 100 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stpipe.core.tokens import Tokens, spread

PROBES: tuple[tuple[str, str], ...] = (
    ("how to read a file", "Open the file and iterate over its lines, one at a time."),
    ("A rather long question with many words in it, and more", "Short."),
    ("equal number of words here", "equal number of words there"),
    ("na\u00efve fa\u00e7ade, \u5317\u4eac 2024!", "def f(x):\n    return x  # comment"),
)
#: Lengths at which the probes are cut: even and odd, below one text and below the other.
CUTS = (10, 11, 14, 17, 24)


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """How a tokenizer lays two texts out: `before` first `between` second `after`, each a tuple of special tokens.

    types: segment of each of these tokens and of the two texts, as (before, first, between, second, after); None when the model
    knows no segments.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]] | None = None

    @property
    def extra(self) -> int:
        """Special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.after)

    @staticmethod
    def of(tokenizer: Any) -> PairTemplate | None:
        """The template of a transformers tokenizer, tried out on probes cut at several lengths; None when it is not of this form."""
        first, second = PROBES[0]
        a, b = (_plain(tokenizer, text) for text in (first, second))
        whole = tokenizer([first], [second], return_attention_mask=False)
        ids: list[int] = whole["input_ids"][0]
        start = find(ids, a, 0)
        middle = -1 if start is None else start + len(a)
        place = None if start is None else find(ids, b, middle)
        if start is None or place is None:
            return None
        end = place + len(b)
        types = whole.get("token_type_ids")
        kinds = None
        if types is not None and any(types[0]):
            t = tuple(types[0])
            kinds = (t[:start], t[start], t[middle:place], t[place], t[end:])
        template = PairTemplate(tuple(ids[:start]), tuple(ids[middle:place]), tuple(ids[end:]), kinds)
        return template if template.reproduces(tokenizer) else None

    def reproduces(self, tokenizer: Any) -> bool:
        """Whether joining gives exactly what the tokenizer gives for the probes, in both orders and cut at several lengths."""
        pairs = [*PROBES, *((b, a) for a, b in PROBES)]
        singles = [Tokens.from_lists([_plain(tokenizer, pair[side]) for pair in pairs]) for side in (0, 1)]
        for limit in (None, *CUTS):
            cut = {"truncation": True, "max_length": limit} if limit is not None else {}
            expected = tokenizer([a for a, _ in pairs], [b for _, b in pairs], return_attention_mask=False, **cut)
            joined = self.join(*singles, max_length=limit)
            if expected["input_ids"] != [part.tolist() for part in torch.split(joined.ids, joined.lengths.tolist())]:
                return False
            types = joined.type_ids
            found = (
                [[0] * int(n) for n in joined.lengths]
                if types is None
                else [p.tolist() for p in torch.split(types, joined.lengths.tolist())]
            )
            if found != expected.get("token_type_ids", [[0] * len(ids) for ids in expected["input_ids"]]):
                return False
        return True

    def join(
        self,
        first: Tokens,
        second: Tokens,
        *,
        max_length: int | None,
        first_lengths: Tensor | None = None,
        second_lengths: Tensor | None = None,
    ) -> Tokens:
        """N pairs of the texts at equal places.

        Args:
            first, second: N texts each, without special tokens, on the CPU.
            max_length: longest pair in tokens, special tokens included; the longer text is cut first. None does not cut.
            first_lengths, second_lengths: (N,) tokens that the texts had before they were cut to max_length, where they were: with
                them a pair of two long texts is cut exactly as the tokenizer cuts it. None: the texts are whole.
        """
        keep = first.lengths, second.lengths
        if max_length is not None:
            given = [x.lengths if n is None else n for x, n in ((first, first_lengths), (second, second_lengths))]
            wanted = cut_longest_first(given[0], given[1], max(max_length - self.extra, 0))
            keep = torch.minimum(wanted[0], first.lengths), torch.minimum(wanted[1], second.lengths)
        pieces: list[tuple[Tensor, Tensor]] = [
            self._special(self.before, len(first)),
            (spread(first.offsets()[:-1], keep[0]), keep[0]),
            self._special(self.between, len(first)),
            (spread(second.offsets()[:-1], keep[1]), keep[1]),
            self._special(self.after, len(first)),
        ]
        sources = [_ids(self.before), first.ids, _ids(self.between), second.ids, _ids(self.after)]
        lengths = torch.stack([count for _, count in pieces]).sum(0)
        start = lengths.cumsum(0) - lengths
        ids = torch.empty(int(lengths.sum()), dtype=torch.int64)
        types = None if self.types is None else torch.empty_like(ids)
        for number, ((place, count), source) in enumerate(zip(pieces, sources, strict=True)):
            into = spread(start, count)
            ids[into] = source[place]
            if types is not None and self.types is not None:
                kind = self.types[number]
                types[into] = _ids(kind)[place] if isinstance(kind, tuple) else kind
            start = start + count
        return Tokens(ids, lengths, type_ids=types)

    @staticmethod
    def _special(tokens: Sequence[int], pairs: int) -> tuple[Tensor, Tensor]:
        """(place of each token in `tokens`, count) for the same special tokens in each pair."""
        return torch.arange(len(tokens)).repeat(pairs), torch.full((pairs,), len(tokens), dtype=torch.int64)


def cut_longest_first(first: Tensor, second: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Tokens that remain of each text (N,) when the longer of two is cut until both fit into `room`.

    Where both are longer than half of it they share it, and an odd token goes to the longer text (the second when they are equal), as
    the truncation `longest_first` of the tokenizers library does it.
    """
    short, long = torch.minimum(first, second), torch.maximum(first, second)
    long_kept = torch.where(short > room, short, torch.maximum(short, room - short))
    both = short + long_kept > room
    short_kept = torch.where(both, torch.full_like(short, room // 2), short)
    long_kept = torch.where(both, torch.full_like(short, room // 2 + room % 2), torch.minimum(long_kept, long))
    swapped = first > second
    return torch.where(swapped, long_kept, short_kept), torch.where(swapped, short_kept, long_kept)


def find(ids: Sequence[int], part: Sequence[int], start: int) -> int | None:
    """The first place from `start` on at which `part` stands in `ids`."""
    return next((i for i in range(start, len(ids) - len(part) + 1) if list(ids[i : i + len(part)]) == list(part)), None)


def _ids(tokens: Sequence[int]) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64)


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text without special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return ids
