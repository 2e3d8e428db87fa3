"""The score of a language model that is asked whether a document answers a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stpipe.models.modules.module import Features, Module


class LogitScore(Module):
    """Adds `scores` (N, 1): the logit with which the language model before it would go on with the word for true, less that of the word
    for false.

    true_token_id, false_token_id: ids of the words; false None leaves the second term out. input_name: feature that has the logits.
    """

    type_name = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"

    def __init__(self, true_token_id: int, *, false_token_id: int | None = None, input_name: str = "causal_logits") -> None:
        super().__init__()
        self.true_token_id = true_token_id
        self.false_token_id = false_token_id
        self.input_name = input_name

    @property
    def feature(self) -> str:
        return "scores"

    def forward(self, features: Features) -> dict[str, Any]:
        words = [self.true_token_id] if self.false_token_id is None else [self.true_token_id, self.false_token_id]
        logits = features[self.input_name](words)
        scores = logits if self.false_token_id is None else logits[:, :1] - logits[:, 1:]
        return {**features, "scores": scores}

    def output_dim(self, input_dim: int) -> int:
        return 1

    def config(self) -> dict[str, Any]:
        return {"true_token_id": self.true_token_id, "false_token_id": self.false_token_id, "module_input_name": self.input_name}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> LogitScore:
        false = values.get("false_token_id")
        return cls(
            int(values["true_token_id"]),
            false_token_id=None if false is None else int(false),
            input_name=values.get("module_input_name") or "causal_logits",
        )
