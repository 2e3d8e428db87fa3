"""Learning from texts alone: two copies of a model agree about which text is which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import TWIN, Column, RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import base, citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.ranking import MultipleNegativesRankingLoss
from stpipe.ops import masks
from stpipe.ops.convert import upcast
from stpipe.ops.similarity import SIMILARITIES, SimilarityName

#: Role whose texts the twin encodes.
FIRST = frozenset({"anchor"})


@LOSSES.register("contrastive_tension_pairs", aliases=("ContrastiveTensionLoss",))
@dataclass(frozen=True)
class ContrastiveTensionLoss(Loss):
    """Pairs made in advance: equal texts attract, different ones repel, each text of a pair seen by another copy of the model.

        L_i = -(y_i log sigmoid(u_i . v_i) + (1 - y_i) log(1 - sigmoid(u_i . v_i)))

    u: embedding of the anchor by the twin, v: that of the positive by the model; y: the label, or without one 1 where both are the
    same text and 0 elsewhere. The twin is a copy of the model that starts from its weights, is trained beside it and then dropped.
    Needs `teacher["twin"]`. Metric positives: mean of y. Source: "Semantic Re-tuning with Contrastive Tension" (Carlsson et al.,
    ICLR 2021), with 7 negative pairs to a positive one. Shapes: positive, and the twin's anchor (B, D). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair", "pair-class", "pair-score")
    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    teachers: ClassVar[tuple[str, ...]] = (TWIN,)
    citation: ClassVar[str] = citations.CONTRASTIVE_TENSION

    def encoded(self, roles: frozenset[str]) -> frozenset[str]:
        return roles - FIRST

    def encoded_by_twin(self, roles: frozenset[str]) -> frozenset[str]:
        return FIRST & roles

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        first = of_twin(batch, loss="contrastive_tension_pairs")
        dots = SIMILARITIES["dot"].paired(upcast(first.local.values), upcast(batch.local("positive")))
        labels = self._labels(batch, first).to(dots.dtype)
        out = LossOutput.per_row(F.binary_cross_entropy_with_logits(dots, labels, reduction="none"))
        return replace(out, metrics={"positives": labels.mean()})

    @staticmethod
    def _labels(batch: RepBatch, first: Column) -> Tensor:
        """(B,) labels, or whether both texts of a row are the same."""
        if batch.targets.score is not None or batch.targets.label is not None:
            return base.scores(batch, loss="contrastive_tension_pairs")
        own = masks.place(masks.own_row(batch.row, batch.row_all))
        return first.text_id[own] == batch.columns["positive"].text_id[own]


@LOSSES.register("contrastive_tension", aliases=("ContrastiveTensionLossInBatchNegatives",))
@dataclass(frozen=True)
class ContrastiveTensionLossInBatchNegatives(Loss):
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
    learns: ClassVar[str | None] = "learn_scale"
    citation: ClassVar[str] = citations.CONTRASTIVE_TENSION

    scale: float = option(20.0, gt=0, help="Factor of the similarity before the softmax at the start, 1 / temperature.")
    similarity: SimilarityName = option("cosine", help="Similarity of two embeddings; the distances are negated.")
    learn_scale: bool = option(True, help="Train the scale, too, up to 100.")

    def __post_init__(self) -> None:
        self._softmax()  # says what is wrong with the scale

    def encoded_by_twin(self, roles: frozenset[str]) -> frozenset[str]:
        return FIRST & roles

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        columns = {"anchor": of_twin(batch, loss="contrastive_tension"), "positive": batch.columns["anchor"]}
        pairs, softmax = replace(batch, columns=columns), self._softmax()
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


def of_twin(batch: RepBatch, *, loss: str) -> Column:
    """What the twin makes of the anchors.

    Raises:
        ConfigError: it is not there.
    """
    twin = batch.teacher.get(TWIN, {})
    if "anchor" not in twin:
        raise ConfigError(
            f"loss '{loss}' needs the representations of a second, trained copy of the model (teacher 'twin'), which this batch has not. "
            "A run makes them; in Python, TrainModule does"
        )
    return twin["anchor"]
