"""How pairs of texts get their scores, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.evaluation import CrossEncoderCorrelationEvaluator, CrossEncoderRerankingEvaluator
from stpipe.evaluation.ranking import NO_DOC, Collection
from stpipe.evaluation.scoring import PairSearch, outputs_of, pair_scores
from tests.evaluation.toy import DivergedScorer, EqualScorer, ToyModel, ToyScorer, lists, scored

FIRST = ["w1 a", "w2 b", "w1 a", "w3 c", "w1 a"]
SECOND = ["w1 x", "w2 y", "w1 x", "w1 x", "w9 z"]


@pytest.mark.parametrize("outputs", [1, 3])
def test_each_distinct_pair_is_scored_once_and_stands_in_all_its_places(outputs: int) -> None:
    model = ToyScorer(num_labels=outputs)
    found = pair_scores(model, FIRST, SECOND, prompt=None, batch_size=2)
    pairs = list(zip(FIRST, SECOND, strict=True))
    assert model.calls == [(None, list(dict.fromkeys(pairs)))]
    assert found.dtype == np.float32 and found.shape == ((5,) if outputs == 1 else (5, 3))
    np.testing.assert_array_equal(found, ToyScorer(num_labels=outputs).predict(pairs))
    assert len(np.unique(found.reshape(5, -1)[:, 0])) == 4


def test_no_pairs_need_no_model_call() -> None:
    model = ToyScorer()
    assert pair_scores(model, [], [], prompt=None, batch_size=2).shape == (0,) and model.calls == []


def test_rows_get_the_prompts_of_their_roles() -> None:
    """The model puts the query's prompt in front, as it does for a user; the document's is in its text, as in training."""
    model = ToyScorer()
    CrossEncoderCorrelationEvaluator()(
        model, dataclasses.replace(scored(), prompts={"anchor": "ask: ", "positive": "text: "}), batch_size=8
    )
    CrossEncoderCorrelationEvaluator()(model, scored(), batch_size=8)
    (one, pairs), (other, plain) = model.calls
    assert (one, other) == ("ask: ", None)
    assert pairs == [(first, f"text: {second}") for first, second in plain] and len(pairs) > 10
    lists_model = ToyScorer()
    CrossEncoderRerankingEvaluator()(
        lists_model, dataclasses.replace(lists(), prompts={"query": "", "documents": "passage: "}), batch_size=8
    )
    ((prompt, listed),) = lists_model.calls
    assert prompt == "" and all(doc.startswith("passage: ") for _, doc in listed)


def test_a_model_that_has_diverged_stops_the_evaluation() -> None:
    with pytest.raises(TrainingError, match="NaN or infinite for 2 of 4 pairs"):
        pair_scores(DivergedScorer(), FIRST, SECOND, prompt=None, batch_size=2)
    with pytest.raises(TrainingError, match="it has diverged"):
        CrossEncoderRerankingEvaluator()(DivergedScorer(), lists(), batch_size=8)


def test_a_model_of_embeddings_is_refused() -> None:
    with pytest.raises(ConfigError, match="ToyModel is a dense model; evaluators of pairs take cross_encoder models"):
        pair_scores(ToyModel(), FIRST, SECOND, prompt=None, batch_size=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("evaluator", [CrossEncoderCorrelationEvaluator(), CrossEncoderRerankingEvaluator()])
def test_classes_are_no_scores(evaluator: CrossEncoderCorrelationEvaluator | CrossEncoderRerankingEvaluator) -> None:
    rows = scored() if isinstance(evaluator, CrossEncoderCorrelationEvaluator) else lists()
    with pytest.raises(ConfigError, match="model.num_labels: evaluator 'cross_encoder_.*' needs one score for each pair.*has 3 outputs"):
        evaluator(ToyScorer(num_labels=3), rows, batch_size=8)


def test_outputs_of_models() -> None:
    assert [outputs_of(model) for model in (ToyScorer(), ToyScorer(num_labels=2), ToyModel())] == ["one", "classes", "one"]


class Sure(ToyScorer):
    """Scores so high that a sigmoid in float32 cannot tell them apart."""

    def logits(self, pairs: list[tuple[str, str]], prompt: str | None = None) -> torch.Tensor:  # type: ignore[override]
        return 30 + super().logits(pairs, prompt)


def test_ranks_come_from_the_outputs_before_the_activation() -> None:
    collection = Collection(["q0", "q1"], ["w1 ask", "w2 ask"], [f"d{i}" for i in range(5)], [f"w{i} text" for i in range(5)], [{}, {}])
    candidates = [np.arange(5), np.array([0, 2])]
    model = Sure(noise=0.5)
    found = PairSearch(model, 4).rerank(collection, candidates)
    pairs = [("w1 ask", f"w{i} text") for i in range(5)]
    assert (model.predict(pairs) == 1).all()
    wanted = model.logits(pairs)[:, 0]
    assert found.docs[0].tolist() == wanted.argsort(descending=True).tolist() and found.docs[0, 0] == 1
    assert found.docs[1].tolist()[2:] == [NO_DOC] * 3
    assert PairSearch(EqualScorer(), 4).rerank(collection, candidates).docs[0].tolist() == [0, 1, 2, 3, 4], "ties by document number"
