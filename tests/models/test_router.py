"""Routes: which modules a text goes through, and router_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.models import format as model_format
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Dense, Module, Normalize, Pooling
from stpipe.models.modules.router import Router
from stpipe.models.modules.sparse_static_embedding import SparseStaticEmbedding
from tests.models.tiny import VOCAB, make_backbone, make_texts, make_tokenizer

WORDS = len(VOCAB)
TEXTS = make_texts(5, seed=3)


def static(*, seed: int = 0) -> SparseStaticEmbedding:
    weight = torch.rand(WORDS, generator=torch.Generator().manual_seed(seed))
    return SparseStaticEmbedding(make_tokenizer(), weight=weight)


def document_modules() -> list[Module]:
    torch.manual_seed(1)
    return [make_backbone("bert"), Pooling(32), Dense(32, out_features=WORDS, activation="torch.nn.ReLU")]


def make_router(**options: Any) -> Router:
    return Router.for_query_document([static()], document_modules(), **options).eval()


def tokens_of(router: Router, route: str | None) -> Tokens:
    entry = router.input_of(route)
    return Tokens.from_lists(tokenize(entry.tokenizer, TEXTS, special_tokens=entry.special_tokens))


def encode(module: Module, tokens: Tokens, route: str | None) -> torch.Tensor:
    with torch.no_grad():
        return module({"input_ids": tokens.ids, "lengths": tokens.lengths, "route": route})["sentence_embedding"]


def read_module(type_name: str, folder: Path) -> Module:
    return model_format.read_module(type_name, folder, model_format.LoadOptions())


def test_each_text_goes_its_way() -> None:
    query, documents = static(), document_modules()
    router = Router.for_query_document([query], documents).eval()
    found = {route: encode(router, tokens_of(router, route), route) for route in ("query", "document", None)}
    assert torch.equal(found["query"], encode(query, tokens_of(router, "query"), None))
    with torch.no_grad():
        expected = Encoder(documents).eval()(tokens_of(router, "document")).values
    torch.testing.assert_close(found["document"], expected)
    assert torch.equal(found[None], found["document"])  # the default
    assert found["query"].any() and found["document"].any() and not torch.equal(found["query"], found["document"])


def test_features_are_left_alone_and_carried_through() -> None:
    router = make_router()
    tokens = tokens_of(router, "query")
    features = {"input_ids": tokens.ids, "lengths": tokens.lengths, "route": "query", "outputs": frozenset({"x"})}
    before = dict(features)
    out = router(features)
    assert features == before and out["outputs"] == before["outputs"] and out is not features


def test_an_encoder_with_routes() -> None:
    router = make_router()
    encoder = Encoder([router, Normalize()]).eval()
    assert encoder.routes == ("query", "document") and encoder.embedding_dim == WORDS
    assert encoder.route_of("anchor") == "query" and encoder.route_of("negative_1") == "document"
    assert not encoder.input_of("query").special_tokens and encoder.input_of("document").special_tokens
    assert [type(m).__name__ for m in encoder.path_of("query")] == ["SparseStaticEmbedding", "Normalize"]
    assert [type(m).__name__ for m in encoder.path_of(None)] == ["Transformer", "Pooling", "Dense", "Normalize"]
    rep = encoder(tokens_of(router, "query"), route="query")
    torch.testing.assert_close(rep.values.norm(dim=-1), torch.ones(len(TEXTS)))
    rep.values[0, VOCAB["w1"] :].sum().backward()
    touched = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert touched == {"stack.0.routes.query.0.weight"}


def test_which_route_a_task_takes() -> None:
    routes = {"a": [static()], "text": [static()], "c": [static()]}
    cases: list[tuple[dict[Any, str], str | None, str]] = [
        ({}, "a", "a"),
        ({}, None, "text"),
        ({("query", "text"): "c", ("query", None): "a"}, "query", "c"),
        ({("query", "image"): "c", ("query", None): "a"}, "query", "a"),
        ({("query", "image"): "c"}, "query", "text"),
        ({(None, "text"): "c"}, "a", "c"),
        ({(None, None): "c"}, "a", "c"),
        ({(None, None): "c", (None, "text"): "a"}, None, "a"),
    ]
    for mappings, task, expected in cases:
        assert Router(routes, route_mappings=mappings).resolve(task) == expected, (mappings, task)
    mapped = Router({"a": [static()]}, route_mappings={("query", None): "a"})
    assert mapped.route_names == ("a", "query") and mapped.input_of("query") is mapped.input_of("a")


def test_defaults() -> None:
    two: dict[str, list[Module]] = {"x": [static()], "y": [static(seed=1)]}
    assert Router(two).default_route == "x"
    assert Router(two, default_route="y").resolve(None) == "y"
    strict = Router(two, allow_empty_key=False)
    assert strict.default_route is None
    with pytest.raises(ConfigError, match="no default route; say which way the texts go .x, y."):
        encode(strict, tokens_of(strict, "x"), None)
    assert strict.input_of(None) is strict.input_of("x") and strict.tokenizer is strict.input_of("x").tokenizer
    with pytest.raises(ConfigError, match="unknown route 'quarry'"):
        make_router().resolve("quarry")


def test_what_cannot_be_a_router() -> None:
    with pytest.raises(ConfigError, match="at least one route"):
        Router({})
    with pytest.raises(ConfigError, match="route 'a' of the Router has no modules"):
        Router({"a": []})
    with pytest.raises(ConfigError, match=r"'a\.b' cannot name a route"):
        Router({"a.b": [static()]})
    with pytest.raises(ConfigError, match="unknown route 'b'"):
        Router({"a": [static()]}, default_route="b")
    with pytest.raises(ConfigError, match="unknown route 'b'"):
        Router({"a": [static()]}, route_mappings={("query", None): "b"})
    with pytest.raises(ConfigError, match=r"different widths \(query 101, document 32\)"):
        Router.for_query_document([static()], [make_backbone("bert"), Pooling(32)]).output_dim()
    with pytest.raises(ConfigError, match="begins with Normalize, which takes no tokens"):
        Router.for_query_document([Normalize()], document_modules()).input_of("query")


def test_on_disk(tmp_path: Path) -> None:
    router = make_router()
    router.save(tmp_path)
    stored = json.loads((tmp_path / "router_config.json").read_text())
    assert list(stored) == ["types", "structure", "parameters"]
    assert stored["structure"] == {
        "query": ["query_0_SparseStaticEmbedding"],
        "document": ["document_0_Transformer", "document_1_Pooling", "document_2_Dense"],
    }
    assert stored["types"]["document_0_Transformer"] == "sentence_transformers.base.modules.transformer.Transformer"
    assert stored["parameters"] == {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    loaded = Router.read(tmp_path, read_module=read_module).eval()
    for route in ("query", "document"):
        expected = encode(router, tokens_of(router, route), route)
        assert torch.equal(encode(loaded, tokens_of(loaded, route), route), expected) and expected.any()


def test_a_shared_module_is_stored_once_and_read_as_one(tmp_path: Path) -> None:
    shared, last = static(), Dense(WORDS, out_features=4)
    router = Router({"q": [shared, Dense(WORDS, out_features=4)], "d": [shared, last], "e": [shared, last]}, default_route="d")
    router.save(tmp_path)
    stored = json.loads((tmp_path / "router_config.json").read_text())
    assert stored["structure"]["e"] == ["q_0_SparseStaticEmbedding", "d_1_Dense"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["d_1_Dense", "q_0_SparseStaticEmbedding", "q_1_Dense"]
    loaded = Router.read(tmp_path, read_module=read_module)
    assert loaded.modules_of("q")[0] is loaded.modules_of("d")[0] is loaded.modules_of("e")[0]
    assert loaded.modules_of("d")[1] is loaded.modules_of("e")[1] is not loaded.modules_of("q")[1]
    assert sum(p.numel() for p in loaded.parameters()) == WORDS + 2 * (4 * WORDS + 4)


def test_mappings_are_kept(tmp_path: Path) -> None:
    mappings = {("query", None): "a", (None, ("text", "image")): "b"}
    Router({"a": [static()], "b": [static()]}, route_mappings=mappings).save(tmp_path)
    stored = json.loads((tmp_path / "router_config.json").read_text())["parameters"]["route_mappings"]
    assert stored == {"('query', None)": "a", "(None, ('image', 'text'))": "b"}
    assert Router.read(tmp_path, read_module=read_module).route_mappings == {("query", None): "a", (None, ("image", "text")): "b"}


def test_old_forms_are_read(tmp_path: Path) -> None:
    """As Asym and early versions of Router wrote it: config.json, no mappings, no default."""
    router = make_router()
    router.save(tmp_path)
    stored = json.loads((tmp_path / "router_config.json").read_text())
    (tmp_path / "router_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**stored, "parameters": {"allow_empty_key": True}}))
    loaded = Router.read(tmp_path, read_module=read_module)
    assert loaded.default_route == "query" and loaded.route_mappings == {}


def test_broken_directories(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs router_config\.json"):
        Router.read(tmp_path, read_module=read_module)
    file = tmp_path / "router_config.json"

    def read(types: Any, structure: Any, parameters: Any) -> nn.Module:
        file.write_text(json.dumps({"types": types, "structure": structure, "parameters": parameters}))
        return Router.read(tmp_path, read_module=read_module)

    kind = SparseStaticEmbedding.type_name
    with pytest.raises(ConfigError, match="structure names b, but types does not say"):
        read({"a": kind}, {"q": ["a", "b"]}, {})
    for name in ("../a", "/a", "..\\a", "C:/a", ""):
        with pytest.raises(ConfigError, match="leaves the model directory"):
            read({name: kind}, {"q": [name]}, {})
    static().save(tmp_path / "a")
    with pytest.raises(ConfigError, match="no pair of task and modality"):
        read({"a": kind}, {"q": ["a"]}, {"route_mappings": {"query": "q"}})
    assert read({"a": kind}, {"q": ["a"]}, {"route_mappings": {"('query', None)": "q"}})
    file.write_text("{")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        Router.read(tmp_path, read_module=read_module)
