from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.engine import checkpoint as module
from stpipe.engine.checkpoint import damage, list_checkpoints, newest_complete, open_checkpoint, retain, save_checkpoint


def save(folder: Path, step: int) -> module.Checkpoint:
    tensors = {"module": {"w": torch.full((3,), float(step))}, "optimizer": {"state": {}}}
    return save_checkpoint(folder, step=step, tensors=tensors, state={"trainer": {"step": step}})


def test_round_trip(tmp_path: Path) -> None:
    saved = save(tmp_path, 7)
    found, notes = newest_complete(tmp_path)
    assert found == saved and not notes
    assert found.tensors("module")["w"].tolist() == [7.0, 7.0, 7.0]
    assert found.state() == {"trainer": {"step": 7}}
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tmp_path: Path, harm: str) -> None:
    save(tmp_path, 1)
    bad = save(tmp_path, 2)
    file = bad.path / ("manifest.json" if harm == "manifest" else "module.pt")
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif harm == "remove":
        file.unlink()
    else:
        file.write_bytes(bytes(data[:-1]))
    assert damage(bad)
    found, notes = newest_complete(tmp_path)
    assert found is not None and found.step == 1
    assert len(notes) == 1 and "step-00000002" in notes[0]


def test_what_was_never_completed_is_not_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".writing-step-00000002").mkdir()
    (tmp_path / "step-00000003").mkdir()
    assert [c.step for c in list_checkpoints(tmp_path)] == [1]


@pytest.mark.parametrize("call", ["rename", "save"])
def test_a_failing_disk_leaves_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save(tmp_path, 1)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    if call == "save":
        monkeypatch.setattr(torch, "save", full)
    else:
        monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(TrainingError, match=r"No space left.*Earlier checkpoints are intact"):
        save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_retention_keeps_newest_and_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    retain(tmp_path, limit=2, keep={2})
    assert [c.step for c in list_checkpoints(tmp_path)] == [2, 5]
    retain(tmp_path, limit=1, keep={2})
    assert [c.step for c in list_checkpoints(tmp_path)] == [2, 5]


def test_an_explicit_path_must_be_intact(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        open_checkpoint(tmp_path)
    saved = save(tmp_path, 1)
    assert open_checkpoint(saved.path).step == 1
    (saved.path / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="damaged"):
        open_checkpoint(saved.path)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    torch.save({"w": module.Checkpoint(tmp_path, 1)}, saved.path / "module.pt")
    with pytest.raises(Exception, match="weights_only|Unsupported|Weights only"):
        saved.tensors("module")
