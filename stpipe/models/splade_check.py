"""Can SPLADE be trained from these weights? A look at what they make of a few texts, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stpipe.core.tokens import Tokens
from stpipe.models.sparse_encoder import SparseEncoder

SATURATED = 0.5
ALIKE = 0.98
TEXTS = 8  # of one forward: the longest that a model takes must fit


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """What start weights make of pairs of a query and its document, all means over the pairs.

    active_share: share of the vocabulary that is active in a document; alike: cosine between documents of different pairs; found:
    share of the queries whose own document is the nearest (chance is 1 / pairs); silent: share of texts without any active word.
    """

    pairs: int
    active_share: float
    alike: float
    found: float
    silent: float

    @property
    def problem(self) -> str | None:
        """Why training cannot start from here; None when it can."""
        if self.silent > 0.5:
            return (
                f"{self.silent:.0%} of the texts have no active word, so no gradient reaches them. Set model.calibrate=true, or name "
                "another checkpoint"
            )
        if self.active_share > SATURATED:
            return (
                f"{self.active_share:.0%} of the vocabulary is active in a text, so losses start in the thousands. Set "
                "model.calibrate=true, or name another checkpoint"
            )
        if self.alike > ALIKE and self.found <= 2 / self.pairs:
            return (
                f"the logits make all texts alike (cosine {self.alike:.3f} between different ones), so there is nothing to train on. "
                "Name another fill-mask checkpoint, or set model.calibrate=true"
            )
        return None

    def line(self) -> str:
        """The same in one line."""
        return (
            f"start weights: {self.active_share:.1%} of the words active in a document, cosine {self.alike:.2f} between different "
            f"documents, own document first for {self.found:.0%} of {self.pairs} queries"
        )


def check_base(model: SparseEncoder, queries: Tokens, documents: Tokens) -> BaseCheck:
    """Look at pairs of a query and its document (equal places); the weights are not changed."""
    with model.inference():
        query, document = (weights(model, tokens, route) for tokens, route in ((queries, "query"), (documents, "document")))
        active = (document > 0).float().mean()
        unit = normalize(document, dim=1)
        cosine = unit @ unit.T
        count = len(documents)
        alike = (cosine.sum() - cosine.diagonal().sum()) / max(count * (count - 1), 1)
        score = query @ document.T
        # Equal scores are no find: the own document must be ahead of all others.
        ahead = (score >= score.diagonal()[:, None]).sum(1) == 1
        silent = torch.cat([query, document]).sum(1) == 0
    return BaseCheck(count, float(active), float(alike), float(ahead.float().mean()), float(silent.float().mean()))


def weights(model: SparseEncoder, tokens: Tokens, route: str) -> Tensor:
    """(N, V) weights of the texts."""
    taken = route if route in model.encoder.routes else None
    parts = (tokens.rows(rows) for rows in torch.arange(len(tokens)).split(TEXTS))
    return torch.cat([model(part.to(model.device), route=taken).values.float() for part in parts])
