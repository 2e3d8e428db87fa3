"""The documented interface of the inference class."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.models import SentenceTransformer, inference
from stpipe.models.modules import Dense, Normalize, Pooling
from stpipe.models.quantize import quantize
from tests.models.tiny import make_backbone, make_texts


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    torch.manual_seed(0)
    prompts = {"query": "query : ", "document": "document : ", "odd": "w1 w2 "}
    modules = [make_backbone("bert"), Pooling(32), Dense(32, out_features=24), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def test_shapes_and_containers(model: SentenceTransformer) -> None:
    texts = make_texts(9)
    array = model.encode(texts)
    assert isinstance(array, np.ndarray) and array.shape == (9, 24) and array.dtype == np.float32
    tensor = model.encode(texts, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (9, 24) and not tensor.requires_grad
    listed = model.encode(texts, convert_to_numpy=False)
    assert isinstance(listed, list) and listed[3].shape == (24,)
    np.testing.assert_array_equal(np.stack(listed), array)
    single = model.encode(texts[2])
    assert single.shape == (24,)
    np.testing.assert_allclose(single, array[2], atol=1e-6)
    assert model.encode([]).shape == (0, 24)
    np.testing.assert_array_equal(model.encode(np.array(texts, dtype=object)), array)


def test_order_is_restored_over_chunks_and_batches(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_texts(50, seed=3)
    singles = np.stack([model.encode(t) for t in texts])
    monkeypatch.setattr(inference, "CHUNK", 16)
    monkeypatch.setattr(inference, "CPU_TOKENS", 90)
    np.testing.assert_allclose(model.encode(texts), singles, atol=1e-6)
    model.encoder.layout = "padded"
    np.testing.assert_allclose(model.encode(texts, batch_size=4), singles, atol=1e-6)
    model.encoder.choose_layout()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("max_texts", [3, None])
def test_batches_respect_the_budget(padded: bool, max_texts: int | None) -> None:
    lengths = [90, 40, 40, 10, 10, 10, 3, 3, 3]
    parts = list(inference.batches(lengths, budget=60, max_texts=max_texts, padded=padded))
    assert [i for part in parts for i in part] == list(range(9))
    for part in parts:
        cost = lengths[part[0]] * len(part) if padded else sum(lengths[i] for i in part)
        assert cost <= 60 or len(part) == 1
    assert max(len(part) for part in parts) == (max_texts or (6 if padded else 4))
    assert list(inference.batches([], budget=60, max_texts=max_texts, padded=padded)) == []


def test_prompts(model: SentenceTransformer, caplog: pytest.LogCaptureFixture) -> None:
    texts = make_texts(4)

    def with_text(prompt: str) -> np.ndarray:
        return model.encode([prompt + t for t in texts])

    np.testing.assert_allclose(model.encode_query(texts), with_text("query : "), atol=1e-6)
    np.testing.assert_allclose(model.encode_document(texts), with_text("document : "), atol=1e-6)
    np.testing.assert_allclose(model.encode(texts, prompt_name="odd"), with_text("w1 w2 "), atol=1e-6)
    np.testing.assert_allclose(model.encode(texts), with_text(""), atol=1e-6)
    with caplog.at_level(logging.WARNING, logger="stpipe"):
        np.testing.assert_allclose(model.encode(texts, prompt="w7 ", prompt_name="odd"), with_text("w7 "), atol=1e-6)
    assert "prompt_name is ignored" in caplog.text
    assert np.abs(with_text("query : ") - with_text("")).max() > 1e-3
    with pytest.raises(ConfigError, match="unknown prompt 'queri'. Did you mean 'query'"):
        model.encode(texts, prompt_name="queri")


def test_default_prompt() -> None:
    backbone = make_backbone("bert")
    model = SentenceTransformer(modules=[backbone, Pooling(32)], device="cpu", prompts={"passage": "w5 "}, default_prompt_name="passage")
    plain = SentenceTransformer(modules=[backbone, Pooling(32)], device="cpu")
    np.testing.assert_allclose(model.encode("a"), plain.encode("w5 a"), atol=1e-6)
    np.testing.assert_allclose(model.encode_document("a"), plain.encode("w5 a"), atol=1e-6)
    np.testing.assert_allclose(model.encode_query("a"), plain.encode("a"), atol=1e-6)  # no fallback to the default
    with pytest.raises(ConfigError, match="default prompt"):
        SentenceTransformer(modules=[backbone, Pooling(32)], device="cpu", default_prompt_name="none")


def test_prompt_tokens_can_be_left_out_of_the_pooling() -> None:
    model = SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu")
    vectors = model.encode("a b", prompt="w1 w2 ", output_value="token_embeddings")
    assert vectors.shape == (6, 32)  # [CLS] w1 w2 a b [SEP]
    model.set_pooling_include_prompt(False)
    np.testing.assert_allclose(model.encode("a b", prompt="w1 w2 "), vectors[3:].mean(0), atol=1e-6)


def test_output_values(model: SentenceTransformer) -> None:
    texts = ["a", "a b w1"]
    tokens = model.encode(texts, output_value="token_embeddings")
    assert [t.shape for t in tokens] == [(3, 32), (5, 32)]
    everything = model.encode(texts, output_value=None)
    assert everything[1]["input_ids"].tolist() == model.tokenizer(texts[1])["input_ids"]
    torch.testing.assert_close(everything[1]["token_embeddings"], tokens[1])
    np.testing.assert_allclose(everything[0]["sentence_embedding"], model.encode("a"), atol=1e-6)
    assert isinstance(model.encode("a", output_value=None), dict)
    with pytest.raises(ConfigError, match="output_value"):
        model.encode("a", output_value="tokens")


def test_truncation(model: SentenceTransformer) -> None:
    texts = make_texts(5)
    full = model.encode(texts)
    np.testing.assert_array_equal(model.encode(texts, truncate_dim=7), full[:, :7])
    with model.truncate_embeddings(10):
        assert model.get_embedding_dimension() == 10
        short = model.encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
        assert model.encode(texts, truncate_dim=4).shape == (5, 4)
    assert model.get_embedding_dimension() == 24 and model.encode(texts, truncate_dim=99).shape == (5, 24)
    with pytest.warns(DeprecationWarning, match="truncate_embeddings"), model.truncate_sentence_embeddings(3):
        assert model.encode(texts).shape == (5, 3)


def test_precisions(model: SentenceTransformer) -> None:
    texts = make_texts(12)
    full = model.encode(texts)
    for precision, dtype, width in (("int8", np.int8, 24), ("uint8", np.uint8, 24), ("binary", np.int8, 3), ("ubinary", np.uint8, 3)):
        found = model.encode(texts, precision=precision)
        assert found.dtype == dtype and found.shape == (12, width)
    levels = model.encode(texts, precision="uint8")
    assert set(levels.min(0)) == {0} and set(levels.max(0)) <= {254, 255}  # a quotient just below 255 is cut
    bits = np.unpackbits(model.encode(texts, precision="ubinary"), axis=1)
    np.testing.assert_array_equal(bits, full > 0)
    signed = model.encode(texts, precision="binary").astype(int) + 128
    np.testing.assert_array_equal(signed, model.encode(texts, precision="ubinary"))
    with pytest.raises(ConfigError, match="Did you mean 'int8'"):
        model.encode(texts, precision="int9")
    constant = quantize(np.ones((3, 2), dtype=np.float32), precision="int8")
    assert (constant == -128).all()


def test_similarity(model: SentenceTransformer) -> None:
    a, b = model.encode(make_texts(4)), model.encode(make_texts(3, seed=9))
    matrix = model.similarity(a, b)
    assert matrix.shape == (4, 3)
    np.testing.assert_allclose(matrix, a @ b.T, atol=1e-6)  # unit length
    np.testing.assert_allclose(model.similarity_pairwise(a[:3], b), (a[:3] * b).sum(1), atol=1e-6)
    assert model.similarity(a[0], list(b)).shape == (1, 3)
    model.similarity_fn_name = "euclidean"
    np.testing.assert_allclose(model.similarity(a, b), -np.linalg.norm(a[:, None] - b[None], axis=2), atol=1e-5)
    model.similarity_fn_name = "cosine"
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        model.similarity_fn_name = "cosin"


def test_old_names_warn_and_work(model: SentenceTransformer) -> None:
    with pytest.warns(DeprecationWarning, match="get_embedding_dimension"):
        assert model.get_sentence_embedding_dimension() == 24
    with pytest.warns(DeprecationWarning, match="inputs"):
        np.testing.assert_array_equal(model.encode(sentences=["a"]), model.encode(["a"]))
    with pytest.warns(DeprecationWarning, match="inputs"):
        np.testing.assert_array_equal(model.encode_query(sentences="a"), model.encode_query("a"))


def test_old_name_of_tokenizer_arguments(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.warns(DeprecationWarning, match="processor_kwargs"):
        loaded = SentenceTransformer(tmp_path, device="cpu", tokenizer_kwargs={"truncation_side": "left"})
    assert loaded.tokenizer.truncation_side == "left"


def test_properties_and_device_methods() -> None:
    model = SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu")
    assert model.device == torch.device("cpu") and model.dtype == torch.float32 and len(model) == 2
    assert model[1].modes == ("mean",) and [type(m).__name__ for m in model] == ["Transformer", "Pooling"]
    assert model.max_seq_length == 62
    long = "a " * 50
    before = model.encode(long)
    model.max_seq_length = 10
    assert model.tokenizer.model_max_length == 10
    assert len(model.encode(long, output_value="token_embeddings")) == 10
    assert np.abs(before - model.encode(long)).max() > 1e-4
    assert model.train().training
    model.encode("a")
    assert model.training, "encode puts the mode back"
    assert model.eval().float().to("cpu").cpu() is model
    half = model.half() if hasattr(model, "half") else model
    assert half.dtype == torch.float16
    assert model.bfloat16().encode(["a", "b w1"]).dtype == np.float32  # numpy has no bfloat16


def test_device_map(tmp_path: Path) -> None:
    SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu").save_pretrained(tmp_path)
    mapped = SentenceTransformer(tmp_path, model_kwargs={"device_map": "cpu"})
    plain = SentenceTransformer(tmp_path, device="cpu")
    np.testing.assert_array_equal(mapped.encode(["a", "w1"]), plain.encode(["a", "w1"]))


@pytest.mark.slow
def test_compile() -> None:
    model = SentenceTransformer(modules=[make_backbone("bert", num_hidden_layers=1), Pooling(32)], device="cpu")
    texts = make_texts(6)
    plain = model.encode(texts)
    model.compile()
    np.testing.assert_allclose(model.encode(texts), plain, atol=1e-5)


def test_wrong_input_is_named(model: SentenceTransformer) -> None:
    with pytest.raises(ConfigError, match="input 1 is int, expected str"):
        model.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="batch_size"):
        model.encode(["a"], batch_size=0)
    with pytest.raises(ConfigError, match="either model_name_or_path or modules"):
        SentenceTransformer()
    with pytest.raises(ConfigError, match="backend 'onnx'"):
        SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], backend="onnx")
    with pytest.raises(ConfigError, match="first module"):
        SentenceTransformer(modules=[Pooling(32)], device="cpu")


def test_progress_bar(model: SentenceTransformer, capsys: pytest.CaptureFixture[str]) -> None:
    model.encode(["a", "b"], show_progress_bar=True)
    model.encode(["a", "b"], show_progress_bar=False)
    assert "Traceback" not in capsys.readouterr().err


def test_lazy_export() -> None:
    import stpipe

    assert stpipe.SentenceTransformer is SentenceTransformer
    assert "SentenceTransformer" in dir(stpipe)
    with pytest.raises(AttributeError, match="Sentence"):
        stpipe.Sentence  # noqa: B018
