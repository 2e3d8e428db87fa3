"""Cross-field rules about cross-encoders: outputs of the model, and the negatives of its data."""

from __future__ import annotations

from collections.abc import Callable

from stpipe.config.data_format import known_format
from stpipe.config.finding import Rules
from stpipe.config.used_losses import losses

KIND = "cross_encoder"


def is_cross_encoder(rules: Rules) -> bool:
    return rules.component("model", rules.values["model"]["name"]).get("x-kind") == KIND


def outputs(rules: Rules) -> None:
    """The number of outputs against what the loss needs: one score a pair, or one for each class."""
    if not is_cross_encoder(rules):
        return
    given = rules.values["model"].get("num_labels")
    for loss in losses(rules):
        needed = loss.facts.get("x-num_outputs")
        if needed == "one" and given not in (None, 1):
            rules.problem(("model", "num_labels"), f"loss '{loss.name}' needs one score for each pair, but num_labels is {given}; set 1")
        elif needed == "classes" and given == 1:
            rules.problem(
                ("model", "num_labels"),
                f"loss '{loss.name}' needs one output for each class, but num_labels is 1; set the number of classes, or use binary_cross_entropy",
            )


def negatives(rules: Rules) -> None:
    """Rerankers learn little from random negatives: mine some."""
    if not is_cross_encoder(rules):
        return
    for loss in losses(rules):
        if loss.name == "reranker_mnrl" and known_format(loss.section) == "pair":
            rules.warn(
                f"data set '{loss.source}' has no hard negatives: those drawn from the batch are easy for a reranker. Mine some "
                "(key `mine`, or `stpipe mine`)"
            )


CROSS_ENCODER_RULES: tuple[Callable[[Rules], None], ...] = (outputs, negatives)
