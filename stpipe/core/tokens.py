"""Tokens of many texts without padding.

Shape legend for the whole package: N texts, T tokens of all texts together, L tokens of the longest text, D width of
an embedding, V words of the vocabulary, B anchors of this batch (or anchor chunk), M rows of one column over the gather group,
P candidates in the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of N texts, laid end to end.

    ids (T,) int64 on the compute device; lengths (N,) int64 always on the CPU, because plans are made from it on the host;
    prompt_lengths (N,) int64 on the CPU: leading tokens of each text that belong to its prompt (with the leading special
    token), None when no text has one; type_ids (T,) segment of each token for pairs of texts, None when all are 0.
    """

    ids: Tensor
    lengths: Tensor
    prompt_lengths: Tensor | None = None
    type_ids: Tensor | None = None

    def __len__(self) -> int:
        return self.lengths.numel()

    @property
    def num_tokens(self) -> int:
        return self.ids.numel()

    def offsets(self) -> Tensor:
        """(N + 1,) int64 on the CPU: text i is ids[offsets[i]:offsets[i + 1]]."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def rows(self, index: Tensor) -> Tokens:
        """The texts `index` (int64, on the CPU), in that order."""
        lengths = self.lengths[index]
        flat = spread(self.offsets()[index], lengths).to(self.ids.device)
        return Tokens(
            self.ids[flat],
            lengths,
            None if self.prompt_lengths is None else self.prompt_lengths[index],
            None if self.type_ids is None else self.type_ids[flat],
        )

    def positions(self) -> Tensor:
        """(T,) int64 on the device of ids: place of each token in its text, from 0."""
        starts = torch.repeat_interleave(self.offsets()[:-1], self.lengths)
        return (torch.arange(self.num_tokens) - starts).to(self.ids.device)

    def padded(self, pad_id: int) -> tuple[Tensor, Tensor]:
        """(ids (N, L), mask (N, L) bool), padded on the right."""
        mask = torch.arange(int(self.lengths.max()))[None, :] < self.lengths[:, None]
        mask = mask.to(self.ids.device)
        ids = self.ids.new_full(mask.shape, pad_id)
        ids[mask] = self.ids
        return ids, mask

    def to(self, device: torch.device | str) -> Tokens:
        types = None if self.type_ids is None else self.type_ids.to(device, non_blocking=True)
        return replace(self, ids=self.ids.to(device, non_blocking=True), type_ids=types)

    @staticmethod
    def from_lists(
        ids: Sequence[Sequence[int]], *, prompt_lengths: Sequence[int] | None = None, type_ids: Sequence[Sequence[int]] | None = None
    ) -> Tokens:
        """Lay lists of token ids end to end."""
        flat = torch.tensor([t for text in ids for t in text], dtype=torch.int64)
        lengths = torch.tensor([len(text) for text in ids], dtype=torch.int64)
        prompts = None if prompt_lengths is None else torch.tensor(list(prompt_lengths), dtype=torch.int64)
        types = None if type_ids is None else torch.tensor([t for text in type_ids for t in text], dtype=torch.int64)
        return Tokens(flat, lengths, prompts, types)

    @staticmethod
    def cat(parts: Sequence[Tokens]) -> Tokens:
        """All texts of all parts, in order."""
        prompts = types = None
        if any(p.prompt_lengths is not None for p in parts):
            prompts = torch.cat([torch.zeros_like(p.lengths) if p.prompt_lengths is None else p.prompt_lengths for p in parts])
        if any(p.type_ids is not None for p in parts):
            types = torch.cat([torch.zeros_like(p.ids) if p.type_ids is None else p.type_ids for p in parts])
        return Tokens(torch.cat([p.ids for p in parts]), torch.cat([p.lengths for p in parts]), prompts, types)


def spread(starts: Tensor, counts: Tensor) -> Tensor:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), starts[1], ...: flat positions of ragged pieces, without a loop."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(starts - before, counts) + torch.arange(int(counts.sum()))
