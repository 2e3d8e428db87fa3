"""A dry run touches nothing, says what would be done, and refuses what the run would refuse."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from stpipe.cli.main import main
from stpipe.config.locations import recipes_dir
from tests.pipeline.conftest import Command
from tests.pipeline.teachers import cross_teacher, dense_teacher
from tests.pipeline.test_errors import CASES

SHARED = ("trainer.max_steps=12", "trainer.eval_steps=4", "+evaluator.dev.name=information_retrieval", "run.dir=out")
RECIPES = sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def snapshot(*folders: Path) -> dict[str, tuple]:
    """Every file and folder with its size and the time of its last change."""
    found = {}
    for folder in folders:
        for path in (folder, *sorted(folder.rglob("*"))):
            stat = path.lstat()
            found[str(path)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


@pytest.fixture
def untouched(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Checks that nothing changes: not in the working directory, the caches, the home directory; nor is anything left among temporary files."""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for folder in (home, temporary, fresh_cache):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "fonts"))  # made by whoever imports matplotlib first
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def unchanged(*command: str, stpipe: Command, code: int = 0) -> None:
        before = snapshot(tmp_path)
        temporary_before = before.pop(str(temporary))
        time.sleep(0.01)
        assert stpipe(*command, "--dry-run") == code
        after = snapshot(tmp_path)
        assert after.pop(str(temporary))[0] == temporary_before[0]
        assert after == before
        assert list(temporary.iterdir()) == []

    return unchanged


def test_it_says_what_would_be_done_and_touches_nothing(
    stpipe: Command, untouched, fresh_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untouched("train", *SHARED, stpipe=stpipe)
    text = capsys.readouterr().out
    for part in ("12 steps", "out (new)", "stage train", "writes checkpoints, metrics.jsonl", "stage evaluate", "stage report", "would be tokenised",
                 "memory", "weights", "activations", "time", "training about", "evaluations about", "nothing was written"):  # fmt: skip
        assert part in text, part
    assert "stage export" not in text and "in the cache" not in text
    assert stpipe("prepare", *SHARED) == 0
    assert list((fresh_cache / "tokens").iterdir())
    capsys.readouterr()
    untouched("train", *SHARED, stpipe=stpipe)
    assert "in the cache" in capsys.readouterr().out


def test_a_run_that_is_there(stpipe: Command, untouched, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", *SHARED, "--stage", "train") == 0
    capsys.readouterr()
    untouched("train", *SHARED, stpipe=stpipe, code=2)
    assert "holds a run" in capsys.readouterr().err
    untouched("train", *SHARED, "trainer.resume=auto", stpipe=stpipe)
    text = capsys.readouterr().out
    assert "out (continued)" in text and "step 12 in out/checkpoints" in text
    untouched("train", *SHARED, "trainer.resume=auto", "--stage", "evaluate", stpipe=stpipe, code=2)
    assert "'evaluate' comes after 'save'" in capsys.readouterr().err


def test_every_job_of_a_sweep(stpipe: Command, untouched, capsys: pytest.CaptureFixture[str]) -> None:
    shared = [o for o in SHARED if not o.startswith("run.dir")]
    untouched("train", *shared, "run.dir=seed-${trainer.seed}", "trainer.seed=1,2,3", "-m", stpipe=stpipe)
    out, err = capsys.readouterr()
    assert out.count("Dry run: nothing was written") == 3
    assert all(f"seed-{seed} (new)" in out and f"trainer.seed={seed}" in err for seed in (1, 2, 3))


def test_models_are_asked_nothing_but_one_text(
    stpipe: Command,
    untouched,
    tmp_path: Path,
    pairs: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Mining, teachers and guides have stand-ins, whose data are of the right format."""
    from stpipe.pipeline.frozen import FrozenModel
    from stpipe.util.mining.mine import Mining

    monkeypatch.setattr(Mining, "blocks", lambda self: pytest.fail("mined"))
    asked: list[int] = []
    original = FrozenModel._encoded

    def encoded(self, texts, side):
        asked.append(len(texts))
        return original(self, texts, side)

    monkeypatch.setattr(FrozenModel, "_encoded", encoded)
    dense = dense_teacher(tmp_path / "dense")
    untouched("train", *SHARED, "mine.num_negatives=2", "mine.output_format=n-tuple", stpipe=stpipe)
    text = " ".join(capsys.readouterr().out.split())
    assert "would be mined; random negatives stand in" in text and "n-tuple (anchor, positive, negative_1, negative_2)" in text
    guided = f"+loss={{name: gist_embed, temperature: 0.1, guide: {{model: {dense}}}}}"
    untouched("train", *SHARED, "dataset.format=pair", guided, stpipe=stpipe)
    capsys.readouterr()
    untouched(
        "train", "run.dir=out", f"+dataset.teacher={{model: {dense}, output: scores}}", "dataset.format=pair", "loss=cosent", stpipe=stpipe
    )
    assert "would be asked of" in capsys.readouterr().out
    assert set(asked) == {1} and len(asked) >= 4


def test_a_teacher_that_cannot_teach_is_refused_as_in_a_run(
    stpipe: Command, untouched, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reranker = cross_teacher(tmp_path / "cross", tiny_model, num_labels=3)
    teacher = f"+dataset.teacher={{model: {reranker}, output: scores}}"
    command = ("train", "run.dir=out", teacher, "dataset.format=pair", "loss=cosent")
    untouched(*command, stpipe=stpipe, code=2)
    planned = capsys.readouterr().err
    assert "dataset.teacher" in planned and "3" in planned, planned
    assert stpipe(*command) == 2
    assert capsys.readouterr().err == planned


@pytest.mark.parametrize("case", list(CASES))
def test_what_a_run_refuses_a_dry_run_refuses(case: str, stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    make, code, words = CASES[case]
    overrides = make()
    run_dir = () if any(o.startswith("run.dir") for o in overrides) else ("run.dir=out",)
    assert stpipe("train", *overrides, *run_dir, "trainer.max_steps=2", "--dry-run") == code
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_what_is_not_here_is_named(stpipe: Command, untouched, capsys: pytest.CaptureFixture[str]) -> None:
    """A run may download it, so this is no reason to refuse; offline it is."""
    shared = ("model.name_or_path=nobody/no-such-model", *SHARED)
    untouched("train", *shared, "offline=false", stpipe=stpipe)
    text = capsys.readouterr().out
    assert "nobody/no-such-model: the run would download it" in text and "stage train" in text
    untouched("train", *shared, "offline=true", stpipe=stpipe, code=2)


def test_processes_are_planned_by_one(stpipe: Command, untouched, capsys: pytest.CaptureFixture[str]) -> None:
    untouched("train", *SHARED, "backend.num_processes=2", stpipe=stpipe)
    text = " ".join(capsys.readouterr().out.split())
    assert "2, backend ddp" in text and "batch 16" in text


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["", "smoke"])
def test_every_recipe_is_planned_as_far_as_it_is_here(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `validate` accepts a dry run accepts, and the other way round; those on embedded data are planned whole in test_recipes."""
    monkeypatch.chdir(tmp_path)
    seen = 0
    for recipe in RECIPES:
        arguments = (f"+recipe={recipe}", *([f"+profile={profile}"] if profile else []))
        assert main(["validate", *arguments]) == main(["train", *arguments, "--dry-run"]) == 0, recipe
        seen += 1
    assert seen >= 12 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_estimates_are_of_the_right_size(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Seconds of training, against those that it took: within a factor of ten on a machine that does other things besides."""
    from stpipe.pipeline import dry_run

    found = []
    original = dry_run.add_estimate

    def keep(notes, estimated, plan, device):
        found.append(estimated)
        original(notes, estimated, plan, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dry_run, "add_estimate", keep)
        assert stpipe("train", *SHARED, "trainer.max_steps=40", "--dry-run") == 0
    assert stpipe("train", *SHARED, "trainer.max_steps=40", "trainer.save_steps=40", "trainer.eval_steps=40") == 0
    took = json.loads(Path("out/status.json").read_text())["stages"]["train"]["seconds"]
    (estimated,) = found
    assert took / 10 < estimated.train_seconds < took * 10
    assert estimated.bytes["weights"] > 0 and estimated.bytes["activations"] > 0
    assert os.environ.get("HF_HUB_OFFLINE") == "1", "the switches are as before"
