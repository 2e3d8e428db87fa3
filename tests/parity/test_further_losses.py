"""Losses with a guide, with layers, of spread and with parameters of their own, against sentence-transformers 6.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses as ST
from torch import Tensor, nn

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.engine.objectives import model_facts
from stpipe.losses.base import ModelFacts
from stpipe.losses.objective import Objective
from stpipe.models.load import load_model
from stpipe.models.modules import Pooling
from stpipe.models.sentence_transformer import SentenceTransformer as OurModel
from tests.losses.cases import rep_batch
from tests.models.tiny import make_backbone, make_texts, make_tokenizer
from tests.parity.test_losses import CTX, ROWS, WIDTH, Identity, assert_same, ours, roles, run, theirs, values

LABELS = torch.arange(ROWS) % 3


class Named(nn.Module):
    """A model whose embeddings are one of the features."""

    def __init__(self, name: str, tokenizer: Any = None) -> None:
        super().__init__()
        self.name = name
        self.tokenizer = tokenizer
        self.max_seq_length = 8

    def __getitem__(self, index: int) -> nn.Module:
        return self

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.name]}


# --- a guide, margins, spread ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.1, "margin": 0.1},
        {"temperature": 0.1, "margin": 0.3, "margin_strategy": "relative"},
        {"temperature": 0.1, "contrast_anchors": False},
        {"temperature": 0.1, "contrast_positives": False, "margin": -0.1},
    ],
    ids=str,
)
def test_gist_embed(negatives: int, options: dict[str, Any]) -> None:
    x = values(roles(negatives))
    guide = {f"guide@{role}": v.detach() for role, v in values(roles(negatives), seed=7).items()}
    tokenizer = make_tokenizer()
    peer = ST.GISTEmbedLoss(Named("x", tokenizer), Named("guide", tokenizer), **options)  # type: ignore[arg-type]
    features = [{"x": v, "guide": guide[f"guide@{role}"]} for role, v in x.items()]
    found = L.GISTEmbedLoss(**options)(rep_batch({**x, **guide}, Targets()), CTX)
    assert 0.05 < float(found.metrics["false_negatives"]) < 0.95
    assert_same(run(found.mean, x), run(peer(features, None), x))


def test_gist_embed_never_takes_a_text_for_its_own_negative() -> None:
    """There a row whose positive is like the anchor itself for the guide has the anchor among its negatives, at similarity 1."""
    x = values(roles(0))
    guide = {"guide@anchor": torch.eye(ROWS), "guide@positive": torch.eye(ROWS)}
    tokenizer = make_tokenizer()
    peer = ST.GISTEmbedLoss(Named("x", tokenizer), Named("guide", tokenizer), temperature=0.1)  # type: ignore[arg-type]
    other = float(peer([{"x": x[r], "guide": guide[f"guide@{r}"]} for r in x], None).detach())
    found = float(L.GISTEmbedLoss(temperature=0.1)(rep_batch({**x, **guide}, Targets()), CTX).mean.detach())
    assert other > found + 0.5


@pytest.mark.parametrize("margins", [(0.8, 0.3), (0.95, -0.1)])
def test_mega_batch_margin(margins: tuple[float, float]) -> None:
    x = values(roles(0))
    options = dict(zip(("positive_margin", "negative_margin"), margins, strict=True))
    peer = ST.MegaBatchMarginLoss(Identity(), use_mini_batched_version=False, **options)  # type: ignore[arg-type]
    assert_same(ours(L.MegaBatchMarginLoss(**options), x, Targets()), theirs(peer, x, None))


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("options", [{}, {"mean_weight": 0.0, "aggregation": "sum"}, {"second_moment_weight": 0.5}], ids=str)
def test_global_orthogonal_regularization(negatives: int, options: dict[str, Any]) -> None:
    x = values(roles(negatives))
    peer = ST.GlobalOrthogonalRegularizationLoss(Identity(), **options)  # type: ignore[arg-type]
    terms = peer([{"x": v} for v in x.values()])
    found = ours(L.GlobalOrthogonalRegularizationLoss(**options), x, Targets())
    assert_same(found, run(torch.stack(list(terms.values())).sum(), x))


@pytest.mark.parametrize(("similarity", "peer_similarity", "scale"), [("cosine", util.cos_sim, 20.0), ("dot", util.dot_score, 1.0)])
def test_contrastive_tension_with_in_batch_negatives(similarity: Any, peer_similarity: Any, scale: float) -> None:
    x = values(("anchor", "twin@anchor"))
    peer = ST.ContrastiveTensionLossInBatchNegatives(Named("anchor"), scale, peer_similarity)  # type: ignore[arg-type]
    peer.model1.name = "twin@anchor"
    objective = Objective(L.ContrastiveTensionLossInBatchNegatives(scale=scale, similarity=similarity), ModelFacts(WIDTH), seed=0)
    found, other = objective(rep_batch(x, Targets()), CTX).mean, peer([x], None)
    assert_same(run_with(found, x, objective), run_with(other, x, peer))


@pytest.mark.parametrize("labelled", [True, False])
def test_contrastive_tension_of_pairs(labelled: bool) -> None:
    """There the sum over the pairs, here their mean; without a label, texts are compared there by their tokens and here by their ids."""
    x = {role: v.detach().mul(0.3).requires_grad_() for role, v in values(("anchor", "positive", "twin@anchor")).items()}
    same = torch.arange(ROWS) % 3 == 0
    ids = {"anchor": torch.arange(ROWS), "positive": torch.where(same, torch.arange(ROWS), torch.arange(ROWS) + 100)}
    targets = Targets(label=same.long()) if labelled else Targets()
    found = L.ContrastiveTensionLoss()(rep_batch(x, targets, text_id=ids), CTX)
    peer = ST.ContrastiveTensionLoss(Named("positive"))  # type: ignore[arg-type]
    peer.model1.name = "twin@anchor"
    features = [
        {"twin@anchor": x["twin@anchor"], "input_ids": ids["anchor"][:, None]},
        {"positive": x["positive"], "input_ids": ids["positive"][:, None]},
    ]
    other = peer(features, same.float() if labelled else None)
    used = {role: x[role] for role in ("positive", "twin@anchor")}
    assert 0.2 < float(found.metrics["positives"]) < 0.8
    assert_same(run(found.mean * ROWS, used), run(other, used))


def run_with(value: Tensor, x: dict[str, Tensor], module: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients of the embeddings and of the loss's own parameters."""
    inputs = [*x.values(), *module.parameters()]
    return value.detach(), list(torch.autograd.grad(value, inputs))


# --- parameters of their own ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"concatenation_sent_multiplication": True}, {"concatenation_sent_rep": False}, {"concatenation_sent_difference": False}],
    ids=str,
)
def test_softmax(options: dict[str, bool]) -> None:
    x = values(roles(0))
    objective = Objective(L.SoftmaxLoss(num_labels=3, **options), ModelFacts(WIDTH), seed=0)
    peer = ST.SoftmaxLoss(Device(), WIDTH, 3, **options)  # type: ignore[arg-type]
    peer.classifier.load_state_dict(objective.learned["SoftmaxLoss"].state_dict())
    found = objective(RepBatch.from_values(x, targets=Targets(label=LABELS)), CTX).mean
    assert_same(run_with(found, x, objective), run_with(peer([{"x": v} for v in x.values()], LABELS), x, peer))


class Device(Identity):
    """The oracle asks for the device when it makes its layers."""

    device = torch.device("cpu")


@pytest.mark.parametrize("metric", ["cosine", "l2", "mse"])
@pytest.mark.parametrize("projection", [None, 5])
@pytest.mark.parametrize("per_role", [False, True])
def test_embed_distill(metric: Any, projection: int | None, per_role: bool) -> None:
    x = values(roles(1))
    width = projection or WIDTH
    y = torch.randn(ROWS, 3, width) if per_role else torch.randn(ROWS, width)
    vectors = {role: y[:, i] for i, role in enumerate(x)} if per_role else {"*": y}
    objective = Objective(L.EmbedDistillLoss(distance_metric=metric, projection_dim=projection), ModelFacts(WIDTH), seed=0)
    peer = ST.EmbedDistillLoss(Device(), metric, projection)  # type: ignore[arg-type]
    if projection is not None:
        assert peer.projection is not None
        peer.projection.load_state_dict(objective.learned["EmbedDistillLoss"].state_dict())
    found = objective(RepBatch.from_values(x, targets=Targets(vectors=vectors)), CTX).mean
    assert_same(run_with(found, x, objective), run_with(peer([{"x": v} for v in x.values()], y), x, peer))


# --- layers, with a real model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT as both sides read it."""
    backbone = make_backbone("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    folder = tmp_path_factory.mktemp("model")
    OurModel(modules=[backbone, Pooling(32)], device="cpu").save_pretrained(str(folder))
    return folder


def representations(model: Any, texts: list[list[str]], outputs: frozenset[str]) -> RepBatch:
    """The texts of anchors and positives through our encoder, with the outputs that a loss asks for."""
    batch: dict[str, Tensor] = {}
    for role, part in zip(roles(0), texts, strict=True):
        rep = model.encoder(Tokens.from_lists(tokenize(model.tokenizer, part)), outputs)
        batch[role] = rep.values
        batch.update({f"{role}/{name}": x for name, x in rep.extras.items()})
    return rep_batch(batch, Targets())


@pytest.mark.parametrize(
    "options", [{}, {"layer_weighting": "log", "kl_temperature": 1.0}, {"kl_temperature": 0.0, "prior_layers_weight": 0.5}], ids=str
)
@pytest.mark.parametrize("dims", [None, (32, 8)])
def test_adaptive_layer_and_2d_matryoshka(directory: Path, options: dict[str, Any], dims: tuple[int, ...] | None) -> None:
    texts = [make_texts(6, seed=seed, longest=9) for seed in (1, 2)]
    peer_model = SentenceTransformer(str(directory), device="cpu")
    inner = ST.MultipleNegativesRankingLoss(peer_model)
    every = {"n_layers_per_step": -1, **options}
    peer = (
        ST.AdaptiveLayerLoss(peer_model, inner, **every)
        if dims is None
        else ST.Matryoshka2dLoss(peer_model, inner, list(dims), n_dims_per_step=-1, **every)
    )
    peer_model.train()
    other = peer([peer_model.preprocess(part) for part in texts], None)
    other.backward()

    model = load_model(str(directory), device="cpu")
    mine: dict[str, Any] = {"loss": L.MultipleNegativesRankingLoss(), "n_layers_per_step": None, **options}
    loss = L.AdaptiveLayerLoss(**mine) if dims is None else L.Matryoshka2dLoss(dims=dims, n_dims_per_step=None, **mine)
    objective = Objective(loss, model_facts(model.encoder), seed=0)
    found = objective(representations(model, texts, objective.loss.outputs(StepContext())), StepContext()).mean
    found.backward()
    torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    assert_same_gradients(model, peer_model)


def gradients_of(model: nn.Module, *prefixes: str) -> dict[str, Tensor]:
    """Gradients by name without what stands before the names of the backbone."""
    found = {}
    for name, parameter in model.named_parameters():
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if parameter.grad is not None:
            found[name] = parameter.grad
    return found


def assert_same_gradients(model: Any, peer: nn.Module) -> None:
    """Of all weights of the backbone."""
    mine, other = gradients_of(model.encoder.backbone.network), gradients_of(peer, "0.", "auto_model.", "model.")
    assert len(mine) > 30
    largest = max(float(g.abs().max()) for g in mine.values())
    assert largest > 1e-3
    for name, grad in mine.items():
        torch.testing.assert_close(grad, other[name], rtol=1e-3, atol=1e-4 * largest)


def test_denoising_auto_encoder(directory: Path) -> None:
    whole = make_texts(6, seed=1, longest=12)
    damaged = [" ".join(text.split()[::2]) for text in whole]
    peer_model = SentenceTransformer(str(directory), device="cpu")
    peer = ST.DenoisingAutoEncoderLoss(peer_model)
    other = peer.train()([peer_model.preprocess(part) for part in (damaged, whole)], None)
    other.backward()

    model = load_model(str(directory), device="cpu")
    objective = Objective(L.DenoisingAutoEncoderLoss(), model_facts(model.encoder), seed=0)
    decoder = objective.learned["DenoisingAutoEncoderLoss"].model
    decoder.load_state_dict(peer.decoder.state_dict())  # the cross-attention and the head are drawn anew by both
    rep = model.encoder(Tokens.from_lists(tokenize(model.tokenizer, damaged)))
    targets = Targets(tokens=Tokens.from_lists(tokenize(model.tokenizer, whole)))
    found = objective(rep_batch({"anchor": rep.values}, targets), StepContext())
    found.mean.backward()
    assert float(found.count) == sum(len(text.split()) + 1 for text in whole)
    torch.testing.assert_close(found.mean, other, rtol=1e-4, atol=1e-5)
    assert_same_gradients(model, peer_model)
    own, theirs_own = gradients_of(decoder), gradients_of(peer.decoder)
    cross = [name for name in own if "cross" in name]
    assert len(cross) > 10 and float(own["bert.encoder.layer.1.crossattention.self.value.weight"].abs().max()) > 1e-5
    for name in cross:
        torch.testing.assert_close(own[name], theirs_own[name], rtol=1e-3, atol=1e-5)
