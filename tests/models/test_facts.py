"""What model components tell `validate` about themselves is what their models are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config
from stpipe.config.registry import MODELS
from stpipe.engine.optim import class_paths
from stpipe.engine.strategies import Plain
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CSRLoss, SpladeLoss
from stpipe.models import CrossEncoderModel, CSRModel, DenseModel, InferenceFreeSpladeModel, SpladeModel, StaticModel
from stpipe.models.component import ModelComponent
from stpipe.models.modules import SparseAutoEncoder, SparseStaticEmbedding
from tests.models.tiny import make_tokenizer
from tests.models.tiny_splade import masked_lm


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    masked_lm("bert").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("component", [DenseModel, StaticModel, SpladeModel, InferenceFreeSpladeModel, CSRModel, CrossEncoderModel])
def test_facts_are_those_of_the_model(component: type[ModelComponent], weights: Path) -> None:
    model = component(name_or_path=str(weights)).build()
    assert list(model.encoder.routes) == (component.routes or [])
    assert any(isinstance(m, SparseAutoEncoder) for m in model.encoder.modules()) == (component.sparsity == "autoencoder")
    assert (component.sparsity is not None) == (component.kind == "sparse")
    named = {name: path for name, path, _ in class_paths(TrainModule(model.encoder, {}, Plain()))}
    looked_up = {m.weight for m in model.encoder.modules() if isinstance(m, SparseStaticEmbedding)}
    parameters = dict(TrainModule(model.encoder, {}, Plain()).named_parameters())
    assert len(component.lookups) == len(looked_up)
    for route, (name, path) in component.lookups.items():
        assert route in model.encoder.routes
        assert named[name] == path
        assert any(parameters[name] is weight for weight in looked_up)


def test_splade_takes_the_routes_of_its_start_weights(weights: Path, tmp_path: Path) -> None:
    """A Router that is stored stays, so `validate` must not refuse its routes."""
    InferenceFreeSpladeModel(name_or_path=str(weights)).build().save_pretrained(tmp_path)
    model = SpladeModel(name_or_path=str(tmp_path)).build()
    assert model.encoder.routes == ("query", "document") and SpladeModel.routes is None
    given = [f"model.name_or_path={tmp_path}", "model=splade", "dataset=docstrings", "evaluator=retrieval"]
    assert load_config([*given, "dataset.routes={anchor: document}"]).values["dataset"]["routes"] == {"anchor": "document"}


def test_every_component_has_been_looked_at() -> None:
    own = {cls for cls in MODELS.classes() if cls.__module__.startswith("stpipe.")}
    assert own == {DenseModel, StaticModel, SpladeModel, InferenceFreeSpladeModel, CSRModel, CrossEncoderModel}


def test_losses_that_keep_models_sparse() -> None:
    assert SpladeLoss.sparsity == SpladeModel.sparsity == InferenceFreeSpladeModel.sparsity == "regularizer"
    assert CSRLoss.sparsity == CSRModel.sparsity == "autoencoder"
    assert {f.name for f in dataclasses.fields(SpladeLoss)} > {"query_weight", "query_active_dims", "documents_only"}


def test_routes_without_a_router_are_refused(weights: Path) -> None:
    encoder = DenseModel(name_or_path=str(weights)).build().encoder
    assert encoder.route_of("anchor") is None
    with pytest.raises(ConfigError, match=r"dataset.routes: the model has no Router.*remove the key"):
        encoder.route_of("anchor", {"anchor": "query"})
    routed = InferenceFreeSpladeModel(name_or_path=str(weights)).build().encoder
    assert (routed.route_of("anchor"), routed.route_of("anchor", {"anchor": "document"})) == ("query", "document")
    assert torch.is_tensor(routed.input_of("query").weight)
