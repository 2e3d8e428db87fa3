"""The directory on disk: what is written, what every older form reads as, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stpipe.config.errors import ConfigError
from stpipe.models import SentenceTransformer
from stpipe.models.format import read_modules, read_settings
from stpipe.models.modules import MODULES, Dense, Dropout, LayerNorm, Module, Normalize, Pooling, Transformer
from tests.models.tiny import make_backbone, make_texts


def make_model(*heads: Module, **options: Any) -> SentenceTransformer:
    backbone = make_backbone("bert")
    return SentenceTransformer(modules=[backbone, Pooling(32), *heads], device="cpu", **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    heads = (Dense(32, out_features=16, use_residual=True), LayerNorm(16), Dropout(0.1), Normalize())
    model = make_model(*heads, prompts={"query": "query : ", "passage": "document : "}, truncate_dim=12, similarity_fn_name="dot")
    path = tmp_path_factory.mktemp("saved")
    model.save_pretrained(path)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_layout_on_disk(saved: Path) -> None:
    entries = read(saved / "modules.json")
    assert [e["path"] for e in entries] == ["", "1_Pooling", "2_Dense", "3_LayerNorm", "4_Dropout", "5_Normalize"]
    assert entries[0]["type"] == "sentence_transformers.base.modules.transformer.Transformer"
    assert entries[1]["type"] == "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    assert read(saved / "1_Pooling/config.json") == {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}
    assert read(saved / "2_Dense/config.json")["activation_function"] == "torch.nn.modules.activation.Tanh"
    assert set(load_file(saved / "2_Dense/model.safetensors")) == {"linear.weight", "linear.bias", "residual.weight"}
    assert read(saved / "sentence_bert_config.json")["max_seq_length"] == 62
    assert read(saved / "tokenizer_config.json")["model_max_length"] == 62
    settings = read(saved / "config_sentence_transformers.json")
    assert settings["model_type"] == "SentenceTransformer" and settings["truncate_dim"] == 12
    assert settings["similarity_fn_name"] == "dot"
    # Readers of the format look a document prompt up under this key first.
    assert settings["prompts"] == {"query": "query : ", "document": "document : ", "passage": "document : "}


def test_round_trip_is_exact(saved: Path) -> None:
    torch.manual_seed(0)
    heads = (Dense(32, out_features=16, use_residual=True), LayerNorm(16), Dropout(0.1), Normalize())
    model = make_model(*heads, truncate_dim=12)
    loaded = SentenceTransformer(saved, device="cpu")
    assert loaded.truncate_dim == 12 and loaded.similarity_fn_name == "dot" and loaded.max_seq_length == 62
    assert [type(m) for m in loaded] == [Transformer, Pooling, Dense, LayerNorm, Dropout, Normalize]
    texts = make_texts(20)
    assert (loaded.encode(texts) == model.encode(texts)).all()
    assert loaded.encode(texts).shape == (20, 12)


def test_attention_of_the_layout_is_not_saved(tmp_path: Path) -> None:
    model = make_model()
    model.encoder.layout = "packed"
    model.save_pretrained(tmp_path)
    assert "stpipe" not in (tmp_path / "config.json").read_text()


def test_bare_checkpoints_get_a_pooling(tmp_path: Path) -> None:
    for family, mode in (("bert", "mean"), ("qwen3", "lasttoken")):
        backbone = make_backbone(family)
        backbone.model.save_pretrained(tmp_path / family)
        backbone.tokenizer.save_pretrained(tmp_path / family)
        config = tmp_path / family / "config.json"
        if family == "qwen3":  # what a language model's checkpoint says of itself
            config.write_text(json.dumps({**read(config), "architectures": ["Qwen3ForCausalLM"]}))
        model = SentenceTransformer(tmp_path / family, device="cpu")
        assert [type(m) for m in model] == [Transformer, Pooling]
        assert model[1].modes == (mode,)


def test_limit_without_a_stored_one_is_that_of_the_positions(tmp_path: Path) -> None:
    backbone = make_backbone("roberta")  # 66 positions, of which 1 is reserved
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.model_max_length = 10**30
    backbone.tokenizer.save_pretrained(tmp_path)
    model = SentenceTransformer(tmp_path, device="cpu")
    assert model.max_seq_length == 65
    assert model.encode("a " * 100).shape == (32,)


OLD = {
    "pooling_mode_cls_token": True,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "word_embedding_dimension": 32,
}


@pytest.mark.parametrize(
    ("values", "modes"),
    [
        (OLD, ("cls", "mean")),
        ({"word_embedding_dimension": 32}, ("mean",)),
        (
            {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "pooling_mode_weightedmean_tokens": True},
            ("weightedmean", "lasttoken"),
        ),
        ({"embedding_dimension": 32, "pooling_mode": ["max", "cls"]}, ("max", "cls")),
        ({"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": False, "new_key": 1}, ("lasttoken",)),
    ],
)
def test_pooling_keys_of_all_versions(values: dict[str, Any], modes: tuple[str, ...]) -> None:
    pooling = Pooling.from_config(values)
    assert pooling.modes == modes and pooling.embedding_dim == 32
    assert pooling.include_prompt == values.get("include_prompt", True)


def old_style(saved: Path, path: Path, **bert_config: Any) -> Path:
    """A directory as version 2 wrote it: short type names, old keys, weights in pytorch_model.bin, empty Normalize folder."""
    model = SentenceTransformer(saved, device="cpu")
    model[0].save(path)
    (path / "model.safetensors").unlink()
    torch.save(model[0].model.state_dict(), path / "pytorch_model.bin")
    (path / "sentence_bert_config.json").unlink()
    (path / "sentence_roberta_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False, **bert_config}))
    for folder, values in (
        ("1_Pooling", OLD),
        ("2_Dense", {**read(saved / "2_Dense/config.json"), "in_features": 64, "use_residual": False}),
    ):
        (path / folder).mkdir()
        (path / folder / "config.json").write_text(json.dumps(values))
    dense = Dense(64, out_features=16)
    torch.save(dense.state_dict(), path / "2_Dense/pytorch_model.bin")
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    entries = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (k, p) in enumerate(zip(kinds, paths, strict=True))
    ]
    (path / "modules.json").write_text(json.dumps(entries))
    return path


def test_old_directories_load(saved: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(old_style(saved, tmp_path), device="cpu")
    assert [type(m) for m in model] == [Transformer, Pooling, Dense, Normalize]
    assert model[1].modes == ("cls", "mean")
    assert model.max_seq_length == 20  # the key of sentence_*_config.json wins over the tokenizer's own
    assert model.similarity_fn_name == "cosine" and model.prompts == {"query": ""}
    assert model.encode(["a b", "w1"]).shape == (2, 16)


def test_lower_casing_key(saved: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(old_style(saved, tmp_path, do_lower_case=True), device="cpu")
    assert (model.encode("W1 W2") == model.encode("w1 w2")).all()
    assert not (model.encode("w1 w2") == model.encode("w1 w3")).all()


def test_a_file_may_not_ask_to_run_code(saved: Path, tmp_path: Path) -> None:
    path = old_style(saved, tmp_path, model_args={"trust_remote_code": True, "attn_implementation": "eager"})
    model = SentenceTransformer(path, device="cpu")
    assert model[0].padded_attention == "eager"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "sentence_transformers.models.LSTM"}, "LSTM"),
        ({"type": "my_package.modules.Pooling"}, "my_package.modules.Pooling"),
        ({"path": "../elsewhere"}, "leaves the model directory"),
    ],
)
def test_unknown_modules_are_refused(saved: Path, tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = old_style(saved, tmp_path)
    entries = read(path / "modules.json")
    entries[1].update(change)
    (path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=message) as error:
        read_modules(path)
    if "type" in change:
        assert f"Supported: {', '.join(sorted(MODULES))}" in str(error.value) and "SpladePooling" in MODULES


def test_weights_that_do_not_fit_are_refused(saved: Path, tmp_path: Path) -> None:
    path = old_style(saved, tmp_path)
    torch.save(Dense(32, out_features=16).state_dict(), path / "2_Dense/pytorch_model.bin")
    with pytest.raises(ConfigError, match="do not fit Dense"):
        read_modules(path)
    (path / "2_Dense/pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="no weights for Dense"):
        read_modules(path)


def test_activations_are_torch_modules_only() -> None:
    assert isinstance(Dense(2, out_features=2, activation="GELU").activation_function, torch.nn.GELU)
    for bad in ("os.system", "torch.nn.functional.relu", "Nonsense"):
        with pytest.raises(ConfigError, match="activation_function"):
            Dense(2, out_features=2, activation=bad)


def test_settings_default_where_nothing_is_stored(tmp_path: Path) -> None:
    settings = read_settings(tmp_path)
    assert settings.prompts == {} and settings.similarity is None and settings.truncate_dim is None
    (tmp_path / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_settings(tmp_path)
