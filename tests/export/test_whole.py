"""The graph of a whole model on padded texts, before any exporter sees it, against what the model itself gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.core.tokenize import prompt_length, tokenize
from stpipe.core.tokens import Tokens
from stpipe.export.whole import whole_graph
from stpipe.models import CrossEncoder, SentenceTransformer, SparseEncoder
from stpipe.models.modules import (
    CausalLanguageModel,
    Dense,
    LayerNorm,
    LogitScore,
    Module,
    Normalize,
    Pooling,
    Router,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
    StaticEmbedding,
)
from stpipe.models.modules.pooling import MODES
from tests.export.small import cross_encoder, dense, some_inputs
from tests.models.tiny import make_backbone, make_tokenizer
from tests.models.tiny_scores import causal_lm
from tests.models.tiny_splade import make_splade, splade_model

TOLERANCE = 5e-6


def padded(graph: Any, inputs: tuple[str, ...], tokens: Tokens, skip: int = 0) -> torch.Tensor:
    """What the graph gives for tokens, padded on the right by 3 more than needed."""
    ids, mask = tokens.padded(0)
    ids, mask = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(mask, (0, 3)).long()
    types = torch.zeros_like(ids)
    if tokens.type_ids is not None:
        types[mask.bool()] = tokens.type_ids
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "prompt_lengths": torch.full((len(tokens),), skip)}
    with torch.no_grad():
        found: torch.Tensor = graph(**{name: given[name] for name in inputs})
    return found


def embeddings(model: Any, texts: list[str], *, prompt: str = "", route: str | None = None) -> torch.Tensor:
    """Embeddings by the whole graph."""
    entry = model.encoder.input_of(route)
    ids = tokenize(entry.tokenizer, texts, prompt=prompt, special_tokens=entry.special_tokens)
    graph, inputs = whole_graph(model, route)
    return padded(graph, inputs, Tokens.from_lists(ids), prompt_length(entry.tokenizer, prompt))


def compare(model: Any, *, prompt: str = "", route: str | None = None) -> None:
    texts = some_inputs("dense")
    options = {} if route is None else {"task": route}
    wanted = model.encode(texts, prompt=prompt, convert_to_tensor=True, **options)
    wanted = wanted.to_dense() if wanted.layout != torch.strided else wanted
    found = embeddings(model, texts, prompt=prompt, route=route)
    assert found.shape == wanted.shape and wanted.abs().max() > 0.05
    assert (found - wanted).abs().max() <= TOLERANCE * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("include_prompt", [True, False], ids=["whole", "without prompt"])
@pytest.mark.parametrize("mode", MODES)
def test_poolings(mode: str, include_prompt: bool) -> None:
    model = dense(mode=mode, include_prompt=include_prompt)
    compare(model)
    compare(model, prompt="query : ")
    _, inputs = whole_graph(model, None)
    assert ("prompt_lengths" in inputs) == (not include_prompt)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "modernbert", "mpnet", "deberta", "qwen3"])
def test_families(family: str) -> None:
    compare(dense(family=family) if family not in ("distilbert", "qwen3") else stack(Pooling(32, mode="lasttoken"), family=family))


def stack(*heads: Module, family: str = "bert") -> SentenceTransformer:
    return SentenceTransformer(modules=[make_backbone(family), *heads], device="cpu")


def test_heads_and_truncation() -> None:
    torch.manual_seed(0)
    model = stack(Pooling(32, mode=["cls", "max"]), Dense(64, out_features=24), LayerNorm(24), Normalize())
    compare(model)
    cut = SentenceTransformer(modules=list(model), device="cpu", truncate_dim=10)
    compare(cut)
    assert embeddings(cut, ["a b"]).shape == (1, 10)


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_splade(pooling: str, activation: str) -> None:
    compare(SparseEncoder(modules=list(make_splade(pooling=pooling, activation=activation).stack), device="cpu"))  # type: ignore[arg-type]


def test_splade_with_a_head_that_stays_whole_and_with_fewer_words() -> None:
    model = splade_model("mpnet")
    compare(model)
    model.max_active_dims = 7
    compare(model)
    assert int((embeddings(model, ["w1 w2 w3"]) != 0).sum()) <= 7


def test_sparse_autoencoder() -> None:
    torch.manual_seed(0)
    coder = SparseAutoEncoder(32, hidden_dim=64, k=6, k_aux=8)
    torch.nn.init.normal_(coder.weight)
    compare(SparseEncoder(modules=[make_backbone("bert"), Pooling(32), coder], device="cpu"))


def test_static_embedding() -> None:
    tokenizer = make_tokenizer()
    weight = torch.randn(len(tokenizer), 12, generator=torch.Generator().manual_seed(0))
    compare(SentenceTransformer(modules=[StaticEmbedding(tokenizer, weight=weight), Normalize()], device="cpu"))


def test_routes_have_graphs_of_their_own() -> None:
    tokenizer = make_tokenizer()
    lookup = SparseStaticEmbedding(tokenizer, weight=torch.rand(len(tokenizer)) + 0.1)
    splade = list(make_splade().stack)
    model = SparseEncoder(modules=[Router.for_query_document([lookup], splade)], device="cpu")  # type: ignore[arg-type]
    compare(model, route="query")
    compare(model, route="document")


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "modernbert-mean"])
def test_cross_encoders(family: str, num_labels: int) -> None:
    compare_scores(cross_encoder(family=family, num_labels=num_labels))


def test_language_model_that_is_asked() -> None:
    entry = CausalLanguageModel(causal_lm("qwen3"), tokenizer=make_tokenizer())
    compare_scores(CrossEncoder(modules=[entry, LogitScore(7, false_token_id=9)], device="cpu"))


def compare_scores(model: CrossEncoder) -> None:
    pairs = some_inputs("cross_encoder")
    wanted = model.predict(pairs, convert_to_tensor=True)
    graph, inputs = whole_graph(model, None)
    found = padded(graph, inputs, model.pair_tokens(pairs))
    assert found.shape == wanted.shape and wanted.std() > 1e-3
    assert (found - wanted).abs().max() <= TOLERANCE
    raw = model.predict(pairs, convert_to_tensor=True, activation_fn=torch.nn.Identity())
    assert model.num_labels > 1 or (found - raw).abs().max() > 1e-2  # the activation is inside


def test_unknown_modules_are_refused() -> None:
    class Own(SpladePooling):
        """A user's module."""

    with pytest.raises(ConfigError, match="Own cannot be part of a self-contained graph"):
        whole_graph(SparseEncoder(modules=[*list(splade_model())[:1], Own()], device="cpu"), None)
