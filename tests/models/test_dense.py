"""The `dense` component: what each key does to the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.config.registry import MODELS
from stpipe.models import DenseHead, DenseModel
from stpipe.models.modules import Dense, Dropout, LayerNorm, Normalize, Pooling, Transformer
from tests.models.tiny import make_backbone


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bare")
    backbone = make_backbone("bert")
    backbone.model.half().save_pretrained(path)
    backbone.tokenizer.save_pretrained(path)
    return str(path)


def kinds(model: object) -> list[type]:
    return [type(m) for m in model]  # type: ignore[attr-defined]


def test_registered() -> None:
    assert MODELS.get("dense") is DenseModel and MODELS.get("SentenceTransformer") is DenseModel


def test_defaults(bare: str) -> None:
    model = DenseModel(bare).build()
    assert kinds(model) == [Transformer, Pooling]
    assert model.dtype == torch.float32, "weights are float32 although the checkpoint is half"
    assert model.encoder.layout_reason is None


def test_stack(bare: str, tmp_path: Path) -> None:
    heads = (DenseHead(out_features=16), DenseHead(out_features=8, activation="Identity", residual=True, bias=False))
    config = DenseModel(
        bare, pooling=("cls", "max"), dense=heads, layer_norm=True, embedding_dropout=0.2, normalize=True, include_prompt=False
    )
    model = config.build()
    assert kinds(model) == [Transformer, Pooling, Dense, Dense, LayerNorm, Dropout, Normalize]
    assert model[1].modes == ("cls", "max") and not model[1].include_prompt
    assert (model[2].in_features, model[3].in_features, model[3].use_residual) == (64, 16, True)
    assert model.get_embedding_dimension() == 8
    model.save_pretrained(tmp_path)
    assert kinds(DenseModel(str(tmp_path)).build()) == kinds(model), "what is stored is kept"
    grown = DenseModel(str(tmp_path), dense=(DenseHead(out_features=4),), normalize=False).build()
    assert kinds(grown) == [Transformer, Pooling, Dense, Dense, LayerNorm, Dropout, Dense]
    assert kinds(DenseModel(str(tmp_path), pooling="mean").build()) == [Transformer, Pooling]


def test_dropout_and_length_and_settings(bare: str) -> None:
    model = DenseModel(
        bare, hidden_dropout=0.25, attention_dropout=0.0, max_seq_length=17, similarity="dot", truncate_dim=5, prompts={"query": "query : "}
    ).build()
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25, 0.0}
    assert model.max_seq_length == 17 and model.similarity_fn_name == "dot" and model.truncate_dim == 5
    assert model.prompts["query"] == "query : "


def test_a_dropout_that_the_backbone_lacks_is_refused(tmp_path: Path) -> None:
    backbone = make_backbone("qwen3")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    assert DenseModel(str(tmp_path), attention_dropout=0.3).build()[0].model.config.attention_dropout == 0.3
    with pytest.raises(ConfigError, match=r"model\.hidden_dropout: qwen3 has no such dropout"):
        DenseModel(str(tmp_path), hidden_dropout=0.3).build()


def test_layout_keys(bare: str) -> None:
    assert DenseModel(bare, layout="padded").build().encoder.layout == "padded"
    packed = DenseModel(bare, layout="packed").build().encoder
    assert packed.layout == "packed" and packed.layout_reason is not None
    eager = DenseModel(bare, attn="eager").build()
    assert eager.encoder.layout == "padded" and eager[0].model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match=r"model\.layout"):
        DenseModel(bare, layout="packed", attn="eager").build()


def test_only_used_parameters_are_trainable(bare: str) -> None:
    model = DenseModel(bare, normalize=True).build().train()
    from tests.models.tiny import make_tokens

    model(make_tokens([5, 9])).values[:, 0].sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "a parameter without gradient makes distributed training wait for ever"


def test_new_layers_follow_the_global_seed(bare: str) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(DenseModel(bare, dense=(DenseHead(out_features=4),)).build()[2].linear.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
