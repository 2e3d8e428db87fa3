"""backend="onnx" and "openvino" in the three classes, for models that have no graph yet: one is made, kept when the model is saved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.models import CrossEncoder, SentenceTransformer, SparseEncoder
from stpipe.models.base_model import BaseModel
from tests.models.tiny import make_encoder, make_texts, make_tokens
from tests.models.tiny_scores import make_cross_encoder, make_pairs
from tests.models.tiny_splade import save_checkpoint

pytestmark = pytest.mark.slow


def save(kind: str, folder: Path) -> BaseModel:
    """A model of a kind, saved; with positions that start behind that of the padding token where a family has that."""
    made: dict[str, Any] = {
        "dense": lambda: SentenceTransformer(modules=list(make_encoder("roberta").stack), device="cpu"),  # type: ignore[arg-type]
        "cross_encoder": lambda: make_cross_encoder("bert", num_labels=3),
    }
    model: BaseModel = made[kind]()
    model.save_pretrained(folder)
    return model


def outputs(model: Any) -> np.ndarray[Any, Any]:
    if isinstance(model, CrossEncoder):
        return np.asarray(model.predict(make_pairs(12)))
    found = model.encode(make_texts(12, longest=40), convert_to_tensor=True)
    return (found.to_dense() if found.layout != torch.strided else found).numpy()


@dataclass(frozen=True)
class Saved:
    """A model, the same one with a graph made at loading, and the folder that the latter was saved in."""

    original: BaseModel
    model: BaseModel
    folder: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Saved]:
    made: dict[tuple[str, str], Saved] = {}

    def get(kind: str, backend: str) -> Saved:
        if (kind, backend) not in made:
            root = tmp_path_factory.mktemp(kind)
            original = save(kind, root / "model")
            model = type(original)(root / "model", backend=backend, device="cpu")
            model.save_pretrained(root / "saved")
            made[(kind, backend)] = Saved(original, model, root / "saved")
        return made[(kind, backend)]

    return get


@pytest.mark.parametrize(("kind", "backend"), [("dense", "onnx"), ("cross_encoder", "openvino")])
def test_a_graph_is_made_saved_and_loaded(kind: str, backend: str, saved: Callable[[str, str], Saved]) -> None:
    found = saved(kind, backend)
    wanted = outputs(found.original)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(outputs(found.model), wanted, atol=1e-5)
    assert found.model.max_seq_length == found.original.max_seq_length
    assert found.model.encoder.backbone.position_limit == found.original.encoder.backbone.position_limit
    assert found.model.encoder.layout == "padded"
    again = type(found.original)(found.folder, backend=backend, device="cpu", model_kwargs={"export": False})
    np.testing.assert_array_equal(outputs(again), outputs(found.model))


def test_what_a_graph_cannot_do(saved: Callable[[str, str], Saved]) -> None:
    model = SentenceTransformer(saved("dense", "onnx").folder, backend="onnx", device="cpu")
    tokens = make_tokens([4, 7])
    with pytest.raises(ConfigError, match="cannot be trained"):
        model.train()(tokens)
    with pytest.raises(ConfigError, match="no hidden states"):
        model.eval()(tokens, frozenset({"layer_1"}))


def test_options_of_the_runtimes(saved: Callable[[str, str], Saved], tmp_path: Path) -> None:
    import onnxruntime

    folder = saved("dense", "onnx").folder
    with pytest.raises(ConfigError, match=r"provider 'NoSuchProvider'.*CPUExecutionProvider"):
        SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"provider": "NoSuchProvider"})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    chosen = {"provider": "CPUExecutionProvider", "session_options": options}
    network: Any = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=chosen).encoder.backbone.model
    assert network.session.get_session_options().intra_op_num_threads == 1
    (tmp_path / "ov.json").write_text(json.dumps({"INFERENCE_NUM_THREADS": 1}))
    folder = saved("cross_encoder", "openvino").folder
    network = CrossEncoder(
        folder, backend="openvino", device="cpu", model_kwargs={"ov_config": tmp_path / "ov.json"}
    ).encoder.backbone.model
    assert network.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with pytest.raises(ConfigError, match="is no file"):
        CrossEncoder(folder, backend="openvino", device="cpu", model_kwargs={"ov_config": "nowhere.json"})


SIGNALLED = """
import os, signal, sys
from stpipe import CrossEncoder
signal.signal(signal.SIGUSR1, lambda number, frame: print("signal"))
first, second = (CrossEncoder(sys.argv[1], backend="openvino", device="cpu") for _ in range(2))
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
print("alive")
"""


def test_signals_after_models_of_openvino_are_gone(saved: Callable[[str, str], Saved]) -> None:
    """Its cores, when they go in the order they came, leave a freed signal stack behind; the next signal would be the last one."""
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(saved("cross_encoder", "openvino").folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split()[-2:] == ["signal", "alive"], done.stderr


def test_sparse_checkpoint_of_transformers_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    wanted = outputs(SparseEncoder(tmp_path / "model", device="cpu"))
    np.testing.assert_allclose(outputs(SparseEncoder(tmp_path / "model", device="cpu", backend="onnx")), wanted, atol=1e-5)
