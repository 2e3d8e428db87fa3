"""`stpipe fetch` from a Hub on this machine, and a whole run in a network namespace without interfaces afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import word
from tests.pipeline.hub_files import FileHub, file_hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # six processes, each of which imports its libraries

README = (
    "---\nconfigs:\n"
    + "".join(
        f"- config_name: {part}\n  data_files:\n  - split: NanoMSMARCO\n    path: {part}.jsonl\n" for part in ("corpus", "queries", "qrels")
    )
    + "---\n"
)
RECIPE = """# @package _global_
defaults: [{override /model: dense}, _self_]
model: {name_or_path: org/tiny}
loss: {name: gist_embed, guide: {model: org/guide}}
dataset: {train: org/pairs, format: pair, eval_rows: 4}
evaluator: {nano: {name: nano_beir, dataset_id: org/nano, datasets: [msmarco]}}
trainer: {max_steps: 2, batch_size: 8, progress: 'off', probe_first_step: false}
run: {dir: out}
"""


def rows(*records: dict[str, object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileHub]:
    """A Hub with a model, a guide, pairs and a set of NanoBEIR."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("tiny", "guide"):
        shutil.copytree(tiny_model, root / "models" / "org" / name)
    (root / "models" / "org" / "tiny" / "tf_model.h5").write_bytes(b"weights of others")
    pairs, nano = (root / "datasets" / "org" / name for name in ("pairs", "nano"))
    for folder in (pairs, nano):
        folder.mkdir(parents=True)
    (pairs / "train.jsonl").write_text(
        rows(*({"anchor": f"{word(i)} {word(i + 7)}", "positive": f"{word(i * 3)} {word(i)}"} for i in range(24)))
    )
    (nano / "README.md").write_text(README)
    (nano / "corpus.jsonl").write_text(rows(*({"_id": f"d{i}", "text": f"{word(i)} {word(i * 2)}"} for i in range(8))))
    (nano / "queries.jsonl").write_text(rows(*({"_id": f"q{i}", "text": word(i)} for i in range(3))))
    (nano / "qrels.jsonl").write_text(rows(*({"query-id": f"q{i}", "corpus-id": f"d{i}"} for i in range(3))))
    with file_hub(root) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, repository: Path) -> Path:
    """A working directory with the recipe."""
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "far.yaml").write_text(RECIPE)
    return tmp_path


def stpipe(place: Path, hub: FileHub, *words: str, home: str = "home", network: bool = True) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with or without any network interface."""
    gone = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment |= {"HF_HOME": str(place / home), "HF_ENDPOINT": hub.address, "STPIPE_CACHE": str(place / "cache"), "COLUMNS": "200"}
    environment |= {"HOME": str(place), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "stpipe", words[0], "+recipe=far", "--config-dir", "conf", *words[1:]]
    apart = [] if network else ["unshare", "--map-root-user", "--net"]
    return subprocess.run([*apart, *command], cwd=place, env=environment, capture_output=True, text=True, timeout=500, check=False)


def downloads(hub: FileHub) -> list[str]:
    """Weights and rows that were asked for since the last call."""
    found = [r for r in hub.requests if r.startswith("GET") and "/resolve/" in r and r.endswith((".safetensors", ".jsonl", ".h5"))]
    hub.requests.clear()
    return found


def test_fetched_once_then_no_network_is_needed(hub: FileHub, place: Path) -> None:
    if subprocess.run(["unshare", "--map-root-user", "--net", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no network namespaces (unshare --net)")
    planned = stpipe(place, hub, "fetch", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("to fetch") == 6 and "loss.guide.model" in planned.stdout and "org/nano (qrels)" in planned.stdout
    assert not downloads(hub) and not list(place.rglob("*.safetensors"))

    # One asset is missing: the others are fetched, and the message names it and the key.
    guide = hub.root / "models" / "org" / "guide"
    guide.rename(guide.with_name("away"))
    failed = stpipe(place, hub, "fetch", "--to", "mirror")
    guide.with_name("away").rename(guide)
    assert (
        failed.returncode == 2
        and "loss.guide.model: " in failed.stderr
        and "org/guide" in failed.stderr
        and "Traceback" not in failed.stderr
    )
    assert failed.stdout.count("fetched") == 5 and failed.stdout.count("MISSING") == 1, failed.stdout
    assert len(downloads(hub)) == 5

    # Fetched again, it takes what is missing only; the connection breaks on the way, which costs nothing that is there.
    hub.cut["model.safetensors"] = 1000
    again = stpipe(place, hub, "fetch", "--to", "mirror")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("fetched") == 1 and again.stdout.count("there") == 5, again.stdout
    assert all("org/guide" in request for request in downloads(hub)) and not list(place.rglob("*.h5"))

    nothing = stpipe(place, hub, "fetch", "offline=true", home="empty", network=False)
    assert nothing.returncode == 2 and nothing.stdout.count("MISSING") == 6, nothing.stdout + nothing.stderr
    run = stpipe(place, hub, "train", "offline=true", home="mirror", network=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert json.loads((place / "out" / "status.json").read_text())["state"] == "finished"
    assert json.loads((place / "out" / "evaluation" / "nano" / "metrics.json").read_text())["systems"]["after"]
    assert not hub.requests
