"""A model directory that brings Python code: it is not run, and nobody is asked on the terminal, unless the switch says so."""

from __future__ import annotations

import builtins
import contextlib
import json
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.models.sentence_transformer import SentenceTransformer
from tests.models.tiny import make_encoder

CODE = """
import os
import pathlib

from transformers import BertConfig, BertModel

pathlib.Path(os.environ["OWN_CODE_RAN"]).touch()


class OwnConfig(BertConfig):
    model_type = "own_bert_of_the_tests"


class OwnModel(BertModel):
    config_class = OwnConfig
"""


def bring_code(folder: Path) -> Path:
    """A tiny dense model whose configuration asks for classes of its own."""
    SentenceTransformer(modules=list(make_encoder("bert").stack)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own_bert_of_the_tests"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    return folder


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there once the code has run."""

    def asked(*args: object) -> str:
        raise AssertionError("somebody was asked on the terminal")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setenv("OWN_CODE_RAN", str(tmp_path / "ran"))
    return tmp_path / "ran"


def test_code_of_a_model_runs_only_when_asked_for(tmp_path: Path, ran: Path) -> None:
    folder = bring_code(tmp_path / "model")
    # A file of the model may not ask for it either.
    stored = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**stored, "config_args": {"trust_remote_code": True}}))
    with pytest.raises(ConfigError, match=r"model.trust_remote_code=true and model.revision") as caught:
        SentenceTransformer(str(folder), device="cpu")
    assert str(folder) in str(caught.value) and not ran.exists()
    trusted = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert ran.exists() and type(trusted.encoder.backbones[0].model).__name__ == "OwnModel"
    assert trusted.encode(["w1 w2"]).shape == (1, trusted.encoder.embedding_dim)


def test_a_known_architecture_is_loaded_without_the_code_that_it_brings(tmp_path: Path, ran: Path) -> None:
    folder = bring_code(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    model = SentenceTransformer(str(folder), device="cpu")
    assert type(model.encoder.backbones[0].model).__name__ == "BertModel" and not ran.exists()


def test_code_of_a_tokenizer_is_not_run_either(tmp_path: Path, ran: Path) -> None:
    folder = bring_code(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**{k: v for k, v in config.items() if k != "auto_map"}, "model_type": "bert"}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with contextlib.suppress(ConfigError):  # refused, or read without that class: either is fine
        SentenceTransformer(str(folder), device="cpu")
    assert not ran.exists()
