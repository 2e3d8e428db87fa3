"""Which directory may be begun, continued or left alone, also after a kill at the very start of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stpipe.config.errors import ConfigError
from stpipe.pipeline.run_dir import RunDirectory, claim, start_fresh


def values(*, resume: str = "auto", batch_size: int = 8, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"run": {"overwrite": False}, "trainer": {"resume": resume, "resume_allow": list(allow), "batch_size": batch_size}}


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def begun(directory: RunDirectory) -> RunDirectory:
    start_fresh(directory, overwrite=False)
    directory.config.write_text(yaml.safe_dump(values()))
    return directory


def test_what_a_kill_at_the_start_leaves_can_be_begun_again(directory: RunDirectory) -> None:
    directory.path.mkdir()
    (directory.path / ".stpipe-abc").mkdir()
    (directory.path / ".status.json.17.tmp").write_text("{")
    assert claim(directory, values()).mode == "fresh"
    start_fresh(directory, overwrite=False)
    assert json.loads(directory.status.read_text())["state"] == "running", "the first of all files"
    assert claim(directory, values()).mode == "fresh"
    begun(directory)
    assert claim(directory, values()).mode == "resume"


def test_files_without_a_run_are_left_alone(directory: RunDirectory) -> None:
    directory.path.mkdir()
    (directory.path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files but no run"):
        claim(directory, values())
    with pytest.raises(ConfigError, match=r"trainer\.resume=auto to continue"):
        claim(begun(directory), values(resume="never"))


def test_another_configuration_is_refused_or_allowed_by_name(directory: RunDirectory) -> None:
    begun(directory)
    with pytest.raises(ConfigError, match=r"trainer\.batch_size: 8 in the run, 16 now \(trainer\.resume_allow=\[batch_size\]\)"):
        claim(directory, values(batch_size=16))
    with pytest.raises(ConfigError, match=r"trainer\.batch_size"):
        claim(directory, values(batch_size=16, allow=("data",)))
    assert claim(directory, values(batch_size=16, allow=("batch_size",))).mode == "resume"
