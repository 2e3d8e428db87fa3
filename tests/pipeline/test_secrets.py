"""A canary in every place where a secret may stand: it is in no file that a command leaves behind and in nothing that it shows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stpipe.config import redact
from tests.pipeline.conftest import Command

CANARY = "c4n4ry" * 7
#: Names of variables that hold secrets; each value is told from the others by its end.
VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
OWN = (
    "imports=[tests.pipeline.leaky,tests.trackers.broken]",
    "callbacks.leaky.name=leaky",
    f"callbacks.leaky.hub_token={CANARY}-override",
    f"callbacks.leaky.address='https://me:{CANARY}-address@host/x?api_key={CANARY}-query'",
    "tracker.own.name=broken",
    "tracker.own.file=got",
    f"tracker.own.api_key={CANARY}-tracker",
    f"run.tags=['see https://me:{CANARY}-tag@host']",
)
RUN = ("train", "run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1", "evaluator={}")


@pytest.fixture(autouse=True)
def _environment(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH", "")])))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{CANARY}-{name.lower()}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(redact, "_remembered", set())


def leaks(folder: Path) -> list[str]:
    """Files with a canary in them or in their name, and how many files there are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if CANARY.encode() in path.read_bytes() or CANARY in path.name]


def test_a_run_that_fails_shows_and_keeps_no_secret(stpipe: Command, fresh_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert stpipe(*RUN, *OWN, "callbacks.leaky.fail=true", "trainer.progress=line") == 1
    out, err = capfd.readouterr()
    assert "RuntimeError" in err and "<redacted>" in err and "Traceback" in err, err[-3000:]
    status = json.loads(Path("out/status.json").read_text())
    assert status["state"] == "failed" and "401 for https://<redacted>@host/x?api_key=<redacted> with" in status["error"]
    config = Path("out/config.yaml").read_text()
    assert "hub_token: <redacted>" in config and "api_key: <redacted>" in config and "https://<redacted>@host" in config
    assert len(list(Path("out").rglob("*"))) > 8
    assert not leaks(Path()) and CANARY not in out + err


def test_what_is_wrong_with_a_configuration_is_said_without_its_secrets(stpipe: Command, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = (
        ("tracker.own.name=broken", f"tracker.own.api_key={CANARY}", "tracker.own.fil=x"),
        ("tracker.own.name=broken", f"tracker.own.api_key=[{CANARY}]"),
        (f"tracker.own.my_token={CANARY}", "tracker.own.name=broken"),
        (f"trainer.password={CANARY}",),
        ("tracker.ml.name=mlflow", f"tracker.ml.tracking_uri=http://me:{CANARY}@host"),
        (f"dataset.train=https://me:{CANARY}@host/rows.jsonl",),
        (f"+nowhere={{secret: {CANARY}, a: [}}",),
    )
    for overrides in wrong:
        assert stpipe("train", "imports=[tests.trackers.broken]", *overrides, "run.dir=out") == 2, overrides
        out, err = capfd.readouterr()
        assert err and CANARY not in out + err, (overrides, out + err)
    assert not Path("out").exists()


def test_what_commands_print_holds_no_secret(stpipe: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(
        f"# @package _global_\ntracker: {{own: {{name: broken, file: got, api_key: {CANARY}-file}}}}\n"
    )
    mine = ("imports=[tests.trackers.broken]", "+recipe=mine", "--config-dir", "conf")
    for shown in (("--json",), (), ("--cfg", "job"), ("--cfg", "job", "--resolve"), ("tracker.own.where='${oc.env:HF_TOKEN}'", "--json")):
        assert stpipe("validate", *mine, OWN[-1], *shown) == 0
        out, err = capfd.readouterr()
        assert CANARY not in out + err and len(out) > 100, shown
    assert "broken" in out
    sweep = ("hydra.sweep.dir=swept", "trainer.seed=1,2", "-m")
    assert stpipe("validate", *mine, *OWN[4:], *sweep) == 0
    out, err = capfd.readouterr()
    assert "job 1:" in err and "api_key=<redacted>" in err and CANARY not in out + err
    assert "api_key=<redacted>" in Path("swept/multirun.yaml").read_text()
    assert leaks(Path()) == ["conf/recipe/mine.yaml"]


@pytest.mark.slow
def test_a_whole_run_with_every_tracker_keeps_no_secret(stpipe: Command, fresh_cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for package in ("mlflow", "wandb", "tensorboard"):
        pytest.importorskip(package, reason=f"needs the extra {package}")
    trackers = (
        "tracker=[mlflow,wandb,tensorboard]",
        "tracker.mlflow.tracking_uri=sqlite:///mlflow.db",
        "tracker.mlflow.artifacts=reports",
        "tracker.wandb.mode=offline",
        "tracker.wandb.artifacts=reports",
    )
    assert stpipe(*RUN, *trackers, *OWN, "trainer.progress=line") == 0
    out, err = capfd.readouterr()
    status = json.loads(Path("out/status.json").read_text())
    assert status["state"] == "finished" and set(status["trackers"].values()) == {"finished"}, (status["trackers"], err[-3000:])
    assert (
        Path("mlflow.db").stat().st_size > 1000
        and list(Path("out").glob("wandb/offline-run-*/*.wandb"))
        and list(Path("out/tensorboard").iterdir())
    )
    assert Path("out/model/README.md").exists() and Path("out/report.html").exists()
    assert not leaks(Path()) and CANARY not in out + err


def test_no_secret_decides_the_name_of_a_run(stpipe: Command, capfd: pytest.CaptureFixture[str]) -> None:
    names = set()
    for token in ("first-secret-1", "other-secret-2"):
        own = ("imports=[tests.pipeline.leaky]", "callbacks.leaky.name=leaky", f"callbacks.leaky.hub_token={token}")
        assert stpipe("validate", *own, "--json") == 0
        names.add(json.loads(capfd.readouterr().out)["config"]["run"]["name"])
    assert len(names) == 1
