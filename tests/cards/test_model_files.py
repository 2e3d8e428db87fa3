"""A model directory is understood without loading it, in new and old forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stpipe.cards.model_files import read_model


def write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return directory


def modules(*names: str) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": f"{i}_{n}" if i else "", "type": f"sentence_transformers.models.{n}"}
        for i, n in enumerate(names)
    ]


def test_the_real_model(package_model: Path) -> None:
    facts = read_model(package_model)
    assert [m.name for m in facts.stack] == ["Transformer", "Pooling", "Normalize"]
    assert facts.stack[0].settings["backbone"] == "BertModel"
    assert facts.stack[1].settings == {"pooling_mode": ["mean"]}
    assert (facts.dimension, facts.max_length, facts.similarity, facts.prompts) == (384, 256, "cosine", {})
    assert (facts.parameters, facts.dtype) == (22_713_216, "F32")


@pytest.mark.parametrize(
    ("pooling", "modes", "dimension"),
    [
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls", 8),
        ({"embedding_dimension": 8, "pooling_mode": ["cls", "mean"]}, ["cls", "mean"], 16),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ["cls", "max"], 16),
        ({"word_embedding_dimension": 8, "pooling_mode_mean_sqrt_len_tokens": True}, ["mean_sqrt_len"], 8),
        ({"word_embedding_dimension": 8}, ["mean"], 8),
    ],
)
def test_pooling_in_new_and_old_keys(tmp_path: Path, pooling: dict[str, Any], modes: Any, dimension: int) -> None:
    facts = read_model(write(tmp_path, {"modules.json": modules("Transformer", "Pooling"), "1_Pooling/config.json": pooling}))
    assert facts.stack[1].settings["pooling_mode"] == modes
    assert facts.dimension == dimension


def test_later_modules_and_truncation_set_the_dimension(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "modules.json": list(reversed(modules("Transformer", "Pooling", "Dense", "Normalize"))),
        "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean"},
        "2_Dense/config.json": {"in_features": 8, "out_features": 6, "activation_function": "torch.nn.modules.activation.Tanh"},
    }
    facts = read_model(write(tmp_path, files))
    assert [m.name for m in facts.stack] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert facts.dimension == 6
    settings = {"truncate_dim": 4, "similarity_fn_name": "dot", "prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"}
    facts = read_model(write(tmp_path, {"config_sentence_transformers.json": settings}))
    assert (facts.dimension, facts.truncate_dim, facts.similarity) == (4, 4, "dot")
    assert (facts.prompts, facts.default_prompt) == ({"query": "q: "}, "query")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 20}, "tokenizer_config.json": {"model_max_length": 30}}, 20),
        ({"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 30}}, 30),
        ({"tokenizer_config.json": {"model_max_length": int(1e30)}, "config.json": {"max_position_embeddings": 40}}, 40),
        ({}, None),
    ],
)
def test_max_length(tmp_path: Path, files: dict[str, Any], expected: int | None) -> None:
    assert read_model(write(tmp_path, files)).max_length == expected


def test_parameters_are_counted_over_all_files_without_buffers(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    save_file({"w": torch.zeros(3, 4), "position_ids": torch.arange(9)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file({"b": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "2_Dense" / "model.safetensors")
    facts = read_model(tmp_path)
    assert (facts.parameters, facts.dtype) == (17, "BF16, F32")


def test_an_empty_directory(tmp_path: Path) -> None:
    facts = read_model(tmp_path)
    assert (facts.stack, facts.dimension, facts.parameters) == ((), None, None)


def router(**parameters: Any) -> dict[str, Any]:
    """router_config.json of a model without network for queries."""
    types = {
        "query_0_SparseStaticEmbedding": "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding",
        "document_0_MLMTransformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
        "document_1_SpladePooling": "sentence_transformers.sparse_encoder.models.SpladePooling",
    }
    structure = {"query": list(types)[:1], "document": list(types)[1:]}
    return {"types": types, "structure": structure, "parameters": parameters}


SPARSE = {"config_sentence_transformers.json": {"model_type": "SparseEncoder", "similarity_fn_name": None}}
MLM = {"architectures": ["BertForMaskedLM"], "hidden_size": 8, "vocab_size": 30}


@pytest.mark.parametrize("backbone", ["Transformer", "MLMTransformer"])
@pytest.mark.parametrize(
    ("pooling", "dimension"),
    [({"embedding_dimension": 31}, 31), ({"word_embedding_dimension": 32}, 32), ({"embedding_dimension": None}, 30)],
)
def test_a_splade_model(tmp_path: Path, backbone: str, pooling: dict[str, Any], dimension: int) -> None:
    """The width may be left open; then it is the vocabulary."""
    files: dict[str, Any] = {
        **SPARSE,
        "modules.json": modules(backbone, "SpladePooling"),
        "config.json": MLM,
        "1_SpladePooling/config.json": {"pooling_strategy": "max", "activation_function": "relu", **pooling},
        "tokenizer_config.json": {"model_max_length": 20},
    }
    facts = read_model(write(tmp_path, files))
    assert (facts.kind, facts.dimension, facts.max_length, facts.similarity, facts.max_active_dims) == (
        "sparse",
        dimension,
        20,
        "dot",
        None,
    )
    assert facts.stack[0].settings["backbone"] == "BertForMaskedLM"
    assert facts.stack[1].settings == {"pooling_strategy": "max", "activation_function": "relu"}
    assert facts.routes == {}


@pytest.mark.parametrize(("module", "file"), [("Router", "router_config.json"), ("Asym", "config.json")])
@pytest.mark.parametrize("default", ["query", None])
def test_a_router_with_its_routes(tmp_path: Path, module: str, file: str, default: str | None) -> None:
    """Under its name and file of today and those of old versions; without a default route the first one is it."""
    files: dict[str, Any] = {
        **SPARSE,
        "modules.json": modules(module),
        file: router(default_route=default),
        "query_0_SparseStaticEmbedding/config.json": {"frozen": True},
        "query_0_SparseStaticEmbedding/tokenizer_config.json": {"model_max_length": 7},
        "document_0_MLMTransformer/config.json": MLM,
        "document_0_MLMTransformer/tokenizer_config.json": {"model_max_length": 12},
        "document_1_SpladePooling/config.json": {"pooling_strategy": "sum", "embedding_dimension": None},
    }
    write(tmp_path, files)
    save_file({"weight": torch.zeros(33)}, tmp_path / "query_0_SparseStaticEmbedding" / "model.safetensors")
    facts = read_model(tmp_path)
    query, document = facts.routes["query"], facts.routes["document"]
    assert [m.name for m in facts.modules] == [module, "SparseStaticEmbedding", "MLMTransformer", "SpladePooling"]
    assert (query[0].settings, query[0].width, query[0].max_length) == ({"frozen": True}, 33, 7)
    assert (document[0].max_length, document[1].width, document[1].settings["pooling_strategy"]) == (12, 30, "sum")
    assert facts.stack[0].settings == {"default_route": "query"}
    assert (facts.dimension, facts.max_length, facts.parameters) == (33, 7, 33)


def test_a_router_without_its_file(tmp_path: Path) -> None:
    facts = read_model(write(tmp_path, {"modules.json": modules("Router")}))
    assert ([m.name for m in facts.modules], facts.routes, facts.dimension) == (["Router"], {}, None)


def test_a_sparse_autoencoder(tmp_path: Path) -> None:
    settings = {"model_type": "SparseEncoder", "similarity_fn_name": "cosine", "max_active_dims": 4}
    files: dict[str, Any] = {
        "config_sentence_transformers.json": settings,
        "modules.json": modules("Transformer", "Pooling", "SparseAutoEncoder"),
        "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean"},
        "2_SparseAutoEncoder/config.json": {"input_dim": 8, "hidden_dim": 24, "k": 4, "k_aux": 2, "dead_threshold": 3},
    }
    facts = read_model(write(tmp_path, files))
    assert (facts.kind, facts.dimension, facts.max_active_dims, facts.similarity) == ("sparse", 24, 4, "cosine")
    assert facts.stack[2].settings == {"input_dim": 8, "hidden_dim": 24, "k": 4}


@pytest.mark.parametrize(
    ("model_type", "kind"), [("SentenceTransformer", "dense"), ("SparseEncoder", "sparse"), ("Other", None), (None, None)]
)
def test_the_kind_is_what_the_directory_says(tmp_path: Path, model_type: str | None, kind: str | None) -> None:
    assert read_model(write(tmp_path, {"config_sentence_transformers.json": {"model_type": model_type}})).kind == kind
