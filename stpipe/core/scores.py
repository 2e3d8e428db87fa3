"""The scores of a cross-encoder, and the batch of them that a loss sees.

Shape legend: B rows, K candidates of the longest row, C outputs of the model (`num_labels`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.core.batch import Targets

#: As many sampled negatives as the batch has: no batch has so many.
ALL_NEGATIVES = 1 << 30


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """What a loss of a cross-encoder gets: each row is a query with its candidates, padded once.

    logits (B, K, C) before any activation, 0 at padding; mask (B, K) bool: real candidates, which stand first in each row;
    row (B,) number of each row. Candidates are in the order of the data: the positive, then the negatives, or the documents of the list.
    """

    logits: Tensor
    mask: Tensor
    targets: Targets = field(default_factory=Targets)
    row: Tensor | None = None

    def __len__(self) -> int:
        return self.mask.shape[0]

    @property
    def score(self) -> Tensor:
        """(B, K) the only output of the model, for each candidate."""
        if self.logits.shape[-1] != 1:
            raise ConfigError(
                Problem(
                    "model.num_labels", f"this loss needs one score for each pair, but the model has {self.logits.shape[-1]} outputs; set 1"
                )
            )
        return self.logits[..., 0]

    def grades(self, *, loss: str) -> Tensor:
        """(B, K) float: how relevant the data say that each candidate is; NaN at padding.

        The label of the pair, the labels of the listed documents, or without labels 1 for the positive and 0 for its negatives.

        Args:
            loss: name of the loss that asks, for messages.
        """
        targets, mask = self.targets, self.mask
        single = targets.score if targets.score is not None else targets.label
        if targets.scores is not None:
            given = targets.scores
        elif single is not None:
            given = single[:, None]
        else:
            given = torch.zeros_like(mask, dtype=torch.float32)
            given[:, 0] = 1
        if given.shape != mask.shape:
            raise DataError(
                f"loss '{loss}' needs one label for each candidate: found {given.shape[1]} a row for {mask.shape[1]} candidates. "
                "Margins of a teacher are for reranker_margin_mse"
            )
        given = given.to(torch.promote_types(given.dtype, torch.float32))
        return given.masked_fill(~mask, torch.nan)

    def rows(self, index: Tensor | slice) -> ScoreBatch:
        """Some of the rows."""
        return ScoreBatch(self.logits[index], self.mask[index], self.targets.rows(index), None if self.row is None else self.row[index])

    @staticmethod
    def from_flat(logits: Tensor, counts: Tensor, *, targets: Targets | None = None, row: Tensor | None = None) -> ScoreBatch:
        """From the logits (N, C) of all candidates laid end to end.

        Args:
            logits: with gradient.
            counts: (B,) int64 on the CPU, candidates of each row.
            targets: of the rows.
            row: (B,) number of each row.
        """
        longest = int(counts.max()) if counts.numel() else 0
        mask = (torch.arange(longest)[None, :] < counts[:, None]).to(logits.device)
        padded = logits.new_zeros(*mask.shape, logits.shape[-1]).masked_scatter(mask[..., None], logits)
        return ScoreBatch(padded, mask, targets or Targets(), row)

    @staticmethod
    def from_scores(score: Tensor, *, mask: Tensor | None = None, targets: Targets | None = None) -> ScoreBatch:
        """From scores (B, K) of a model with one output (tests, notebooks)."""
        return ScoreBatch(score[..., None], torch.ones_like(score, dtype=torch.bool) if mask is None else mask, targets or Targets())
