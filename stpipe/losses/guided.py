"""In-batch softmax whose false negatives a second, frozen model finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import GUIDE, RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.losses.in_batch import InBatch
from stpipe.ops.similarity import cosine_matrix, cosine_paired


@dataclass(frozen=True)
class Guide:
    """The model that finds false negatives. Each of its texts is encoded once, before training."""

    model: str = option(help="Directory, `package://MODULE/SUBDIR` or Hub id of a dense embedding model; it is not trained.")
    query_prompt: str | None = option(None, help="Put before each anchor; None leaves it to the guide.")
    document_prompt: str | None = option(None, help="Put before each other text; None leaves it to the guide.")
    batch_size: int = option(32, ge=1, help="Texts of a forward through the guide.")


@LOSSES.register("gist_embed", aliases=("GISTEmbedLoss", "cached_gist_embed", "CachedGISTEmbedLoss"))
@dataclass(frozen=True)
class GISTEmbedLoss(Loss):
    """In-batch negatives without those that a guide model finds too similar to be negatives.

        L_i = -log( exp(s(a_i, p_i) / T) / Z_i ),   Z_i = sum over kept pairs (x, y) of exp(s(x, y) / T),   s = cosine

    Pairs: (a_i, d) for the positives and negatives d of all rows; (a_i, a_j) for other anchors, with contrast_anchors; (p_i, p_j) for
    other positives, with contrast_positives. A pair is kept when g(x, y) <= limit, where g is the guide's cosine and limit =
    g(a_i, p_i) - margin (absolute) or g(a_i, p_i) - margin |g(a_i, p_i)| (relative); the own positive is always kept, and what is
    known to be a positive never, with mask_duplicates.
    Needs `teacher["guide"]`: the guide's representations of every role. Metric false_negatives: share of pairs that the guide drops.
    Source: arXiv:2402.16829 section 3. Shapes: anchor, positive, negatives (B, D) local rows, (M, D) all rows; the guide's alike, of any
    width. Coupling: anchor.
    """

    coupling: ClassVar[str] = "anchor"
    formats: ClassVar[tuple[str, ...]] = ("pair", "triplet", "n-tuple")
    teachers: ClassVar[tuple[str, ...]] = (GUIDE,)
    citation: ClassVar[str] = citations.GIST_EMBED

    guide: Guide | None = option(None, help="The guide model; a run needs one. None is for batches that bring its representations.")
    temperature: float = option(0.01, gt=0, help="Divides the cosine before the softmax; 1 / scale of mnrl.")
    margin_strategy: Literal["absolute", "relative"] = option(
        "absolute", help="Whether margin is a difference of similarities or a share of the positive's similarity."
    )
    margin: float = option(
        0.0, help="How much less similar than the positive a negative must be for the guide; 0 drops what is more similar than it."
    )
    contrast_anchors: bool = option(True, help="Other anchors are negatives, too.")
    contrast_positives: bool = option(True, help="Push positives apart from each other, too; without it retrieval may be better.")
    mask_duplicates: bool = option(
        True, help="Leave out negatives that are known to be positives: same text, or positive of the same anchor text."
    )

    def guides(self) -> frozenset[Guide]:
        return frozenset() if self.guide is None else frozenset({self.guide})

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        view = InBatch.of(batch, mask_duplicates=self.mask_duplicates)
        guide = guided(batch)
        limit = self._limit(cosine_paired(guide.local("anchor"), guide.local("positive")))
        docs = view.pool.rep.values
        too_near = (cosine_matrix(guide.local("anchor"), guide.pool().rep.values) > limit) & ~view.own_positive()
        logits = cosine_matrix(batch.local("anchor"), docs) / self.temperature
        dropped, blocks = [too_near], [logits.masked_fill(too_near | view.known_docs(), -torch.inf)]
        for role, wanted in (("anchor", self.contrast_anchors), ("positive", self.contrast_positives)):
            if wanted:
                too_near = cosine_matrix(guide.local(role), guide.columns[role].all.values) > limit
                same_side = cosine_matrix(batch.local(role), batch.columns[role].all.values) / self.temperature
                blocks.append(same_side.masked_fill(too_near | view.own_row | view.related, -torch.inf))
                dropped.append(too_near & ~view.own_row)
        own = logits.gather(1, view.own[:, None]).squeeze(1)
        out = LossOutput.per_row(torch.logsumexp(torch.cat(blocks, dim=1), dim=1) - own)
        return replace(out, metrics={"false_negatives": torch.cat(dropped, dim=1).float().mean()})

    def _limit(self, similarity: Tensor) -> Tensor:
        """(B, 1) highest similarity that a negative may have for the guide, from that of the positive (B,)."""
        margin = self.margin * (similarity.abs() if self.margin_strategy == "relative" else 1.0)
        return (similarity - margin)[:, None]


def guided(batch: RepBatch) -> RepBatch:
    """The batch as the guide sees it, without gradient.

    Raises:
        ConfigError: the guide's representations are not there, or not those of every role.
    """
    columns = batch.teacher.get(GUIDE, {})
    missing = [role for role in batch.roles if role not in columns]
    if missing:
        raise ConfigError(
            f"loss 'gist_embed' needs a guide model's representations of {', '.join(batch.roles)}, but the batch has none of "
            f"{', '.join(missing)}. Name a guide in loss.guide.model, or use mnrl, which needs none"
        )
    return replace(batch, columns={role: columns[role] for role in batch.columns}).map_reps(Tensor.detach)
