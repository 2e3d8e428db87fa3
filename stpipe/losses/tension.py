"""Learning from texts alone: two copies of a model agree about which text is which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.ranking import MultipleNegativesRankingLoss
from stpipe.ops.similarity import SimilarityName

TWIN = "twin"


@LOSSES.register("contrastive_tension", aliases=("ContrastiveTensionLossInBatchNegatives",))
@dataclass(frozen=True)
class ContrastiveTensionLoss(Loss):
    """Each text finds itself among all texts of the batch, from one of two independently trained copies of the model to the other.

        L_i = -1/2 log softmax over j of t s(u_i, v_j) at j = i  -  1/2 log softmax over j of t s(v_i, u_j) at j = i

    v: embeddings of the model, u those of its twin; equal texts are not compared. t is trained with learn_scale, see `mnrl`.
    Needs `teacher["twin"]`: representations of the texts by a copy of the model that is trained beside it and then dropped.
    Source: "Semantic Re-tuning with Contrastive Tension" (Carlsson et al., ICLR 2021), with in-batch negatives in place of
    sampled pairs. Shapes: anchor (B, D) local rows, (M, D) all rows; the twin's alike. Coupling: anchor.
    """

    coupling: ClassVar[str] = "anchor"
    formats: ClassVar[tuple[str, ...]] = ("text",)
    teachers: ClassVar[tuple[str, ...]] = (TWIN,)
    citation: ClassVar[str] = citations.CONTRASTIVE_TENSION

    scale: float = option(20.0, gt=0, help="Factor of the similarity before the softmax at the start, 1 / temperature.")
    similarity: SimilarityName = option("cosine", help="Similarity of two embeddings; the distances are negated.")
    learn_scale: bool = option(True, help="Train the scale, too, up to 100.")

    def __post_init__(self) -> None:
        self._softmax()  # says what is wrong with the scale

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        twin = batch.teacher.get(TWIN, {})
        if "anchor" not in twin:
            raise ConfigError(
                "loss 'contrastive_tension' needs the representations of a second, trained copy of the model (teacher 'twin'), which "
                "this run has not. Train with mnrl on pairs, or with denoising_auto_encoder on texts"
            )
        pairs = replace(batch, columns={"anchor": twin["anchor"], "positive": batch.columns["anchor"]})
        softmax = self._softmax()
        return softmax(pairs, replace(ctx, learned={softmax: self.own(ctx)}) if self.learn_scale else ctx)

    def learned(self, model: ModelFacts) -> nn.Module | None:
        return self._softmax().learned(model)

    def _softmax(self) -> MultipleNegativesRankingLoss:
        return MultipleNegativesRankingLoss(
            scale=self.scale,
            similarity=self.similarity,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
            learn_scale=self.learn_scale,
        )
