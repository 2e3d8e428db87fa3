"""What the collator hands to the engine: tokens by role, targets and identities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stpipe.core.tokens import Tokens, spread


@dataclass(frozen=True, slots=True)
class Targets:
    """What the rows are trained towards; a loss reads the member that it declares and finds it filled.

    score (B,) float: of the pair, or a teacher's margin of the positive over the negative (format triplet-score); label (B,)
    int64 class; vectors: role -> (B, D) teacher embeddings (role `*` is for every role);
    scores (B, K) float: of the documents of each row (ragged lists are filled with NaN), or with k negatives (format
    n-tuple-scores) either K = k + 1 teacher scores, the positive's first, or K = k margins of the positive over each negative;
    tokens: B texts to be written by a decoder.
    """

    score: Tensor | None = None
    label: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None
    tokens: Tokens | None = None

    def to(self, device: torch.device | str) -> Targets:
        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        tokens = None if self.tokens is None else self.tokens.to(device)
        return Targets(move(self.score), move(self.label), {k: v.to(device) for k, v in self.vectors.items()}, move(self.scores), tokens)

    def rows(self, index: Tensor | slice) -> Targets:
        """The targets of some rows."""

        def take(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[index]

        vectors = {k: v[index] for k, v in self.vectors.items()}
        tokens = (
            None
            if self.tokens is None
            else self.tokens.rows(torch.arange(len(self.tokens))[index if isinstance(index, slice) else index.cpu()])
        )
        return Targets(take(self.score), take(self.label), vectors, take(self.scores), tokens)


@dataclass(frozen=True, slots=True)
class TextColumn:
    """The texts of one role. text_id (N,) int64: hash of prompt and text, so equal id = same text.

    counts (B,) int64 on the CPU: texts per row of a ragged role (`documents`); None = one text a row.
    """

    tokens: Tokens
    text_id: Tensor
    counts: Tensor | None = None

    def rows(self, index: Tensor) -> TextColumn:
        """The texts of some rows (int64, on the CPU), in that order."""
        if self.counts is None:
            return TextColumn(self.tokens.rows(index), self.text_id[index.to(self.text_id.device)])
        counts = self.counts[index]
        places = spread((self.counts.cumsum(0) - self.counts)[index], counts)
        return TextColumn(self.tokens.rows(places), self.text_id[places.to(self.text_id.device)], counts)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch of one data set. row (B,) int64: row number in the prepared data; source: name of the data set; teacher: name of a
    frozen model -> role -> (B, D) what it makes of the text of each row, where a loss wants that (a guide)."""

    columns: Mapping[str, TextColumn]
    targets: Targets
    row: Tensor
    source: str = "default"
    teacher: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.row.numel()

    @property
    def num_tokens(self) -> int:
        return sum(c.tokens.num_tokens for c in self.columns.values())

    def rows(self, index: Tensor) -> Batch:
        """Some of the rows (int64, on the CPU) with all their texts; row-coupled losses can be computed part by part."""
        columns = {role: c.rows(index) for role, c in self.columns.items()}
        on_device = index.to(self.row.device)
        targets = self.targets.rows(on_device)
        longest = [(int(self.columns[r].counts.max()), int(c.counts.max())) for r, c in columns.items() if c.counts is not None]  # type: ignore[union-attr]
        if targets.scores is not None and longest and targets.scores.shape[1] == longest[0][0]:
            # The scores of a list are as wide as the longest list, which may be in another part.
            targets = replace(targets, scores=targets.scores[:, : longest[0][1]])
        return Batch(columns, targets, self.row[on_device], self.source, self._map_teacher(lambda x: x[index.to(x.device)]))

    def to(self, device: torch.device | str) -> Batch:
        columns = {
            role: replace(c, tokens=c.tokens.to(device), text_id=c.text_id.to(device, non_blocking=True))
            for role, c in self.columns.items()
        }
        teacher = self._map_teacher(lambda x: x.to(device, non_blocking=True))
        return Batch(columns, self.targets.to(device), self.row.to(device, non_blocking=True), self.source, teacher)

    def _map_teacher(self, change: Callable[[Tensor], Tensor]) -> dict[str, dict[str, Tensor]]:
        return {name: {role: change(x) for role, x in roles.items()} for name, roles in self.teacher.items()}
