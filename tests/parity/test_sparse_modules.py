"""Modules of sparse models against those of sentence-transformers 6.2: folders in both directions, outputs, losses.

Where the two differ on purpose, the test says how: a padding token written in a text, and when a latent is dead.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Dense as STDense
from sentence_transformers.base.modules import Normalize as STNormalize
from sentence_transformers.base.modules import Router as STRouter
from sentence_transformers.base.modules import Transformer as STTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as STPooling
from sentence_transformers.sparse_encoder import losses as STLosses
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder as STSparseAutoEncoder
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding as STSparseStaticEmbedding
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.losses import CSRLoss, SparseMultipleNegativesRankingLoss
from stpipe.models.encoder import Encoder
from stpipe.models.format import Settings, read_modules, write_model
from stpipe.models.modules import Module, Pooling
from stpipe.models.modules.router import Router
from stpipe.models.modules.sparse_auto_encoder import OUTPUTS, SparseAutoEncoder
from stpipe.models.modules.sparse_static_embedding import SparseStaticEmbedding
from tests.losses.cases import rep_batch
from tests.models.test_router import encode, make_router, read_module
from tests.models.test_sparse_static_embedding import features_of
from tests.models.tiny import CONFIGS, VOCAB, make_backbone, make_texts, make_tokenizer

WORDS = len(VOCAB)
TEXTS = ["w1 w2 w1", "w2 unheard-of words", " ".join(["w4"] * 80 + ["w5"]), *make_texts(5, seed=1)]
WIDTH = 16


# --- SparseStaticEmbedding ------------------------------------------------------------------------------------------------


def st_static(*, frozen: bool = False) -> STSparseStaticEmbedding:
    return STSparseStaticEmbedding(make_tokenizer(), weight=torch.rand(WORDS, generator=torch.Generator().manual_seed(0)), frozen=frozen)


def st_encode(module: Any, texts: list[str], **kwargs: Any) -> Tensor:
    with torch.no_grad():
        return module(module.preprocess(texts, **kwargs))["sentence_embedding"]


@pytest.mark.parametrize("frozen", [False, True])
def test_static_embedding_of_theirs_is_read(tmp_path: Path, frozen: bool) -> None:
    theirs = st_static(frozen=frozen)
    theirs.save(str(tmp_path))
    ours = SparseStaticEmbedding.load(tmp_path)
    expected = st_encode(theirs, TEXTS)
    assert expected.count_nonzero() > 20 and not expected[2, VOCAB["w5"]]  # cut at the limit
    torch.testing.assert_close(encode(ours, tokens(TEXTS), None), expected, rtol=0, atol=1e-6)
    assert ours.frozen is frozen and ours.weight.requires_grad is theirs.weight.requires_grad is not frozen


def tokens(texts: list[str]) -> Tokens:
    return Tokens.from_lists(tokenize(make_tokenizer(), texts, special_tokens=False))


@pytest.mark.parametrize("frozen", [False, True])
def test_static_embedding_of_ours_is_read(tmp_path: Path, frozen: bool) -> None:
    ours = SparseStaticEmbedding(make_tokenizer(), weight=torch.rand(WORDS), frozen=frozen)
    ours.save(tmp_path)
    theirs = STSparseStaticEmbedding.load(str(tmp_path))
    found = st_encode(theirs, TEXTS)
    assert found.count_nonzero() > 20 and theirs.frozen is frozen
    torch.testing.assert_close(found, encode(ours, tokens(TEXTS), None), rtol=0, atol=1e-6)


def test_static_embedding_gradient(tmp_path: Path) -> None:
    theirs = st_static()
    theirs.save(str(tmp_path))
    ours = SparseStaticEmbedding.load(tmp_path)
    up = torch.randn(len(TEXTS), WORDS)
    (theirs(theirs.preprocess(TEXTS))["sentence_embedding"] * up).sum().backward()
    (ours(features_of(TEXTS))["sentence_embedding"] * up).sum().backward()
    assert ours.weight.grad is not None and theirs.weight.grad is not None and theirs.weight.grad.abs().max() > 0.1
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-5, atol=1e-6)


def test_static_embedding_from_a_file_of_words(tmp_path: Path) -> None:
    file = tmp_path / "idf.json"
    file.write_text(json.dumps({f"w{i}": 0.5 + i for i in range(40)}))
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"path": "idf.json", "frozen": True}))
    theirs = STSparseStaticEmbedding.from_json(str(file), make_tokenizer(), frozen=True)
    ours = SparseStaticEmbedding.load(tmp_path)
    assert ours.weight.any() and ours.frozen
    assert torch.equal(ours.weight, theirs.weight)


def test_a_padding_token_in_a_text_depends_on_its_neighbours_there() -> None:
    theirs, texts = st_static(), ["w5 [PAD]", "w1 w2 w3 w4 w5"]
    ours = SparseStaticEmbedding(make_tokenizer(), weight=theirs.weight)
    pad = VOCAB["[PAD]"]
    assert st_encode(theirs, texts)[0, pad] == 0 and st_encode(theirs, texts[:1])[0, pad] == theirs.weight[pad] != 0
    assert encode(ours, tokens(texts), None)[0, pad] == encode(ours, tokens(texts[:1]), None)[0, pad] == theirs.weight[pad]


# --- Router -----------------------------------------------------------------------------------------------------------------


def st_router(folder: Path, **options: Any) -> STRouter:
    """Static queries, documents through a small BERT."""
    torch.manual_seed(3)
    hf.BertModel(CONFIGS["bert"]()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    document = [STTransformer(str(folder)), STPooling(32), STDense(32, WORDS, activation_function=torch.nn.ReLU())]
    return STRouter.for_query_document([st_static()], document, **options).eval()


def compare_routes(ours: Router, theirs: STRouter) -> None:
    for route in ("query", "document", None):
        entry = ours.input_of(route)
        ids = Tokens.from_lists(tokenize(entry.tokenizer, TEXTS, special_tokens=entry.special_tokens))
        expected = st_encode(theirs, TEXTS, task=route)
        assert expected.shape == (len(TEXTS), WORDS) and expected.count_nonzero() > 20
        torch.testing.assert_close(encode(ours.eval(), ids, route), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"default_route": "query"}, {"default_route": None}])
def test_router_of_theirs_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = st_router(tmp_path / "bert", **options)
    theirs.save(str(tmp_path))
    ours = Router.read(tmp_path, read_module=read_module)
    assert ours.default_route == theirs.default_route and ours.allow_empty_key
    assert list(ours.routes) == ["query", "document"]
    compare_routes(ours, theirs)


def test_router_of_ours_is_read(tmp_path: Path) -> None:
    ours = make_router()
    ours.save(tmp_path)
    theirs = STRouter.load(str(tmp_path))
    compare_routes(ours, theirs.eval())


def test_the_same_files_are_written(tmp_path: Path) -> None:
    theirs = st_router(tmp_path / "bert")
    theirs.save(str(tmp_path / "a"))
    Router.read(tmp_path / "a", read_module=read_module).save(tmp_path / "b")
    a, b = ((tmp_path / name / "router_config.json").read_text() for name in "ab")
    assert a == b and "query_0_SparseStaticEmbedding" in a
    for name in ("query_0_SparseStaticEmbedding", "document_1_Pooling", "document_2_Dense"):
        a, b = (json.loads((tmp_path / side / name / "config.json").read_text()) for side in "ab")
        assert a == b and a


def test_mappings_and_shared_modules_both_ways(tmp_path: Path) -> None:
    shared = st_static()
    mappings = {("question", None): "q", (None, "text"): "d", (None, ("text", "image")): "q"}
    routes = {"q": [shared, STNormalize()], "d": [shared]}
    theirs = STRouter(routes, default_route="d", allow_empty_key=False, route_mappings=mappings)  # type: ignore[arg-type]
    theirs.save(str(tmp_path / "a"))
    ours = Router.read(tmp_path / "a", read_module=read_module)
    assert ours.route_mappings == theirs.route_mappings and not ours.allow_empty_key
    assert ours.modules_of("q")[0] is ours.modules_of("d")[0]
    ours.save(tmp_path / "b")
    assert (tmp_path / "b/router_config.json").read_text() == (tmp_path / "a/router_config.json").read_text()
    back = STRouter.load(str(tmp_path / "b"))
    assert back.route_mappings == theirs.route_mappings and back.sub_modules["q"][0] is back.sub_modules["d"][0]
    for task in ("question", "q", "d", None):
        assert ours.resolve(task) == theirs._resolve_route(task=task, modality="text")
    norms = [float(st_encode(theirs, TEXTS, task=task).norm(dim=-1).max()) for task in ("question", None)]
    assert norms[0] == pytest.approx(1) and norms[1] > 1.1
    for task in ("question", None):
        torch.testing.assert_close(encode(ours, tokens(TEXTS), task), st_encode(theirs, TEXTS, task=task), rtol=1e-5, atol=1e-6)


def test_routes_of_a_task_are_found_alike() -> None:
    """Every combination of mappings and routes over a small set of names."""
    keys = [("query", "text"), ("query", None), (None, "text"), (None, None), ("query", "image")]
    seen: Counter[str | None] = Counter()
    for routes in (("a", "b"), ("query", "b"), ("text", "a"), ("query", "text")):
        for chosen in range(2 ** len(keys)):
            mappings = {key: routes[i % 2] for i, key in enumerate(keys) if chosen >> i & 1}
            for default in (None, routes[1]):
                theirs = STRouter({r: [STNormalize()] for r in routes}, default_route=default, route_mappings=mappings)
                ours = Router({r: [Module()] for r in routes}, default_route=default, route_mappings=mappings)
                for task in ("query", None, "elsewhere"):
                    found = resolved(ours.resolve, task)
                    assert found == resolved(partial(theirs._resolve_route, modality="text"), task)
                    seen[found] += 1
    assert seen.total() > 500 and len(seen) == 5 and None in seen


def resolved(function: Any, task: str | None) -> str | None:
    try:
        return function(task)
    except (ConfigError, ValueError):
        return None


# --- SparseAutoEncoder and CSR ------------------------------------------------------------------------------------------------

SETTINGS = {"hidden_dim": 48, "k": 4, "k_aux": 6}
NAMES = {
    "sentence_embedding": "sentence_embedding",
    "sae_input": "sentence_embedding_backbone",
    "sae_k": "decoded_embedding_k",
    "sae_4k": "decoded_embedding_4k",
    "sae_aux": "decoded_embedding_aux",
}
ROLES = ("anchor", "positive", "negative_1")


def st_auto_encoder(*, dead: bool = True, **changes: Any) -> STSparseAutoEncoder:
    """Evaluation mode, in which its counters stand still."""
    torch.manual_seed(4)
    module = STSparseAutoEncoder(WIDTH, **{**SETTINGS, **changes}).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        module.stats_last_nonzero[::2] = 40 if dead else 0
    return module


def dense(role: str, *, rows: int = 10) -> Tensor:
    g = torch.Generator().manual_seed(ROLES.index(role))
    return torch.randn(rows, WIDTH, generator=g).requires_grad_()


def ours_from(theirs: STSparseAutoEncoder, folder: Path) -> SparseAutoEncoder:
    theirs.save(str(folder))
    return SparseAutoEncoder.load(folder).eval()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dead", [False, True])
def test_auto_encoder_of_theirs_is_read(tmp_path: Path, normalize: bool, dead: bool) -> None:
    tmp_path.mkdir(exist_ok=True)
    theirs = st_auto_encoder(normalize=normalize, dead=dead)
    ours = ours_from(theirs, tmp_path)
    x = dense("anchor")
    found, expected = ours({"sentence_embedding": x, "outputs": OUTPUTS}), theirs({"sentence_embedding": x})
    for name, other in NAMES.items():
        assert expected[other].abs().max() > 0.1
        torch.testing.assert_close(found[name], expected[other], rtol=1e-6, atol=1e-6, msg=name)
    residual = x - expected["decoded_embedding_k_pre_bias"]
    torch.testing.assert_close(found["sae_aux_target"], residual, rtol=1e-6, atol=1e-6)
    k = {"max_active_dims": 7}
    found, expected = ours({"sentence_embedding": x, **k}), theirs({"sentence_embedding": x}, **k)
    torch.testing.assert_close(found["sentence_embedding"], expected["sentence_embedding"], rtol=1e-6, atol=1e-6)
    assert (found["sentence_embedding"] > 0).sum(-1).max() == 7


@pytest.mark.parametrize("safe", [True, False])
def test_auto_encoder_in_either_file(tmp_path: Path, safe: bool) -> None:
    theirs = st_auto_encoder()
    theirs.save(str(tmp_path), safe_serialization=safe)
    assert (tmp_path / ("model.safetensors" if safe else "pytorch_model.bin")).exists()
    ours = SparseAutoEncoder.load(tmp_path)
    assert torch.equal(ours.weight, theirs.encoder.weight) and torch.equal(ours.stats_last_nonzero, theirs.stats_last_nonzero)


@pytest.mark.parametrize("normalize", [False, True])
def test_auto_encoder_of_ours_is_read(tmp_path: Path, normalize: bool) -> None:
    torch.manual_seed(0)
    ours = SparseAutoEncoder(WIDTH, **SETTINGS, normalize=normalize, dead_threshold=9).eval()
    torch.nn.init.normal_(ours.pre_bias)
    ours.stats_last_nonzero[::3] = 10
    ours.save(tmp_path)
    theirs = STSparseAutoEncoder.load(str(tmp_path)).eval()
    assert theirs.dead_threshold == 9 and theirs.decoder.linear.weight is theirs.encoder.weight
    assert torch.equal(theirs.stats_last_nonzero, ours.stats_last_nonzero)
    x = dense("anchor")
    found, expected = theirs({"sentence_embedding": x}), ours({"sentence_embedding": x, "outputs": OUTPUTS})
    for name, other in NAMES.items():
        assert expected[name].abs().max() > 0.1
        torch.testing.assert_close(found[other], expected[name], rtol=1e-6, atol=1e-6, msg=name)


def csr_of_ours(module: SparseAutoEncoder, loss: CSRLoss, roles: tuple[str, ...]) -> list[Tensor]:
    """Value, then gradients of the dense embeddings and of the parameters."""
    inputs, values = {role: dense(role) for role in roles}, {}
    for role, x in inputs.items():
        out = module({"sentence_embedding": x, "outputs": OUTPUTS})
        values |= {role: out["sentence_embedding"], **{f"{role}/{name}": out[name] for name in OUTPUTS}}
    value = loss(rep_batch(values, Targets()), StepContext()).mean
    parameters = [module.weight, module.pre_bias, module.latent_bias]
    return [value.detach(), *torch.autograd.grad(value, [*inputs.values(), *parameters])]


def csr_of_theirs(module: STSparseAutoEncoder, roles: tuple[str, ...], **weights: float) -> list[Tensor]:
    inputs = {role: dense(role) for role in roles}
    loss = STLosses.CSRLoss(module, loss=STLosses.SparseMultipleNegativesRankingLoss(module), **weights)  # type: ignore[arg-type]
    value = torch.stack(list(loss([{"sentence_embedding": x} for x in inputs.values()]).values())).sum()
    parameters = [module.encoder.weight, module.pre_bias, module.latent_bias]
    return [value.detach(), *torch.autograd.grad(value, [*inputs.values(), *parameters])]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("roles", [ROLES[:2], ROLES])
@pytest.mark.parametrize("weights", [{}, {"beta": 1.5, "gamma": 0.3}])
def test_csr_value_and_gradients(tmp_path: Path, normalize: bool, dead: bool, roles: tuple[str, ...], weights: dict[str, float]) -> None:
    theirs = st_auto_encoder(normalize=normalize, dead=dead)
    expected = csr_of_theirs(theirs, roles, **weights)
    loss = CSRLoss(loss=SparseMultipleNegativesRankingLoss(), **weights)
    found = csr_of_ours(ours_from(theirs, tmp_path), loss, roles)
    assert expected[0] > 0.1
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert b.abs().max() > 1e-3
        assert (a - b).abs().max() <= 1e-5 * max(float(b.abs().max()), 1.0)


def test_without_auxiliary_latents(tmp_path: Path) -> None:
    theirs = st_auto_encoder(k_aux=0)
    expected = csr_of_theirs(theirs, ROLES)
    found = csr_of_ours(ours_from(theirs, tmp_path), CSRLoss(), ROLES)
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_step_of_two_roles_counts_once_here_and_four_times_there(tmp_path: Path) -> None:
    """Their counter moves in the forwards for k and for 4 k, once a role; a threshold of 30 is about 8 of their steps."""
    theirs = st_auto_encoder(dead=False)
    with torch.no_grad():
        theirs.latent_bias[:5] = -1e3  # these never fire
    ours = ours_from(theirs, tmp_path).train()
    theirs.train()
    assert not ours.stats_last_nonzero.any()
    for role in ROLES[:2]:
        theirs({"sentence_embedding": dense(role)})
        ours({"sentence_embedding": dense(role), "outputs": OUTPUTS})
    ours.advance()
    assert theirs.stats_last_nonzero[:5].tolist() == [4] * 5 and ours.stats_last_nonzero[:5].tolist() == [1] * 5


# --- whole directories --------------------------------------------------------------------------------------------------------


def test_a_directory_with_routes_is_read_by_both(tmp_path: Path) -> None:
    router = make_router()
    write_model(tmp_path / "a", modules=[router], settings=Settings(model_type="SparseEncoder", similarity="dot"))
    theirs = SparseEncoder(str(tmp_path / "a"), device="cpu")
    encoders = {"query": theirs.encode_query, "document": theirs.encode_document}
    theirs.save_pretrained(str(tmp_path / "b"))
    back = Encoder(read_modules(tmp_path / "b")).eval()
    assert back.routes == ("query", "document")
    for route, function in encoders.items():
        entry = router.input_of(route)
        ids = Tokens.from_lists(tokenize(entry.tokenizer, TEXTS, special_tokens=entry.special_tokens))
        expected = encode(router, ids, route)
        assert expected.count_nonzero() > 20
        torch.testing.assert_close(function(TEXTS).to_dense(), expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(back(ids, route=route).values, expected, rtol=1e-5, atol=1e-6)


def test_a_directory_with_an_auto_encoder_is_read_by_both(tmp_path: Path) -> None:
    backbone = make_backbone("bert")
    encoder = Encoder([backbone, Pooling(32), SparseAutoEncoder(32, hidden_dim=128, k=8, k_aux=16)]).eval()
    write_model(tmp_path / "a", modules=list(encoder.stack), settings=Settings(model_type="SparseEncoder", similarity="dot"))  # type: ignore[arg-type]
    theirs = SparseEncoder(str(tmp_path / "a"), device="cpu")
    assert theirs.max_active_dims == 8
    theirs.save_pretrained(str(tmp_path / "b"))
    back = Encoder(read_modules(tmp_path / "b")).eval()
    ids = Tokens.from_lists(tokenize(backbone.tokenizer, TEXTS))
    with torch.no_grad():
        expected, again = encoder(ids).values, back(ids).values
    assert 0 < expected.count_nonzero(dim=-1).max() <= 8
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs.encode(TEXTS).to_dense(), expected, rtol=1e-5, atol=1e-6)
