from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.engine import checkpoint as module
from stpipe.engine.checkpoint import (
    copy_checkpoint,
    damage,
    damage_of_best,
    list_checkpoints,
    newest_complete,
    open_checkpoint,
    restore_name,
    retain,
    save_checkpoint,
)


def save(folder: Path, step: int, *, best: int | None = None, size: int = 3) -> module.Checkpoint:
    tensors = {"module": {"w": torch.full((size,), float(step))}, "optimizer": {"state": {}}}
    return save_checkpoint(folder, step=step, tensors=tensors, state={"trainer": {"step": step, "best_step": best}})


def flip(path: Path, bit: int) -> None:
    """Another value of one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def steps(folder: Path) -> list[int]:
    return [c.step for c in list_checkpoints(folder)]


def test_round_trip(tmp_path: Path) -> None:
    saved = save(tmp_path, 7)
    found, notes = newest_complete(tmp_path)
    assert found == saved and not notes
    assert found.tensors("module")["w"].tolist() == [7.0, 7.0, 7.0]
    assert found.state() == {"trainer": {"step": 7, "best_step": None}}
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


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    saved, draw, files = save(tmp_path, 3), random.Random(0), 0
    for path in sorted(saved.path.iterdir()):
        whole, files = path.read_bytes(), files + 1
        for bit in [draw.randrange(8 * len(whole)) for _ in range(60)]:
            flip(path, bit)
            assert damage(saved) is not None, f"bit {bit} of {path.name}"
            path.write_bytes(whole)
        assert damage(saved) is None
    assert files == 4


def test_the_best_weights_belong_to_a_checkpoint(tmp_path: Path) -> None:
    """One whose best weights are damaged is not complete; an older one that has better company is taken."""
    save(tmp_path, 1)
    best = save(tmp_path, 2, best=2)
    newest = save(tmp_path, 3, best=2)
    assert newest.best == best and best.best is None
    flip(best.path / "module.pt", 77)
    assert "step-00000002" in (damage_of_best(newest) or "")
    found, notes = newest_complete(tmp_path)
    assert found is not None and found.step == 1
    assert [note.split(":")[0] for note in notes] == ["passed over step-00000003", "passed over step-00000002"]
    alone, _ = newest_complete(tmp_path, with_best=False)
    assert alone == newest


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_checkpoint_is_never_gone_while_another_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Whichever rename the process dies at, the step can be continued from, and has its own name again."""
    save(tmp_path, 4)
    calls: list[Path] = []
    rename = Path.rename

    def dies(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == {"first": 1, "second": 2}[place]:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 4)
    found, notes = newest_complete(tmp_path)
    assert found is not None and found.step == 4 and not notes
    restore_name(found)
    assert (tmp_path / "step-00000004").exists()
    save(tmp_path, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"], "leftovers are cleared"


def test_copies_of_a_user_are_no_checkpoints(tmp_path: Path) -> None:
    saved = save(tmp_path, 3)
    shutil.copytree(saved.path, tmp_path / "step-00000003 copy")
    shutil.copytree(saved.path, tmp_path / "step-best")
    assert steps(tmp_path) == [3]
    assert open_checkpoint(tmp_path / "step-best").step == 3, "but they can be named"
    assert copy_checkpoint(saved, tmp_path / "other").path == tmp_path / "other" / "step-00000003"
    assert steps(tmp_path / "other") == [3] and damage(list_checkpoints(tmp_path / "other")[0]) is None


def test_what_was_never_completed_is_not_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".writing-step-00000002").mkdir()
    (tmp_path / "step-00000003").mkdir()
    assert [c.step for c in list_checkpoints(tmp_path)] == [1]


SMALL = 20_000
FULL = """
import resource, sys
from pathlib import Path
from tests.engine.test_checkpoint import SMALL, save
save(Path(sys.argv[1]), 1)
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))
save(Path(sys.argv[1]), 2, size=1_000_000)
"""


def test_a_file_that_cannot_grow_leaves_earlier_checkpoints(tmp_path: Path) -> None:
    """The real thing: the system refuses to write on. torch reports that as a RuntimeError about its own files."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    save(tmp_path, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        with pytest.raises(
            TrainingError, match=r"could not write checkpoint .*step-00000002: File too large.*Earlier checkpoints are intact"
        ):
            save(tmp_path, 2, size=1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    found, notes = newest_complete(tmp_path)
    assert found is not None and found.step == 1 and not notes
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.slow
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """On a file system of 2 MB, mounted in a namespace of its own."""
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*own, mount], check=False, capture_output=True).returncode:
        pytest.skip("needs namespaces of a user, to mount a small file system in; the test with a limit of file sizes ran")
    script = tmp_path.with_suffix(".py")
    script.write_text(FULL)
    command = (
        f"{mount} && {sys.executable} {script} {tmp_path} full; find {tmp_path} -type f; test -e {tmp_path}/step-00000001/manifest.json"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [*own, command], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "step-00000002: No space left on device. Earlier checkpoints are intact" in done.stderr
    assert "step-00000001/module.pt" in done.stdout and "step-00000002" not in done.stdout


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
    retain(tmp_path, current=5, limit=2, keep={2})
    assert steps(tmp_path) == [2, 5]
    retain(tmp_path, current=5, limit=1, keep={2})
    assert steps(tmp_path) == [2, 5]


@pytest.mark.parametrize("limit", [1, 2])
def test_retention_keeps_the_last_good_one(tmp_path: Path, limit: int) -> None:
    """The newest is damaged, so the run goes on from the one before, and saves at a step between them: what it saved must stay."""
    save(tmp_path, 2)
    bad = save(tmp_path, 9)
    flip(bad.path / "module.pt", 99)
    found, _ = newest_complete(tmp_path)
    assert found is not None and found.step == 2
    save(tmp_path, 5)
    retain(tmp_path, current=5, limit=limit, keep=set())
    assert steps(tmp_path) == [2, 5][-limit:]
    found, notes = newest_complete(tmp_path)
    assert found is not None and found.step == 5 and not notes


def test_a_half_deleted_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    real: Callable[..., None] = shutil.rmtree

    def dies(path: Path, **options: object) -> None:
        if path.exists():
            next(iter(path.iterdir())).unlink()
            raise KeyboardInterrupt
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            retain(tmp_path, current=2, limit=1, keep=set())
    assert steps(tmp_path) == [2] and newest_complete(tmp_path)[1] == []


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
