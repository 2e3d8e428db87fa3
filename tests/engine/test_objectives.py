"""Objectives of several data sets as one module."""

from __future__ import annotations

import pytest
import torch

from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.engine.objectives import Objectives, model_facts
from stpipe.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss, SoftmaxLoss
from stpipe.losses.base import ModelFacts
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Module
from tests.engine.tiny import tiny_encoder

CLASSIFIER, PLAIN = SoftmaxLoss(num_labels=3), MultipleNegativesRankingLoss()
FACTS = ModelFacts(4)


@pytest.mark.parametrize("names", [("train", "forward", "type"), ("a.b", "a_b", "a_b_"), ("stdlib", "default")])
def test_any_name_of_a_data_set_will_do(names: tuple[str, ...]) -> None:
    found = Objectives(dict.fromkeys(names, CLASSIFIER), FACTS, seed=0)
    assert all(found[name].loss == CLASSIFIER for name in names)
    assert len({id(found[name]) for name in names}) == len(names)
    assert len(dict(found.named_parameters())) == 2 * len(names) and found.learning == names


def test_names_of_parameters_and_start_values() -> None:
    found = Objectives({"nli": CLASSIFIER, "pairs": PLAIN, "more.nli": CLASSIFIER}, FACTS, seed=0)
    weights = dict(found.named_parameters())
    assert list(weights) == [f"{s}.learned.SoftmaxLoss.{p}" for s in ("nli", "more_nli") for p in ("weight", "bias")]
    assert not torch.equal(weights["nli.learned.SoftmaxLoss.weight"], weights["more_nli.learned.SoftmaxLoss.weight"])
    assert found.learning == ("nli", "more.nli") and found.losses["pairs"] is not None
    again = Objectives({"nli": CLASSIFIER}, FACTS, seed=0)
    assert torch.equal(again["nli"].learned["SoftmaxLoss"].weight, weights["nli.learned.SoftmaxLoss.weight"])


def test_objectives_without_parameters_leave_no_trace_in_a_checkpoint() -> None:
    assert not Objectives({"a": PLAIN, "b": PLAIN}, FACTS, seed=0).state_dict()


def test_what_losses_know_of_an_encoder() -> None:
    encoder = tiny_encoder()
    facts = model_facts(encoder)
    assert (facts.embedding_dim, facts.num_layers) == (16, 2) and facts.decoder is not None
    loss = Objectives({"a": AdaptiveLayerLoss(loss=PLAIN)}, facts, seed=0).losses["a"]
    assert {name for s in range(20) for name in loss.outputs(StepContext(step=s))} == {"layer_0", "layer_1"}


class Words(Module):
    """The least that takes tokens: a vector a word."""

    is_input = True

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(5, 3)

    def output_dim(self, input_dim: int) -> int:
        return 3


def test_a_model_without_layers_says_so() -> None:
    facts = model_facts(Encoder([Words()]))
    assert (facts.embedding_dim, facts.num_layers, facts.decoder) == (3, 0, None)


def test_the_context_belongs_to_the_data_set() -> None:
    found = Objectives({"a": MultipleNegativesRankingLoss(scale=3.0, learn_scale=True), "b": PLAIN}, FACTS, seed=0)
    batch = RepBatch.from_values({role: torch.randn(3, 4) for role in ("anchor", "positive")})
    ctx = StepContext(step=5)
    assert found["b"].context(ctx).learned == {} and len(found["a"].context(ctx).learned) == 1
    assert found["a"].context(ctx).step == 5
    out = found["a"](batch, ctx)
    torch.testing.assert_close(out.mean, MultipleNegativesRankingLoss(scale=3.0)(batch, ctx).mean)
