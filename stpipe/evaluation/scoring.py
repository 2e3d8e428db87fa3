"""Pairs of texts -> scores for evaluation, by the call that a user of a cross-encoder would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from stpipe.config.errors import ConfigError, Problem, TrainingError
from stpipe.config.metrics import Outputs
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluator
from stpipe.evaluation.encoding import distinct
from stpipe.evaluation.ranking import Collection, Ranking, rank_row

KIND = "cross_encoder"


class ScoringModel(Protocol):
    """The part of an inference class that evaluators of cross-encoders use.

    predict: takes pairs of texts and the keywords `prompt`, `batch_size`, `show_progress_bar`, `convert_to_numpy` and
    `activation_fn`; gives (N,) scores, or (N, C) for a model with several outputs.
    """

    @property
    def kind(self) -> str: ...

    @property
    def num_labels(self) -> int: ...

    @property
    def predict(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, kw_only=True)
class PairEvaluator(Evaluator):
    """Evaluators of the scores that a cross-encoder gives to the two texts of each row."""

    kinds: ClassVar[tuple[str, ...]] = (KIND,)

    def scores(self, model: ScoringModel, rows: Rows, *, batch_size: int) -> NDArray[np.float32]:
        """(N,) or (N, C) scores of the pairs of texts of the rows; each of the two has the prompt of its role."""
        first, second = ("query", "document") if rows.format == "query-document" else ("anchor", "positive")
        before = rows.prompts.get(second) or ""
        texts = [before + text for text in rows.columns[second]]
        return pair_scores(model, rows.columns[first], texts, prompt=rows.prompts.get(first), batch_size=batch_size)


def pair_scores(
    model: ScoringModel,
    first: Sequence[str],
    second: Sequence[str],
    *,
    prompt: str | None,
    batch_size: int,
    activation_fn: nn.Module | None = None,
) -> NDArray[np.float32]:
    """Scores of the pairs at equal places, each distinct pair scored once: (N,), or (N, C) of a model with several outputs.

    Args:
        first, second: N texts each.
        prompt: put before the first text of each pair; None leaves the choice to the model, "" is no prompt.
        batch_size: pairs a forward.
        activation_fn: what the outputs go through; None is the model's own.
    """
    if model.kind != KIND:
        raise ConfigError(f"{type(model).__name__} is a {model.kind} model; evaluators of pairs take {KIND} models")
    once, places = distinct(list(zip(first, second, strict=True)))
    if not once:
        return np.empty(0, dtype=np.float32)
    own = {} if activation_fn is None else {"activation_fn": activation_fn}
    found = model.predict(once, prompt=prompt, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True, **own)
    # float32, as users see scores, whatever precision the model computes in.
    values = np.asarray(found, dtype=np.float32)
    bad = int((~np.isfinite(values.reshape(len(once), -1)).all(axis=1)).sum())
    if bad:
        raise TrainingError(f"the model gives scores that are NaN or infinite for {bad} of {len(once)} pairs; it has diverged")
    return values if places is None else values[places]


def outputs_of(model: Any) -> Outputs:
    """Whether a model gives one score for a pair of texts, or one for each class; "one" for models of embeddings."""
    return "classes" if getattr(model, "num_labels", 1) > 1 else "one"


def need_one_output(model: ScoringModel, evaluator: str) -> None:
    """Refuse a model with an output for each class where pairs are put in order by one score."""
    if outputs_of(model) != "one":
        raise ConfigError(
            Problem(
                "model.num_labels", f"evaluator '{evaluator}' needs one score for each pair, but the model has {model.num_labels} outputs"
            )
        )


@dataclass(frozen=True)
class PairSearch:
    """A cross-encoder with one output as a ranker of candidates."""

    model: ScoringModel
    batch_size: int

    def rerank(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Ranking:
        """All candidates (document numbers) of each query by score, equal scores by document number.

        Ranked are the outputs without activation: a sigmoid near 1 gives different documents the same score.
        """
        before = collection.doc_prompt or ""
        queries = [collection.queries[i] for i, row in enumerate(candidates) for _ in row]
        docs = [before + collection.docs[doc] for row in candidates for doc in row.tolist()]
        found = pair_scores(
            self.model, queries, docs, prompt=collection.query_prompt, batch_size=self.batch_size, activation_fn=nn.Identity()
        )
        rows = np.split(found, np.cumsum([len(row) for row in candidates])[:-1])
        ranked = [rank_row(numbers, scores) for numbers, scores in zip(candidates, rows, strict=True)]
        return Ranking.pad([numbers for numbers, _ in ranked], [scores for _, scores in ranked])
