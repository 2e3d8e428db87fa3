"""Which file a backend loads: the rules of the documentation, and errors that list what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.models import SentenceTransformer
from stpipe.models.paths import unneeded
from stpipe.models.runtimes import GraphFile, graph_name
from tests.models.tiny import make_encoder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "onnx/model.onnx"),
        ({"file_name": "model_O3.onnx"}, "onnx/model_O3.onnx"),
        ({"file_name": "onnx/model_O3.onnx"}, "onnx/model_O3.onnx"),
        ({"file_name": "own.onnx"}, "own.onnx"),
        ({"subfolder": "sub"}, "sub/onnx/model.onnx"),
        ({"export": False}, "onnx/model.onnx"),
        ({"export": True}, None),
        ({"export": True, "file_name": "model_O3.onnx"}, None),
    ],
)
def test_onnx_files(tmp_path: Path, options: dict[str, object], expected: str | None) -> None:
    touch(tmp_path, "onnx/model.onnx", "onnx/model_O3.onnx", "own.onnx", "sub/onnx/model.onnx")
    found = GraphFile.find(tmp_path, "onnx", options)
    assert found.file == (None if expected is None else tmp_path / expected)


def test_the_top_folder_wins(tmp_path: Path) -> None:
    touch(tmp_path, "openvino_model.xml", "openvino/openvino_model.xml")
    assert GraphFile.find(tmp_path, "openvino", {}).file == tmp_path / "openvino_model.xml"


def test_nothing_there_is_made_unless_that_is_forbidden_or_a_name_was_given(tmp_path: Path) -> None:
    assert GraphFile.find(tmp_path, "onnx", {}).file is None
    touch(tmp_path, "onnx/model_O1.onnx")
    for options in ({"export": False}, {"file_name": "model_O2.onnx"}):
        with pytest.raises(ConfigError, match=r"There: onnx/model_O1.onnx.*stpipe export"):
            GraphFile.find(tmp_path, "onnx", options)


def test_names_do_not_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves the model directory"):
        GraphFile.find(tmp_path, "onnx", {"file_name": "../model.onnx"})


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"backend 'onyx'.*onnx"):
        SentenceTransformer("anything", backend="onyx")
    with pytest.raises(ConfigError, match="for models that are loaded"):
        SentenceTransformer(modules=list(make_encoder("bert").stack), backend="onnx")  # type: ignore[arg-type]


def test_names_of_graphs() -> None:
    assert graph_name("onnx") == "model.onnx" and graph_name("onnx", "qint8_arm64") == "model_qint8_arm64.onnx"
    assert graph_name("openvino", "qint8_quantized") == "openvino_model_qint8_quantized.xml"


def test_the_hub_is_asked_for_the_files_of_the_backend() -> None:
    assert "onnx/*" in unneeded("torch") and "onnx/*" in unneeded("openvino") and "openvino/*" in unneeded("onnx")
    assert not any("onnx" in pattern for pattern in unneeded("onnx")) and "openvino/*" not in unneeded("openvino")
