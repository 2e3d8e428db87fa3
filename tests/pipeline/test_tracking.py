"""Trackers of whole runs: what they get, and that none of them can spoil anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stpipe.cli.main import main
from stpipe.trackers import Memory
from tests.pipeline.conftest import Command
from tests.trackers.broken import read, series
from tests.trackers.mlflow_server import mlflow_server, parameters, tags

EVALUATOR = "+evaluator.dev.name=information_retrieval"
RUN = ("train", "run.dir=out", "trainer.max_steps=4", "trainer.log_steps=1", "trainer.eval_steps=2", EVALUATOR)
OWN = ("imports=[tests.trackers.broken]", "tracker.own.name=broken", "tracker.own.file=got")


@pytest.fixture(autouse=True)
def _environment(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH", "")])))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)


def status(folder: str = "out") -> dict:
    return json.loads((Path(folder) / "status.json").read_text())


def logged(folder: str | Path = "out", rename: Callable[[str], str] = str) -> dict[str, list[tuple[int, float]]]:
    """Series -> (step, value), as metrics.jsonl has them."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        found.setdefault(rename(f"{record['split']}/{record['name']}"), []).append((record["step"], record["value"]))
    assert len(found) > 10 and len(found["train/loss"]) == 4
    return found


def test_a_tracker_that_fails_costs_a_warning_and_gets_everything_later(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    canary = "canary-in-an-override"
    failing = (*OWN, "tracker.own.where=log", "tracker.own.timeout=60", f"tracker.own.api_key={canary}")
    assert stpipe(*RUN, *failing, "trainer.progress=line") == 0
    found = status()
    assert (found["state"], found["exit_code"], found["trackers"]) == ("finished", 0, {"own": "behind"})
    assert [w for w in found["warnings"] if "ConnectionError: no answer" in w and "stpipe track out" in w]
    out, err = capsys.readouterr()
    assert "stpipe track out" in " ".join(err.split())
    assert logged() and not series(Path("got"))
    assert Path("out/report.html").exists() and Path("out/model/README.md").exists()
    # The address that failed is corrected, the rest is as it was.
    assert main(["track", "out", "tracker.own.where=nowhere"]) == 0
    assert series(Path("got")) == logged()
    assert read(Path("got"))[-1] == {"ending": "finished", "exit_code": 0}
    assert status()["trackers"] == {"own": "finished"}
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert len(files) > 20 and not any(canary.encode() in path.read_bytes() for path in files)
    assert canary not in out + err + "".join(capsys.readouterr())


@pytest.mark.slow
@pytest.mark.parametrize(("where", "how"), [("connect", "raise"), ("log", "hang"), ("upload", "die")])
def test_whatever_a_tracker_does_the_run_is_complete(where: str, how: str, stpipe: Command) -> None:
    assert stpipe(*RUN, *OWN, f"tracker.own.where={where}", f"tracker.own.how={how}", "tracker.own.timeout=6") == 0
    found = status()
    assert (found["state"], found["trackers"]) == ("finished", {"own": "behind"})
    assert logged() and Path("out/report.html").exists()


@pytest.mark.slow
def test_a_continued_run_is_the_same_run(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.pipeline import later

    def broken(*args: object) -> None:
        raise OSError("no room for a card")

    with monkeypatch.context() as changed:
        changed.setattr(later, "write_card", broken)
        assert stpipe(*RUN, *OWN) == 5
    assert read(Path("got"))[-1] == {"ending": "partial", "exit_code": 5}
    first = Memory.load(Memory.place(Path("out"), "own")).id
    assert stpipe(*RUN, *OWN, "trainer.resume=auto") == 0
    assert read(Path("got"))[-1] == {"ending": "finished", "exit_code": 0}
    assert {entry["connect"] for entry in read(Path("got")) if "connect" in entry} == {first}
    for name, values in series(Path("got")).items():
        assert len({step for step, _ in values}) == len(values), f"{name} has a step twice"


def test_what_cannot_be_tracked_is_refused(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track"]) == 2
    assert main(["track", "nowhere"]) == 2
    assert stpipe(*RUN) == 0
    capsys.readouterr()
    assert main(["track", "out"]) == 2
    assert "tracker=mlflow" in capsys.readouterr().err
    Path("out/status.json").write_text(json.dumps({**status(), "state": "running", "pid": os.getppid()}))
    assert main(["track", "out", "tracker=tensorboard"]) == 2
    assert "still going on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_at_a_real_server_is_a_parent_with_its_runs(stpipe: Command, tmp_path: Path) -> None:
    """The acceptance of trackers: read back through the REST API of MLflow."""
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as server:
        tracker = ("tracker=[mlflow,tensorboard]", f"tracker.mlflow.tracking_uri={server.address}", "tracker.mlflow.registered_model=tiny")
        job = [o for o in RUN if not o.startswith("run.dir")]
        assert stpipe(*job, *tracker, "run.dir=out/seed-${trainer.seed}", "trainer.seed=1,2", "-m") == 0
        runs = server.runs("stpipe")
        (parent,) = [run for run in runs if "stpipe.sweep" in tags(run)]
        children = [run for run in runs if run is not parent]
        assert parent["info"]["status"] == "FINISHED" and "trainer.seed=1,2" in parameters(parent)["overrides"]
        assert len(children) == 2
        versions = []
        for run in children:
            run_id, folder = run["info"]["run_id"], parameters(run)["run.dir"]
            assert run["info"]["status"] == "FINISHED" and tags(run)["mlflow.parentRunId"] == parent["info"]["run_id"]
            assert tags(run)["stpipe.state"] == status(folder)["state"] == "finished"
            expected = logged(folder, lambda name: name.replace("@", "_at_"))
            found = {name: [(int(m["step"]), m["value"]) for m in server.history(run_id, name)] for name in expected}
            assert found == expected
            assert {"config.yaml", "metrics.jsonl", "model/model.sentence_transformer/model.safetensors"} <= set(server.files(run_id))
            versions.append(server.ask(f"model-versions/search?filter=run_id%3D%27{run_id}%27")["model_versions"][0]["version"])
            assert list(Path(folder, "tensorboard").iterdir())
        assert sorted(versions) == ["1", "2"]
        assert {parameters(run)["trainer.seed"] for run in children} == {"1", "2"}
    assert "STPIPE_SWEEP" not in os.environ
