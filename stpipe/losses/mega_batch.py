"""Margins on the positive and on the hardest negative of a large batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.losses.in_batch import InBatch
from stpipe.ops.reduce import masked_max
from stpipe.ops.similarity import cosine_matrix


@LOSSES.register("mega_batch_margin", aliases=("MegaBatchMarginLoss",))
@dataclass(frozen=True)
class MegaBatchMarginLoss(Loss):
    """The positive is more similar than one margin, the hardest negative of the batch less similar than another.

        L_i = max(0, m_p - cos(a_i, p_i)) + max(0, max over negatives n of cos(a_i, n) - m_n)

    Negatives are the positives and negatives of all rows but the own positive. An anchor without a negative has the first term only. The more
    rows, the harder the hardest: use 500 and more, under strategy=recompute.
    Source: doi:10.18653/v1/P18-1042 (mega-batches, negatives by largest cosine), with a margin for each side.
    Shapes: anchor, positive, negatives (B, D) local rows, (M, D) all rows. Coupling: anchor.
    """

    coupling: ClassVar[str] = "anchor"
    formats: ClassVar[tuple[str, ...]] = ("pair", "triplet", "n-tuple")
    citation: ClassVar[str] = citations.MEGA_BATCH

    positive_margin: float = option(0.8, ge=-1, le=1, help="Cosine from which on a positive costs nothing.")
    negative_margin: float = option(0.3, ge=-1, le=1, help="Cosine up to which the hardest negative costs nothing.")
    mask_duplicates: bool = option(
        True, help="Leave out negatives that are known to be positives: same text, or positive of the same anchor text."
    )

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        view = InBatch.of(batch, mask_duplicates=self.mask_duplicates)
        cosine = cosine_matrix(batch.local("anchor"), view.pool.rep.values)
        own = cosine.gather(1, view.own[:, None]).squeeze(1)
        hardest = masked_max(cosine, ~(view.own_positive() | view.known_docs()), 1)
        return LossOutput.per_row((self.positive_margin - own).relu() + (hardest - self.negative_margin).relu())
