"""MLflow against a real server with sqlite, read back through its REST API."""

from __future__ import annotations

import math
import os
import threading

import pytest

from stpipe.config.sweep import Sweep
from stpipe.trackers import Ending, Memory, MLflowTracker, TrackedRun
from stpipe.trackers.follow import Follower
from stpipe.trackers.mlflow import VALUE, metric_name, parts, status, text
from tests.trackers.mlflow_server import mlflow_server, parameters, tags
from tests.trackers.run_folder import CONFIG, LINES, SERIES, line, make_run, write_lines, write_status

pytest.importorskip("mlflow", reason="needs the extra mlflow")
OVER = threading.Event()
OVER.set()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as found:
        yield found


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.get(name, "true"))


def follow(folder, server, *, sweep=None, config=CONFIG, **options):
    """Send a run in this process; what is remembered of it."""
    memory = Memory.load(Memory.place(folder, "ml"))
    tracker = MLflowTracker(tracking_uri=server.address, **options)
    assert Follower(tracker, TrackedRun(folder, config, sweep=sweep), memory, OVER).follow()
    return memory


def names_and_values(server, run_id):
    """Series -> (step, value), all that the server has."""
    keys = {key: metric_name(key) for key in (*SERIES, "train/odd")}
    histories = {key: server.history(run_id, name) for key, name in keys.items()}
    return {key: [(int(m["step"]), m["value"]) for m in found] for key, found in histories.items() if found}


@pytest.mark.slow
def test_a_run_with_metrics_parameters_files_and_a_registered_model(tmp_path, server):
    long = {**CONFIG, "dataset": {"columns": {}, "train": "x" * 10_000, "prompts": ["a", 1]}}
    folder = make_run(tmp_path / "out")
    memory = follow(folder, server, experiment="whole", config=long, artifacts="reports", registered_model="a-model")
    (run,) = server.runs("whole")
    assert run["info"]["run_id"] == memory.id and run["info"]["run_name"] == "a-run" and run["info"]["status"] == "FINISHED"
    assert memory.url == f"{server.address}/#/experiments/{server.experiment('whole')}/runs/{memory.id}"
    found = parameters(run)
    assert found["optimizer.lr"] == "2e-05" and found["trainer.max_steps"] == "4" and found["dataset.columns"] == "{}"
    assert found["dataset.train"] == "x" * (VALUE - 3) + "..." and found["dataset.prompts"] == '["a", 1]'
    assert "model.revision" not in found, "what is not set is no parameter"
    assert names_and_values(server, memory.id) == SERIES
    times = [m["timestamp"] for m in server.history(memory.id, "train/loss")]
    assert times == [int(1000 * record["time"]) for record in LINES if record["name"] == "loss"]
    assert {key: tags(run)[f"stpipe.{key}"] for key in ("state", "exit_code", "tags")} == {
        "state": "finished", "exit_code": "0", "tags": "first, second",
    }  # fmt: skip
    inner = "model/model.sentence_transformer"
    assert set(server.files(memory.id)) == {
        "config.yaml", "status.json", "metrics.jsonl", "report.html", "evaluation/dev/metrics.json", "evaluation/dev/per_query.jsonl",
        "model/MLmodel", f"{inner}/config.json", f"{inner}/config_sentence_transformers.json",
    }  # fmt: skip
    kept = next(server.artifacts.rglob(f"{memory.id}/artifacts/metrics.jsonl"))
    assert kept.read_bytes() == (folder / "metrics.jsonl").read_bytes()
    (version,) = server.ask("registered-models/get?name=a-model")["registered_model"]["latest_versions"]
    assert (version["version"], version["run_id"], version["source"]) == ("1", memory.id, f"runs:/{memory.id}/model")
    # Once more: nothing is sent twice, and there is no second version.
    follow(folder, server, experiment="whole", config=long, artifacts="reports", registered_model="a-model")
    assert names_and_values(server, memory.id) == SERIES and len(server.runs("whole")) == 1
    assert server.ask("registered-models/get?name=a-model")["registered_model"]["latest_versions"][0]["version"] == "1"


@pytest.mark.slow
def test_a_continued_run_is_the_same_run_even_when_its_last_steps_were_forgotten(tmp_path, server):
    folder = make_run(tmp_path / "out", state="running", exit_code=None, lines=[*LINES[:6], line(3, "odd", math.nan)])
    memory = follow(folder, server, experiment="continued")
    assert server.runs("continued")[0]["info"]["status"] == "KILLED"
    memory.sent.clear()  # killed after the server had it and before that was written down
    memory.save()
    write_lines(folder, LINES, mode="w")
    write_status(folder, "failed", 1, "train: no room at http://user:hunter2@host")
    changed = {**CONFIG, "trainer": {**CONFIG["trainer"], "seed": 43, "resume": "auto"}}
    again = follow(folder, server, experiment="continued", config=changed)
    (run,) = server.runs("continued")
    assert again.id == memory.id == run["info"]["run_id"]
    assert run["info"]["status"] == "FAILED" and tags(run)["stpipe.error"] == "train: no room at http://<redacted>@host"
    found = names_and_values(server, memory.id)
    assert found.pop("train/odd")[0][0] == 3
    assert found == SERIES
    assert (parameters(run)["trainer.seed"], parameters(run)["trainer.resume"]) == ("42", "auto"), "MLflow lets no parameter change"


@pytest.mark.slow
def test_a_run_whose_id_was_lost_is_found_again(tmp_path, server):
    folder = make_run(tmp_path / "out")
    memory = follow(folder, server, experiment="lost")
    first, memory.id = memory.id, None
    memory.save()
    assert follow(folder, server, experiment="lost").id == first
    assert len(server.runs("lost")) == 1


@pytest.mark.slow
def test_a_sweep_is_a_parent_that_ends_as_its_worst_job(tmp_path, server):
    sweep = Sweep.of(["trainer.seed=1,2", "x.api_key=swordfish"])
    jobs = [make_run(tmp_path / name, state=state, exit_code=code) for name, state, code in (("a", "finished", 0), ("b", "failed", 1))]
    first = follow(jobs[0], server, experiment="sweep", sweep=sweep)
    parent = next(run for run in server.runs("sweep") if "stpipe.sweep" in tags(run))
    assert parent["info"]["status"] == "FINISHED"
    second = follow(jobs[1], server, experiment="sweep", sweep=sweep)
    runs = {run["info"]["run_id"]: run for run in server.runs("sweep")}
    assert len(runs) == 3
    top = runs.pop(parent["info"]["run_id"])
    assert top["info"]["run_name"] == sweep.name and top["info"]["status"] == "FAILED"
    assert parameters(top) == {"overrides": "trainer.seed=1,2 x.api_key=<redacted>"}
    assert set(runs) == {first.id, second.id}
    assert {tags(run)["mlflow.parentRunId"] for run in runs.values()} == {top["info"]["run_id"]}
    write_status(jobs[1], "finished", 0)
    follow(jobs[1], server, experiment="sweep", sweep=sweep)
    assert next(r for r in server.runs("sweep") if "stpipe.sweep" in tags(r))["info"]["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("state", "word"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("partial", "FAILED"), ("interrupted", "KILLED"), ("preempted", "KILLED"), ("killed", "KILLED")],
)  # fmt: skip
def test_words_for_endings(state, word):
    assert status(Ending(state)) == word


def test_names_and_values_that_it_takes():
    assert metric_name("eval/dev_cosine_ndcg@10") == "eval/dev_cosine_ndcg_at_10"
    assert metric_name("train/loss/a+b") == "train/loss/a_b"
    assert text("a") == "a" and text(1.5) == "1.5" and text([1, "a"]) == '[1, "a"]' and text(True) == "true"
    assert len(text("x" * 7000)) == VALUE
    assert parts(list(range(5)), 2) == [[0, 1], [2, 3], [4]]
