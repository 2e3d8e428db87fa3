"""What may differ between a run and its continuation, and what allows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.engine.checkpoint import Checkpoint, save_checkpoint
from stpipe.pipeline.identity import FREE, allowance, differences, identity, listed, refused
from stpipe.pipeline.resume import changes_since, check_changes, versions

OLD = {
    "trainer.batch_size": 8,
    "backend.name": "ddp",
    "number of processes": 2,
    "fingerprint of data 'default'": "abc",
    "version of torch": "2.13.0",
    "optimizer.lr": 0.1,
}


@pytest.mark.parametrize(
    ("key", "old", "new", "name"),
    [
        ("number of processes", 2, 4, "processes"),
        ("backend.name", "ddp", "single", "processes"),
        ("backend.name", "ddp", "fsdp2", None),
        ("trainer.batch_size", 8, 16, "batch_size"),
        ("trainer.accumulation_steps", 1, 2, "batch_size"),
        ("dataset.sources.a.batch_size", 8, 16, "batch_size"),
        ("fingerprint of data 'a'", "x", "y", "data"),
        ("fingerprint of data 'a'", None, "y", None),
        ("dataset.max_rows", 10, 20, "data"),
        ("version of stpipe", "0.1", "0.2", "versions"),
        ("optimizer.lr", 0.1, 0.2, None),
        ("trainer.seed", 1, 2, None),
        ("model.name_or_path", "a", "b", None),
    ],
)
def test_what_allows_a_change(key: str, old: object, new: object, name: str | None) -> None:
    change = (key, old, new)
    assert allowance(change) == name
    every = ("processes", "batch_size", "data", "versions")
    assert refused([change], every) == ([change] if name is None else [])
    assert refused([change], [n for n in every if n != name]) == [change]
    assert (f"resume_allow=[{name}]" in listed([change], place="run")) == (name is not None)


def test_what_is_free_is_no_part_of_the_identity() -> None:
    values = {"trainer": {"resume_allow": ["data"], "seed": 1}, "run": {"dir": "x"}}
    assert "trainer.resume_allow" in FREE and identity(values) == {"trainer.seed": 1}


def test_versions_are_those_of_the_code_that_computes() -> None:
    assert versions()["torch"] == torch.__version__ and {"stpipe", "transformers", "accelerate", "numpy"} <= versions().keys()


def checkpoint(folder: Path, *, parts: int = 0) -> Checkpoint:
    own = {f"optimizer-{rank:05d}": [] for rank in range(parts)}
    return save_checkpoint(folder, step=6, tensors={"module": {}, **own}, state={"identity": OLD})


def test_each_change_is_refused_with_its_values_and_what_allows_it(tmp_path: Path) -> None:
    now = {**OLD, "trainer.batch_size": 16, "version of torch": "2.14.0", "optimizer.lr": 0.2}
    with pytest.raises(ConfigError) as caught:
        check_changes(checkpoint(tmp_path), now, ["versions"])
    text = str(caught.value)
    assert "trainer.batch_size: 8 in the checkpoint, 16 now (trainer.resume_allow=[batch_size])" in text
    assert "optimizer.lr: 0.1 in the checkpoint, 0.2 now" in text and "version of torch" not in text
    found = changes_since(checkpoint(tmp_path), now)
    assert found == differences(OLD, now) and len(found) == 3
    assert changes_since(None, now) == []


def test_parts_of_an_optimizer_cannot_be_dealt_out_anew(tmp_path: Path) -> None:
    now = {**OLD, "number of processes": 4}
    check_changes(checkpoint(tmp_path / "whole"), now, ["processes"])
    with pytest.raises(ConfigError, match="the optimiser in 2 parts, one for each process"):
        check_changes(checkpoint(tmp_path / "parts", parts=2), now, ["processes"])


def test_a_change_must_leave_steps_to_do(tmp_path: Path) -> None:
    """Twice the batch is half the steps: the checkpoint may be of one that the run does not have any more."""
    now = {**OLD, "trainer.batch_size": 16}
    check_changes(checkpoint(tmp_path), now, ["batch_size"], num_steps=7)
    with pytest.raises(ConfigError, match="is of step 6, and with these settings the run has 6 steps: none would be left"):
        check_changes(checkpoint(tmp_path), now, ["batch_size"], num_steps=6)
    check_changes(checkpoint(tmp_path), OLD, [], num_steps=6)
