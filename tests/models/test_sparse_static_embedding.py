"""Weights by words: value, gradient, idf, and the folder on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.modules.sparse_static_embedding import (
    SparseStaticEmbedding,
    document_frequency,
    inverse_document_frequency,
    vocabulary_size,
)
from tests.models.tiny import VOCAB, make_texts, make_tokenizer

WORDS = len(VOCAB)
TEXTS = ["w1 w2 w1", "w2 unheard-of", "", "w5 w7 [PAD] w5 w5", *make_texts(4, seed=1)]


def make_module(*, seed: int = 0, **options: Any) -> SparseStaticEmbedding:
    weight = torch.randn(WORDS, generator=torch.Generator().manual_seed(seed)) + 1
    return SparseStaticEmbedding(make_tokenizer(), weight=weight, **options)


def tokens_of(texts: list[str]) -> Tokens:
    return Tokens.from_lists(tokenize(make_tokenizer(), texts, special_tokens=SparseStaticEmbedding.special_tokens))


def features_of(texts: list[str]) -> dict[str, Any]:
    tokens = tokens_of(texts)
    return {"input_ids": tokens.ids, "lengths": tokens.lengths}


def naive(texts: list[str], weight: Tensor) -> Tensor:
    """(N, V) float64, a word at a time; `weight` carries gradient."""
    rows = []
    for ids in tokenize(make_tokenizer(), texts, special_tokens=False):
        row = [weight.new_zeros(())] * WORDS
        for i in ids:
            row[i] = weight[i]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_weights_of_the_words_that_a_text_holds() -> None:
    module = make_module()
    found = module(features_of(TEXTS))["sentence_embedding"]
    assert found.dtype == torch.float32 and found.shape == (len(TEXTS), WORDS)
    torch.testing.assert_close(found.double(), naive(TEXTS, module.weight.double()), rtol=0, atol=0)
    assert (found[0] != 0).nonzero().flatten().tolist() == [VOCAB["w1"], VOCAB["w2"]]  # no special tokens, no counts
    assert found[1, VOCAB["[UNK]"]] == module.weight[VOCAB["[UNK]"]]
    assert found[3, VOCAB["[PAD]"]] == module.weight[VOCAB["[PAD]"]]
    assert not found[2].any()


def test_gradient_is_the_sum_over_the_texts_that_hold_the_word() -> None:
    module = make_module()
    weight = module.weight.detach().double().requires_grad_()
    up = torch.randn(len(TEXTS), WORDS, generator=torch.Generator().manual_seed(3))
    (grad,) = torch.autograd.grad((module(features_of(TEXTS))["sentence_embedding"] * up).sum(), [module.weight])
    (expected,) = torch.autograd.grad((naive(TEXTS, weight) * up.double()).sum(), [weight])
    assert expected.abs().max() > 0.1 and (expected == 0).any()
    torch.testing.assert_close(grad.double(), expected, rtol=1e-6, atol=1e-6)
    again = [torch.autograd.grad((module(features_of(TEXTS))["sentence_embedding"] * up).sum(), [module.weight])[0] for _ in range(3)]
    assert all(torch.equal(grad, g) for g in again)


def test_nothing_has_a_row_a_token() -> None:
    """Long texts: what is kept for the backward grows with texts, not with tokens."""
    module, features = make_module(), features_of(make_texts(3, seed=2, longest=60))
    assert features["input_ids"].numel() > 10 * 3
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(features)["sentence_embedding"].sum().backward()
    assert saved and max(saved) <= 3 * WORDS
    assert module.weight.grad is not None and module.weight.grad.any()


def test_an_earlier_embedding_is_weighted() -> None:
    module = make_module()
    before = torch.rand(len(TEXTS), WORDS)
    features = {**features_of(TEXTS), "sentence_embedding": before}
    found = module(features)["sentence_embedding"]
    assert features["sentence_embedding"] is before
    torch.testing.assert_close(found, before * module(features_of(TEXTS))["sentence_embedding"])


def test_half_precision_weights_give_full_precision_embeddings() -> None:
    module = make_module().bfloat16()
    found = module(features_of(TEXTS))["sentence_embedding"]
    assert found.dtype == torch.float32
    assert torch.equal(found[0, VOCAB["w1"]], module.weight[VOCAB["w1"]].float())


def test_frozen_weights_get_no_gradient() -> None:
    assert make_module().weight.requires_grad
    assert not make_module(frozen=True).weight.requires_grad
    assert not make_module(frozen=True)(features_of(TEXTS))["sentence_embedding"].requires_grad


def test_defaults_and_what_does_not_fit() -> None:
    module = SparseStaticEmbedding(make_tokenizer())
    assert torch.equal(module.weight, torch.ones(WORDS)) and module.output_dim() == module.num_dimensions == WORDS
    assert module.is_input and not module.special_tokens and module.input_of("query") is module
    for weight in (torch.ones(WORDS - 1), torch.ones(2, WORDS)):
        with pytest.raises(ConfigError, match=rf"the tokenizer has {WORDS} tokens"):
            SparseStaticEmbedding(make_tokenizer(), weight=weight)
    wide = SparseStaticEmbedding(make_tokenizer(), weight=torch.ones(WORDS + 3))  # some models have more outputs than tokens
    assert wide(features_of(TEXTS))["sentence_embedding"].shape == (len(TEXTS), WORDS + 3)


def test_it_stands_alone_in_an_encoder() -> None:
    module = make_module()
    encoder = Encoder([module])
    assert encoder.tokenizer is module.tokenizer and encoder.embedding_dim == WORDS
    torch.testing.assert_close(encoder(tokens_of(TEXTS)).values, module(features_of(TEXTS))["sentence_embedding"])


# --- idf -----------------------------------------------------------------------------------------------------------------


def test_idf_of_a_corpus() -> None:
    corpus = make_texts(50, seed=4)
    ids = tokenize(make_tokenizer(), corpus)  # with special tokens, as a document encoder has them
    frequency = [sum(word in text for text in ids) for word in range(WORDS)]
    assert max(frequency) == 50 and min(frequency) == 0
    special = {VOCAB[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    expected = [0.0 if w in special else math.log(1 + (50 - df + 0.5) / (df + 0.5)) for w, df in enumerate(frequency)]
    module = SparseStaticEmbedding.from_idf(make_tokenizer(), documents=[Tokens.from_lists(ids)])
    torch.testing.assert_close(module.weight.detach().double(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)
    assert module.weight.requires_grad and (module.weight >= 0).all()
    parts = [Tokens.from_lists(ids[:7]), Tokens.from_lists(ids[7:8]), Tokens.from_lists(ids[8:])]
    in_parts = SparseStaticEmbedding.from_idf(make_tokenizer(), documents=iter(parts), vocabulary=WORDS + 2, frozen=True)
    assert torch.equal(in_parts.weight[:WORDS], module.weight) and in_parts.num_dimensions == WORDS + 2
    assert not in_parts.weight.requires_grad


def test_document_frequency_counts_a_document_once() -> None:
    documents = Tokens.from_lists([[1, 1, 3], [], [3, 2, 3], [1]])
    assert document_frequency(documents, 5).tolist() == [0, 2, 1, 2, 0]
    values = inverse_document_frequency(torch.tensor([0, 2, 4]), num_documents=4)
    assert values.tolist() == pytest.approx([math.log(1 + 4.5 / 0.5), math.log(1 + 2.5 / 2.5), math.log(1 + 0.5 / 4.5)])


def test_idf_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="there are none"):
        SparseStaticEmbedding.from_idf(make_tokenizer(), documents=[])


# --- disk ----------------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    module = make_module(frozen=True)
    module.save(tmp_path / "m")
    assert json.loads((tmp_path / "m/config.json").read_text()) == {"frozen": True}
    assert set(load_file(tmp_path / "m/model.safetensors")) == {"weight"}
    loaded = SparseStaticEmbedding.load(tmp_path / "m")
    assert loaded.frozen and not loaded.weight.requires_grad and torch.equal(loaded.weight, module.weight)
    assert loaded.tokenizer.get_vocab() == VOCAB and loaded.tokenizer.model_max_length == 62
    wide = SparseStaticEmbedding(make_tokenizer(), weight=torch.rand(WORDS + 3))
    wide.save(tmp_path / "wide")
    assert torch.equal(SparseStaticEmbedding.load(tmp_path / "wide").weight, wide.weight)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    make_module().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights for SparseStaticEmbedding"):
        SparseStaticEmbedding.load(tmp_path)
    torch.save({"weight": torch.ones(WORDS), "more": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="(?s)do not fit SparseStaticEmbedding.*more"):
        SparseStaticEmbedding.load(tmp_path)
    torch.save({"weight": torch.full((WORDS,), 2.0)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(SparseStaticEmbedding.load(tmp_path).weight, torch.full((WORDS,), 2.0))


@pytest.mark.parametrize("path", ["idf.json", "deeper/words.json", "elsewhere/model/words.json"])
def test_a_file_of_weights_by_words(tmp_path: Path, path: str) -> None:
    """As early versions stored it: the path below the folder, or a path of the machine that wrote it."""
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"frozen": True, "path": path}))
    with pytest.raises(ConfigError, match="is not there"):
        SparseStaticEmbedding.load(tmp_path)
    file = tmp_path / ("words.json" if path.startswith("elsewhere") else path)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"w3": 2.5, "w9": 1, "absent": 7.0}))
    module = SparseStaticEmbedding.load(tmp_path)
    expected = torch.zeros(WORDS)
    expected[VOCAB["w3"]], expected[VOCAB["w9"]] = 2.5, 1.0
    assert torch.equal(module.weight, expected) and module.frozen


def test_a_file_of_weights_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps({"w3": 2.5}))
    make_tokenizer().save_pretrained(tmp_path / "model")
    for path in ("../secret.json", str(tmp_path / "secret.json"), "..\\secret.json"):
        (tmp_path / "model/config.json").write_text(json.dumps({"path": path}))
        with pytest.raises(ConfigError, match="is not there"):
            SparseStaticEmbedding.load(tmp_path / "model")


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"w3": "heavy"}', '{"w3": null}'])
def test_a_broken_file_of_weights(tmp_path: Path, content: str) -> None:
    (tmp_path / "idf.json").write_text(content)
    with pytest.raises(ConfigError, match=r"expected a JSON object of words"):
        SparseStaticEmbedding.from_json(tmp_path / "idf.json", tokenizer=make_tokenizer())


def test_a_file_for_another_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "idf.json").write_text('{"nothing": 1.0}')
    with pytest.raises(ConfigError, match="none of its 1 words"):
        SparseStaticEmbedding.from_json(tmp_path / "idf.json", tokenizer=make_tokenizer())


def test_vocabulary_size_is_above_every_id() -> None:
    tokenizer = make_tokenizer()
    assert vocabulary_size(tokenizer) == WORDS
    tokenizer.add_tokens(["brand-new"])
    assert vocabulary_size(tokenizer) == WORDS + 1 == len(tokenizer)
