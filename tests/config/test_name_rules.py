from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

BASE = ("model=minilm", "dataset.train=pairs.jsonl", "dataset.format=pair")


def problems(tmp_path, text: str, *overrides: str) -> list[str]:
    """What is found in a recipe with this text."""
    folder = tmp_path / "recipe"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_config(["+recipe=mine", *BASE, *overrides], config_dir=str(tmp_path))
    return [str(problem) for problem in caught.value.problems]


def test_names_that_would_leave_the_run_directory_are_refused(tmp_path):
    inner = "{name: sequential, evaluators: {'..\\..\\y': {name: information_retrieval}}}"
    text = (
        "evaluator: {'../../x': {name: information_retrieval}, outer: "
        + inner
        + ", dev: {name: information_retrieval}, Dev: {name: information_retrieval}}\n"
        "dataset: {sources: {'/abs': {train: a.jsonl, format: pair}, con: {train: b.jsonl, format: pair}}}\n"
        "run: {name: ../../z}\n"
    )
    found = "\n".join(problems(tmp_path, text))
    for key, why in (
        ("evaluator.../../x", "'../../x' holds one of"),
        ("evaluator.outer.evaluators...\\..\\y", "holds one of"),
        ("evaluator.Dev", "one file on many disks"),
        ("dataset.sources./abs", "'/abs' holds one of"),
        ("dataset.sources.con", "device under Windows"),
        ("run.name", "where the run lies says run.dir"),
    ):
        assert any(line.startswith(f"{key}: ") and why in line for line in found.splitlines()), (key, found)
    assert "mine.yaml:" in found


def test_the_folder_of_rejected_exports_is_taken(tmp_path):
    found = problems(tmp_path, "export: {rejected: {name: embeddings}}\n")
    assert any("did not pass its verification" in line for line in found)


def test_good_names_pass_and_code_of_models_is_a_warning():
    loaded = load_config([*BASE, "evaluator.d-e_f.name=information_retrieval", "run.name=a-b.c"])
    assert loaded.values["run"]["dir"].endswith("a-b.c") and not any("trust_remote_code" in w for w in loaded.warnings)
    loaded = load_config([*BASE, "model.trust_remote_code=true"])
    assert [w for w in loaded.warnings if "trust_remote_code" in w and "all your rights" in w]
