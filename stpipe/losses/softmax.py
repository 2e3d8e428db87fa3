"""A classifier of pairs on top of the two embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import base, citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.learned import PrefixLinear
from stpipe.ops.convert import upcast


@LOSSES.register("softmax", aliases=("SoftmaxLoss",))
@dataclass(frozen=True)
class SoftmaxLoss(Loss):
    """Which class is the pair of? A linear classifier on both embeddings, learned beside the model and dropped with it.

        L_i = -log softmax(W f_i + b)[y_i],   f_i = (a_i, p_i, |a_i - p_i|, a_i * p_i), those of the four that are asked for

    The number of classes is that of the training data unless it is given. Under `matryoshka` a prefix of d dimensions meets the
    weights of these dimensions. Metric accuracy: share of rows whose class has the largest logit.
    Source: arXiv:1908.10084 section 3, "Classification Objective Function". Shapes: anchor, positive (B, D); label (B,). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair-class",)
    learns: ClassVar[str | None] = "always"
    citation: ClassVar[str] = citations.SENTENCE_BERT

    num_labels: int | None = option(
        None, ge=2, help="Number of classes 0, 1, ...; None: one more than the largest label of the training data."
    )
    concatenation_sent_rep: bool = option(True, help="Give the classifier both embeddings.")
    concatenation_sent_difference: bool = option(True, help="Give it the absolute difference of the two.")
    concatenation_sent_multiplication: bool = option(False, help="Give it the product of the two.")

    def __post_init__(self) -> None:
        if not self.blocks:
            names = "concatenation_sent_rep, concatenation_sent_difference, concatenation_sent_multiplication"
            raise ConfigError(Problem("concatenation_sent_rep", f"the classifier would see nothing; set one of {names}"))

    @property
    def blocks(self) -> int:
        """Vectors of the width of an embedding that the classifier sees."""
        return 2 * self.concatenation_sent_rep + self.concatenation_sent_difference + self.concatenation_sent_multiplication

    def fitted(self, grades: Tensor) -> Loss:
        """Takes the number of classes from the labels, and refuses labels that are no class.

        Raises:
            DataError: a label is no whole number from 0 on, or not below num_labels.
        """
        if not grades.numel():
            raise DataError("loss 'softmax' needs labelled pairs, and there are none")
        least, most = grades.min().item(), grades.max().item()
        count = self.num_labels or max(int(most) + 1, 2)
        if least < 0 or most >= count or bool((grades != grades.floor()).any()):
            raise DataError(
                f"loss 'softmax' needs classes 0 to {count - 1} (loss.num_labels = {count}), but the labels of the data go from {least:g} to "
                f"{most:g}. Number the classes from 0 on without gaps, or set loss.num_labels"
            )
        return replace(self, num_labels=count)

    def learned(self, model: ModelFacts) -> nn.Module | None:
        if self.num_labels is None:
            raise ConfigError(Problem("num_labels", "is taken from the labels of the training data: call fitted(grades) first, or give it"))
        return PrefixLinear(self.blocks * model.embedding_dim, self.num_labels)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        a, p = upcast(batch.local("anchor")), upcast(batch.local("positive"))
        label = base.classes(batch, loss="softmax")
        parts = [a, p] if self.concatenation_sent_rep else []
        parts += [(a - p).abs()] if self.concatenation_sent_difference else []
        parts += [a * p] if self.concatenation_sent_multiplication else []
        logits = self.own(ctx)(torch.cat(parts, dim=1), self.blocks)
        # gather checks the class: an error on a CPU, a failed assertion of the device on a GPU; nothing is left out, as -100 would be.
        out = LossOutput.per_row(-torch.log_softmax(logits, dim=1).gather(1, label[:, None]).squeeze(1))
        return replace(out, metrics={"accuracy": (logits.argmax(1) == label).float().mean()})
