"""What the collator hands to the engine: tokens by role, targets and identities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stpipe.core.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Targets:
    """What the rows are trained towards; a loss reads the member that it declares and finds it filled.

    score (B,) float: of the pair, or a teacher's margin of the positive over the negative (format triplet-score); label (B,)
    int64 class; vectors: role -> (B, D) teacher embeddings (role `*` is for every role);
    scores (B, K) float: of the documents of each row (ragged lists are filled with NaN), or with k negatives (format
    n-tuple-scores) either K = k + 1 teacher scores, the positive's first, or K = k margins of the positive over each negative.
    """

    score: Tensor | None = None
    label: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None

    def to(self, device: torch.device | str) -> Targets:
        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        return Targets(move(self.score), move(self.label), {k: v.to(device) for k, v in self.vectors.items()}, move(self.scores))

    def rows(self, index: Tensor | slice) -> Targets:
        """The targets of some rows."""

        def take(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[index]

        return Targets(take(self.score), take(self.label), {k: v[index] for k, v in self.vectors.items()}, take(self.scores))


@dataclass(frozen=True, slots=True)
class TextColumn:
    """The texts of one role. text_id (N,) int64: hash of prompt and text, so equal id = same text.

    counts (B,) int64 on the CPU: texts per row of a ragged role (`documents`); None = one text a row.
    """

    tokens: Tokens
    text_id: Tensor
    counts: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of one data set. row (B,) int64: row number in the prepared data; source: name of the data set."""

    columns: Mapping[str, TextColumn]
    targets: Targets
    row: Tensor
    source: str = "default"

    def __len__(self) -> int:
        return self.row.numel()

    @property
    def num_tokens(self) -> int:
        return sum(c.tokens.num_tokens for c in self.columns.values())

    def to(self, device: torch.device | str) -> Batch:
        columns = {
            role: replace(c, tokens=c.tokens.to(device), text_id=c.text_id.to(device, non_blocking=True))
            for role, c in self.columns.items()
        }
        return Batch(columns, self.targets.to(device), self.row.to(device, non_blocking=True), self.source)
