"""The inference class: what it takes, what it gives, what it refuses, what it stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stpipe
from stpipe.config.errors import ConfigError
from stpipe.models import inference
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.load import load_model
from stpipe.models.modules import Dense, LogitScore, Pooling
from stpipe.models.sentence_transformer import SentenceTransformer
from tests.models.tiny import make_backbone
from tests.models.tiny_scores import classifier, make_cross_encoder, make_pairs, tokenizer_of

PAIRS = make_pairs(25)
SETTINGS = "config_sentence_transformers.json"


class Halved(nn.Module):
    """An activation from outside of torch."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return make_cross_encoder("bert")


@pytest.fixture(scope="module")
def classes() -> CrossEncoder:
    return make_cross_encoder("bert", num_labels=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    bert = classifier("bert", num_labels=3)
    bert.config.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    bert.config.label2id = {"no": 0, "yes": 1, "perhaps": 2}
    bert.save_pretrained(folder)
    tokenizer_of("bert").save_pretrained(folder)
    return folder


def test_public_names() -> None:
    assert stpipe.CrossEncoder is CrossEncoder
    assert (CrossEncoder.kind, make_cross_encoder("bert").similarity_fn_name) == ("cross_encoder", "")


def test_scores_stand_where_their_pairs_stood(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by length, in several chunks and forwards, and put back."""
    monkeypatch.setattr(inference, "CHUNK", 7)
    monkeypatch.setattr(inference, "CPU_TOKENS", 100)
    found = model.predict(PAIRS)
    alone = np.array([model.predict(pair) for pair in PAIRS])
    assert found.shape == (25,) and found.dtype == np.float32 and np.ptp(found) > 1e-3
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


def test_layouts_agree(model: CrossEncoder) -> None:
    packed = model.predict(PAIRS)
    assert model.encoder.layout == "packed"
    model.encoder.layout = "padded"
    np.testing.assert_allclose(model.predict(PAIRS, batch_size=4), packed, rtol=0, atol=1e-6)
    model.encoder.layout = "packed"


def test_containers(model: CrossEncoder, classes: CrossEncoder) -> None:
    for used, shape in ((model, ()), (classes, (3,))):
        one, many = used.predict(PAIRS[0]), used.predict(PAIRS)
        assert many.shape == (25, *shape) and np.shape(one) == shape
        tensor = used.predict(PAIRS, convert_to_tensor=True)
        listed = used.predict(PAIRS, convert_to_numpy=False)
        assert torch.is_tensor(tensor) and isinstance(listed, list) and all(torch.is_tensor(x) and x.shape == shape for x in listed)
        np.testing.assert_array_equal(tensor.numpy(), many)
        np.testing.assert_array_equal(torch.stack(listed).numpy(), many)


def test_no_pairs(model: CrossEncoder, classes: CrossEncoder) -> None:
    assert model.predict([]).shape == (0,) and classes.predict([]).shape == (0, 3)
    assert model.predict([], convert_to_tensor=True).shape == (0,) and model.predict([], convert_to_numpy=False) == []
    assert model.rank("w1", []) == []


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda pairs: [list(p) for p in pairs]])
def test_forms_of_input(model: CrossEncoder, form: Any) -> None:
    np.testing.assert_array_equal(model.predict(form(PAIRS)), model.predict(PAIRS))


def test_columns_of_a_data_set(model: CrossEncoder) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"pair": [list(pair) for pair in PAIRS]})
    np.testing.assert_array_equal(model.predict(data["pair"]), model.predict(PAIRS))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("w1", "expected a pair of texts or a list of pairs, got str"),
        ({"query": "w1"}, "got dict"),
        (None, "got NoneType"),
        (["w1", "w2", "w3"], "input 0 is list of str, str, str, expected two texts"),
        ([("w1", "w2"), ("w1",)], "input 1 is tuple of str, expected two texts"),
        ([("w1", "w2"), "w3"], "input 1 is str, expected two texts"),
        ([("w1", None)], "input 0 is tuple of str, NoneType"),
        ([("w1", "w2"), 5], "input 1 is int"),
    ],
)
def test_what_is_no_pair_is_refused(model: CrossEncoder, inputs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.predict(inputs)


def test_activations(model: CrossEncoder, classes: CrossEncoder) -> None:
    logits = model.predict(PAIRS, activation_fn=nn.Identity())
    sigmoid = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(model.predict(PAIRS), sigmoid, rtol=1e-6)
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn="Tanh"), np.tanh(logits.astype(np.float64)), rtol=1e-5)
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn=torch.sigmoid), sigmoid, rtol=1e-6)
    soft = classes.predict(PAIRS, apply_softmax=True)
    exact = np.exp(classes.predict(PAIRS).astype(np.float64))
    np.testing.assert_allclose(soft, exact / exact.sum(1, keepdims=True), rtol=1e-5)
    assert np.ptp(classes.predict(PAIRS)) > 1e-2
    np.testing.assert_array_equal(model.predict(PAIRS, apply_softmax=True), model.predict(PAIRS))


def test_the_activation_can_be_changed() -> None:
    model = make_cross_encoder("bert")
    assert isinstance(model.activation_fn, nn.Sigmoid) and isinstance(make_cross_encoder("bert", num_labels=2).activation_fn, nn.Identity)
    logits = model.predict(PAIRS, activation_fn=nn.Identity())
    for value in (nn.Identity(), "Identity", lambda x: x, nn.Identity()):
        model.activation_fn = value
        np.testing.assert_array_equal(model.predict(PAIRS), logits)
    assert not any("activation_fn" in name for name, _ in model.named_modules())
    with pytest.raises(ConfigError, match="activation_fn is int, expected a callable"):
        model.activation_fn = 3


def test_half_precision_scores_come_as_float32() -> None:
    model = make_cross_encoder("bert").to(torch.bfloat16)
    found = model.predict(PAIRS, convert_to_tensor=True)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), make_cross_encoder("bert").predict(PAIRS), atol=0.05)


def test_prompts() -> None:
    model = make_cross_encoder("bert", prompts={"web": "query : ", "other": "w9 "}, default_prompt_name="web")
    by_hand = [("query : " + first, second) for first, second in PAIRS]
    np.testing.assert_array_equal(model.predict(PAIRS), model.predict(by_hand, prompt=""))
    np.testing.assert_array_equal(model.predict(PAIRS, prompt_name="other"), model.predict(PAIRS, prompt="w9 "))
    assert np.abs(model.predict(PAIRS) - model.predict(PAIRS, prompt="")).max() > 1e-4
    with pytest.raises(ConfigError, match="webb.*web"):
        model.predict(PAIRS, prompt_name="webb")
    assert [found["score"] for found in model.rank("w1", ["w2", "w3"])] == sorted(model.predict([("w1", "w2"), ("w1", "w3")]).tolist())[
        ::-1
    ]


def test_long_pairs_lose_the_longer_text() -> None:
    model = make_cross_encoder("bert")
    model.max_seq_length = 12
    tokens = model.pair_tokens([("w1 w2", "w3 " * 40), ("w4 " * 40, "w5 w6"), ("w7 " * 40, "w8 " * 40)])
    assert tokens.lengths.tolist() == [12, 12, 12]
    first, second, both = (part.tolist() for part in tokens.ids.split(12))
    words = model.tokenizer.get_vocab()
    assert first == [2, words["w1"], words["w2"], 3, *[words["w3"]] * 7, 3]
    assert second == [2, *[words["w4"]] * 7, 3, words["w5"], words["w6"], 3]
    assert (both.count(words["w7"]), both.count(words["w8"])) == (4, 5)
    model.max_seq_length = None
    assert model.pair_tokens([("w1 w2", "w3 " * 40)]).lengths.tolist() == [45]


def test_pairs_that_cannot_be_joined_are_made_by_the_tokenizer() -> None:
    model, plain = make_cross_encoder("bert"), make_cross_encoder("bert")
    model.tokenizer.truncation_side = "left"
    model.max_seq_length = plain.max_seq_length = 20
    assert model.pair_template is None and plain.pair_template is not None
    tokens = model.pair_tokens(PAIRS, "w7 ")
    expected = model.tokenizer([("w7 " + a, b) for a, b in PAIRS], truncation="longest_first", max_length=20)
    assert [part.tolist() for part in tokens.ids.split(tokens.lengths.tolist())] == expected["input_ids"]
    assert tokens.type_ids is not None and tokens.type_ids.tolist() == [t for text in expected["token_type_ids"] for t in text]
    short = [pair for pair in PAIRS if len(pair[0].split()) + len(pair[1].split()) < 16]
    assert len(short) > 3
    np.testing.assert_array_equal(model.predict(short), plain.predict(short))


def test_rank(model: CrossEncoder, classes: CrossEncoder) -> None:
    documents = [second for _, second in PAIRS]
    scores = model.predict([("w1 w2", document) for document in documents])
    found = model.rank("w1 w2", documents, return_documents=True)
    assert [item["corpus_id"] for item in found] == sorted(range(25), key=lambda i: -scores[i])
    assert all(item["score"] == pytest.approx(scores[item["corpus_id"]]) and type(item["score"]) is float for item in found)
    assert all(item["text"] == documents[item["corpus_id"]] for item in found)
    assert model.rank("w1 w2", documents, top_k=3) == [{k: v for k, v in item.items() if k != "text"} for item in found[:3]]
    with pytest.raises(ConfigError, match="rank needs one score for each pair, but this model has 3 outputs"):
        classes.rank("w1", documents)


def test_equal_scores_keep_the_order_of_the_documents(model: CrossEncoder) -> None:
    assert [item["corpus_id"] for item in model.rank("w1", ["w2", "w2", "w2"])] == [0, 1, 2]


def test_the_mode_is_put_back(model: CrossEncoder) -> None:
    model.train()
    scores = model.predict(PAIRS)
    assert model.training and np.array_equal(scores, model.predict(PAIRS)), "no dropout in a prediction"
    model.eval()


def test_arguments_that_are_refused(model: CrossEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        model.predict(PAIRS, batch_size=0)
    with pytest.raises(ConfigError, match="give either model_name_or_path or modules"):
        CrossEncoder()
    with pytest.raises(ConfigError, match="'Sigmoidd' is no module of torch.nn"):
        make_cross_encoder("bert", activation_fn="Sigmoidd")


# Loading


def test_a_checkpoint_keeps_its_classes(checkpoint: Path, tmp_path: Path) -> None:
    model = CrossEncoder(checkpoint, device="cpu")
    assert model.num_labels == 3 and model.encoder.backbone.model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
    CrossEncoder(checkpoint, num_labels=3, device="cpu").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"}


def test_another_number_of_outputs_is_a_new_head(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    model = CrossEncoder(checkpoint, num_labels=1, device="cpu")
    assert "the stored head has 3 outputs, not 1; classifier.bias, classifier.weight are drawn anew and untrained" in caplog.text
    assert model.num_labels == 1 and model.predict(PAIRS).shape == (25,) and isinstance(model.activation_fn, nn.Sigmoid)
    whole, body = classifier("bert", num_labels=3).bert, model.encoder.backbone.model.bert
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(body.state_dict()[name], value, rtol=0, atol=0)
    torch.manual_seed(1)
    again = CrossEncoder(checkpoint, num_labels=1, device="cpu").encoder.backbone.model.classifier.weight
    torch.testing.assert_close(again, model.encoder.backbone.model.classifier.weight, rtol=0, atol=0)
    assert float(again.detach().abs().max()) > 0


def test_no_warning_where_the_head_fits(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    CrossEncoder(checkpoint, num_labels=3, device="cpu")
    assert "anew" not in caplog.text


def test_any_encoder_gets_a_new_head(tmp_path: Path) -> None:
    backbone = make_backbone("bert")
    SentenceTransformer(modules=[backbone, Pooling(32)], device="cpu", prompts={"query": "query : "}).save_pretrained(tmp_path)
    limits = tmp_path / "sentence_bert_config.json"
    limits.write_text(json.dumps({**json.loads(limits.read_text()), "max_seq_length": 9}))
    model = CrossEncoder(tmp_path, device="cpu")
    assert model.num_labels == 1 and model.prompts["query"] == "query : "
    assert model.max_seq_length == 62, "how long single texts may be says nothing about pairs"


def test_weights_that_are_not_complete_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bert = classifier("bert")
    state = {name: value for name, value in bert.state_dict().items() if "layer.1.output" not in name}
    bert.save_pretrained(tmp_path, state_dict=state)
    tokenizer_of("bert").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"the weights lack bert.encoder.layer.1.output.*needs below its head"):
        CrossEncoder(tmp_path, device="cpu")


def test_load_model_finds_cross_encoders(model: CrossEncoder, checkpoint: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert isinstance(load_model(tmp_path), CrossEncoder) and isinstance(load_model(checkpoint), CrossEncoder)


def test_old_names_of_arguments(checkpoint: Path) -> None:
    with pytest.warns(DeprecationWarning, match="`automodel_args` is an old name; use `model_kwargs`"):
        model = CrossEncoder(
            model_name=str(checkpoint),
            automodel_args={"dtype": "float64"},
            tokenizer_args={},
            default_activation_function=nn.Tanh(),
            device="cpu",
        )
    assert model.dtype == torch.float64 and isinstance(model.activation_fn, nn.Tanh)
    with pytest.warns(DeprecationWarning, match="`classifier_dropout` is an old name"):
        assert CrossEncoder(checkpoint, classifier_dropout=0.4, device="cpu").encoder.backbone.model.config.classifier_dropout == 0.4
    with pytest.warns(DeprecationWarning, match="`max_length` is an old name; use `max_seq_length`"):
        assert model.max_length == model.max_seq_length == 62
    with pytest.warns(DeprecationWarning, match="`sentences` is an old name"):
        np.testing.assert_array_equal(model.predict(sentences=PAIRS), model.predict(PAIRS))


def test_a_stack_of_its_own_knows_how_many_outputs_it_has() -> None:
    heads = [make_backbone("bert"), Pooling(32), Dense(32, out_features=2, activation="Identity", output_name="scores")]
    model = CrossEncoder(modules=heads, device="cpu")
    assert model.num_labels == 2 and model.predict(PAIRS).shape == (25, 2)
    with pytest.raises(ConfigError, match="num_labels is 3, but the last module of this model has 2 outputs of its own"):
        CrossEncoder(modules=heads, num_labels=3, device="cpu")
    assert LogitScore(1).output_dim(0) == 1


# Storage


def test_both_places_of_the_activation(tmp_path: Path) -> None:
    make_cross_encoder("bert", activation_fn="Tanh").save_pretrained(tmp_path)
    path = "torch.nn.modules.activation.Tanh"
    settings, config = (json.loads((tmp_path / name).read_text()) for name in (SETTINGS, "config.json"))
    assert settings["activation_fn"] == config["sentence_transformers"]["activation_fn"] == path
    assert settings["model_type"] == "CrossEncoder" and "similarity_fn_name" not in settings
    assert [entry["path"] for entry in json.loads((tmp_path / "modules.json").read_text())] == [""]
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["module_output_name"] == "scores"
    assert isinstance(CrossEncoder(tmp_path, device="cpu").activation_fn, nn.Tanh)


def test_the_new_place_wins(tmp_path: Path) -> None:
    make_cross_encoder("bert", activation_fn="Tanh").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("activation.Tanh", "linear.Identity"))
    assert isinstance(CrossEncoder(tmp_path, device="cpu").activation_fn, nn.Tanh)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps({k: v for k, v in settings.items() if k != "activation_fn"}))
    assert isinstance(CrossEncoder(tmp_path, device="cpu").activation_fn, nn.Identity)
    assert isinstance(CrossEncoder(tmp_path, device="cpu", activation_fn=nn.ReLU()).activation_fn, nn.ReLU)


def test_foreign_activations_need_trust(tmp_path: Path) -> None:
    model = make_cross_encoder("bert", activation_fn=Halved())
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"test_cross_encoder.Halved', code from outside of torch.*trust_remote_code=True"):
        CrossEncoder(tmp_path, device="cpu")
    trusted = CrossEncoder(tmp_path, device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(trusted.predict(PAIRS), model.predict(PAIRS), rtol=1e-6)
    file = tmp_path / SETTINGS
    file.write_text(file.read_text().replace("Halved", "Missing"))
    with pytest.raises(ConfigError, match="Missing' of this model cannot be made"):
        CrossEncoder(tmp_path, device="cpu", trust_remote_code=True)


@pytest.mark.parametrize(
    ("activation", "message"), [(torch.sigmoid, "is no torch.nn.Module"), (nn.LeakyReLU(0.5), "only its class is, which by default is")]
)
def test_activations_that_cannot_be_stored(activation: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_cross_encoder("bert", activation_fn=activation).save_pretrained(tmp_path)
