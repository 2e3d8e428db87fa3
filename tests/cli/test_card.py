"""`stpipe card`: mistakes are told with the fix, and nothing is replaced that cannot be made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.cli.main import main


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "--help"]) == 0
    assert "stpipe card DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("DIR is missing",)),
        (("card.license=mit",), ("DIR is missing",)),
        (("none",), ("'none' is no directory",)),
        (("empty",), ("no model directory", "modules.json")),
        (("model", "card.licence=mit"), ("Did you mean 'license'", "card.language")),
        (("model", "trainer.seed=3"), ("no key of a card",)),
        (("model", "card.language=English"), ("no language code",)),
        (("model", "card.examples=yes"), ("expected true or false",)),
        (("model", "card.template=none.j2"), ("cannot be read",)),
        (("model",), ("--overwrite",)),
        (("started",), ("without model/",)),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "model", "started"):
        Path(name).mkdir()
    Path("started/config.yaml").write_text("run: {name: x}\n", encoding="utf-8")
    Path("model/modules.json").write_text("[]", encoding="utf-8")
    Path("model/README.md").write_text("written by hand", encoding="utf-8")
    assert main(["card", *words]) == 2
    message = capsys.readouterr().err
    for part in parts:
        assert part in message
    assert Path("model/README.md").read_text(encoding="utf-8") == "written by hand"


def test_a_saved_model(package_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in package_model.iterdir():
        if source.name != "README.md":
            (tmp_path / source.name).symlink_to(source)
    assert main(["card", str(tmp_path), "card.license=apache2", "card.model_name=Small"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "README.md") and "Did you mean 'apache-2.0'" in told.err
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "# Small\n" in text and "| Output dimensions | 384 |" in text
    assert main(["card", str(tmp_path)]) == 2
    assert main(["card", str(tmp_path), "--overwrite"]) == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") != text
