"""In-batch softmax: the positive of each anchor against the positives and negatives of all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.in_batch import InBatch
from stpipe.losses.learned import MAX_SCALE, LearnedScale
from stpipe.ops import masks
from stpipe.ops.similarity import SIMILARITIES, SimilarityName

Direction = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]


@LOSSES.register("mnrl", aliases=("MultipleNegativesRankingLoss", "cached_mnrl", "CachedMultipleNegativesRankingLoss"))
@dataclass(frozen=True)
class MultipleNegativesRankingLoss(Loss):
    """Softmax cross-entropy of each anchor's positive against a pool of candidates (InfoNCE).

        L_i = -log( exp(t s(q_i, d_i)) / Z_i ),   Z_i = sum over candidates c of exp(t s(., c)),   t = scale = 1 / temperature

    Candidates of anchor i by direction (joint: one Z over all of them; per_direction: mean of one log Z each):
        query_to_doc    s(q_i, d_c): positives and hard negatives of every row. Contains the pair itself.
        query_to_query  s(q_i, q_j): the other anchors.
        doc_to_query    s(d_i, q_j): all anchors, the own one too. Contains the pair itself.
        doc_to_doc      s(d_i, d_c): positives and hard negatives of the other rows.
    Hardness: the logit of a chosen negative grows by strength * stopgrad(s(q_i, d_c)) (query_to_doc only).
    Duplicates: with mask_duplicates, what is known to be a positive is no negative (losses/in_batch.py).
    Temperature: with learn_scale, t = min(exp(w), 100) and w is trained from log(scale) on; it is logged as `scale`.

    Source: softmax arXiv:1807.03748 eq. 4, in-batch negatives arXiv:1705.00652 section 4.4; all four directions in one Z
    arXiv:2308.03281 section 3; both directions with a Z each arXiv:2310.19923; hardness arXiv:2503.04812 eq. 5, with the
    strength 5 of arXiv:2509.20354 or 9 of the former; learned temperature arXiv:2103.00020 section 2.5.
    Shapes: anchor, positive, negatives (B, D) local rows, (M, D) all rows; scores (B, (1 + n) M). Coupling: anchor.
    """

    coupling: ClassVar[str] = "anchor"
    formats: ClassVar[tuple[str, ...]] = ("pair", "triplet", "n-tuple")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    learns: ClassVar[str | None] = "learn_scale"
    citation: ClassVar[str] = citations.INFO_NCE

    scale: float = option(20.0, gt=0, help="Factor of the similarity before the softmax, 1 / temperature. 20 suits cosine; try 1 for dot.")
    similarity: SimilarityName = option("cosine", help="Similarity of two embeddings; the distances are negated.")
    directions: tuple[Direction, ...] = option(
        ("query_to_doc",), help="Which similarities the softmax compares; query_to_doc is required. All four with joint: the GTE loss."
    )
    partition_mode: Literal["joint", "per_direction"] = option(
        "joint", help="One softmax over all directions, or the mean of one softmax each (symmetric loss: query_to_doc and doc_to_query)."
    )
    hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = option(
        None, help="Negatives that weigh more the more similar they are to the anchor; None weighs all alike."
    )
    hardness_strength: float = option(0.0, ge=0, help="Strength of hardness_mode; 5 (EmbeddingGemma) to 9 (LLaVE).")
    mask_duplicates: bool = option(
        True, help="Leave out negatives that are known to be positives: same text, or positive of the same anchor text."
    )
    learn_scale: bool = option(False, help="Train the scale, too, starting from the one given, up to 100 (CLIP).")

    def __post_init__(self) -> None:
        if "query_to_doc" not in self.directions:
            raise ConfigError(
                Problem("directions", f"must contain query_to_doc, which holds the positive pair; found {list(self.directions)}")
            )
        if self.learn_scale and self.scale > MAX_SCALE:
            raise ConfigError(Problem("scale", f"is at most {MAX_SCALE:g} when it is learned; found {self.scale:g}"))
        lone = [d for d in self.directions if d in ("query_to_query", "doc_to_doc")]
        if self.partition_mode == "per_direction" and lone:
            raise ConfigError(
                Problem("partition_mode", f"per_direction needs the positive pair in every direction, {lone} never hold it. Use joint")
            )

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        view = InBatch.of(batch, mask_duplicates=self.mask_duplicates)
        scale = self.own(ctx)() if self.learn_scale else self.scale
        blocks = {direction: getattr(self, f"_{direction}")(view, scale) for direction in self.directions}
        positive = blocks["query_to_doc"].gather(1, view.own[:, None]).squeeze(1)
        if self.partition_mode == "joint":
            log_z = torch.logsumexp(torch.cat(list(blocks.values()), dim=1) if len(blocks) > 1 else blocks["query_to_doc"], dim=1)
        else:
            log_z = torch.stack([torch.logsumexp(block, dim=1) for block in blocks.values()]).mean(0)
        out = LossOutput.per_row(log_z - positive)
        return replace(out, metrics={"scale": scale.detach()}) if isinstance(scale, Tensor) else out

    def learned(self, model: ModelFacts) -> nn.Module | None:
        return LearnedScale(self.scale) if self.learn_scale else None

    def _query_to_doc(self, view: InBatch, scale: float | Tensor) -> Tensor:
        """(B, P) logits, -inf at known positives."""
        similarity = SIMILARITIES[self.similarity].matrix(view.batch.local("anchor"), view.pool.rep.values)
        logit = similarity * scale
        if self.hardness_mode is not None and self.hardness_strength > 0:
            logit = logit + self.hardness_strength * torch.where(self._harder(view), similarity.detach(), 0)
        return logit.masked_fill(view.known_docs(), -torch.inf)

    def _harder(self, view: InBatch) -> Tensor:
        """(B, P) bool: the negatives that hardness_mode names."""
        own_row = masks.own_row(view.batch.row, view.pool.row)
        chosen = {
            "in_batch_negatives": ~own_row,
            "hard_negatives": own_row & ~view.pool.is_positive,
            "all_negatives": ~own_row | ~view.pool.is_positive,
        }
        return chosen[str(self.hardness_mode)]

    def _query_to_query(self, view: InBatch, scale: float | Tensor) -> Tensor:
        """(B, M) logits, -inf at the anchor itself."""
        anchors = view.batch.columns["anchor"].all.values
        return self._logit(view.batch.local("anchor"), anchors, scale, view.own_row | view.related)

    def _doc_to_query(self, view: InBatch, scale: float | Tensor) -> Tensor:
        """(B, M) logits; the own anchor is the positive of the own document."""
        return self._logit(view.batch.local("positive"), view.batch.columns["anchor"].all.values, scale, view.related)

    def _doc_to_doc(self, view: InBatch, scale: float | Tensor) -> Tensor:
        """(B, P) logits, -inf at all documents of the own row."""
        drop = masks.own_row(view.batch.row, view.pool.row) | view.known_docs()
        return self._logit(view.batch.local("positive"), view.pool.rep.values, scale, drop)

    def _logit(self, a: Tensor, b: Tensor, scale: float | Tensor, drop: Tensor) -> Tensor:
        return (SIMILARITIES[self.similarity].matrix(a, b) * scale).masked_fill(drop, -torch.inf)


@LOSSES.register("sparse_mnrl", aliases=("SparseMultipleNegativesRankingLoss",))
@dataclass(frozen=True)
class SparseMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`mnrl` with the similarity that the documentation gives sparse models: dot product, scale 1.

        L_i as in `mnrl`, s = dot product, t = 1

    Source: as `mnrl`. Shapes: anchor, positive, negatives (B, V) local rows, (M, V) all rows. Coupling: anchor.
    """

    kinds: ClassVar[tuple[str, ...]] = ("sparse",)

    scale: float = option(1.0, gt=0, help="Factor of the similarity before the softmax, 1 / temperature. 1 suits dot; try 20 for cosine.")
    similarity: SimilarityName = option("dot", help="Similarity of two representations; the distances are negated.")
