"""Publishing to a Hub on this machine, with the real client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from stpipe.config.errors import ConfigError
from stpipe.config.sections import PublishSection
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.pipeline.publish import check_access, publish_finished
from tests.pipeline.conftest import Command
from tests.pipeline.hub import TOKEN, Hub, local_hub

RUN = ("train", "run.dir=out", "trainer.max_steps=4", "offline=false", "trainer.evaluate_before=false")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that the client of this process asks, as HF_ENDPOINT and HF_TOKEN would tell it."""
    with local_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Xet's storage is a service of its own
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def status() -> dict:
    return json.loads(Path("out/status.json").read_text())


def test_the_model_is_published_in_one_commit_and_works(stpipe: Command, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe(*RUN, "trainer.progress=line", "publish.repo_id=me/tiny") == 0
    assert hub.repositories == {"me/tiny": True}, "private unless asked otherwise"
    (commit,) = hub.commits
    assert commit.branch == "main" and "trained with stpipe" in commit.message
    saved = {p.relative_to("out/model").as_posix(): p.read_bytes() for p in Path("out/model").rglob("*") if p.is_file()}
    assert commit.files == saved and {"README.md", "modules.json", "model.safetensors"} <= set(saved)
    assert hub.storage, "large files go to their own storage"
    published = SentenceTransformer(str(hub.write(Path("downloaded")))).encode(["w1 w2", "w3"])
    np.testing.assert_array_equal(published, SentenceTransformer("out/model").encode(["w1 w2", "w3"]))
    assert status()["stages"]["publish"]["state"] == "finished"
    assert status()["published"].startswith(f"{hub.address}/me/tiny/commit/")
    assert status()["published"] in capsys.readouterr().err.replace("\n", "")
    assert not any(TOKEN.encode() in p.read_bytes() for p in Path("out").rglob("*") if p.is_file())


@pytest.mark.slow
def test_checkpoints_are_published_as_models(stpipe: Command, hub: Hub) -> None:
    assert stpipe(*RUN, "trainer.save_steps=2", "trainer.ema_decay=0.5", "publish={repo_id: tiny, checkpoints: true, revision: work}") == 0
    *between, last = hub.commits
    assert {c.message.rpartition(", ")[2] for c in between} <= {"step 2", "step 4"} and between
    assert {c.branch for c in hub.commits} == {"work"} and "trained with stpipe" in last.message
    for i, commit in enumerate(between):
        hub.commits = [commit]
        model = SentenceTransformer(str(hub.write(Path(f"step{i}"), branch="work")))
        assert model.encode(["w1"]).shape == (1, 32)
        if commit.message.endswith("step 4"):
            assert commit.files["model.safetensors"] == last.files["model.safetensors"], "averaged like the model in the end"
    assert not Path("out/.publishing").exists()


@pytest.mark.slow
def test_a_slow_hub_gets_fewer_checkpoints_and_the_last_one(stpipe: Command, hub: Hub) -> None:
    hub.delay = 2.0
    assert stpipe(*RUN, "trainer.save_steps=1", "publish={repo_id: tiny, checkpoints: true}") == 0
    steps = [commit.message.rpartition(" ")[2] for commit in hub.commits]
    assert steps[0] == "1" and steps[-2:] == ["4", "stpipe"] and len(steps) < 5
    assert not Path("out/.publishing").exists() and status()["warnings"] == [w for w in status()["warnings"] if "publish" not in w]


def test_a_checkpoint_that_the_hub_refuses_costs_a_warning(stpipe: Command, hub: Hub) -> None:
    hub.refuse = {"/preupload/": 403}
    assert stpipe(*RUN, "trainer.save_steps=2", "trainer.log_steps=1", "publish={repo_id: me/tiny, checkpoints: true}") == 5
    found = status()
    assert [w for w in found["warnings"] if w.startswith("publish.checkpoints: step 2 is not published")]
    assert found["stages"]["train"]["state"] == "finished" and found["stages"]["publish"]["state"] == "failed"


def test_without_a_network_the_run_is_partly_done_and_a_command_finishes_it(
    stpipe: Command, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert stpipe(*RUN, "publish.repo_id=me/tiny") == 5
    message = capsys.readouterr().err
    assert "the model is saved in out/model" in message and "ConnectError" in message
    assert "Finish the run with stpipe publish out" in message and "Traceback" not in message
    found = status()
    assert (found["state"], found["exit_code"]) == ("partial", 5) and found["stages"]["publish"]["state"] == "failed"
    assert [w for w in found["warnings"] if "cannot be reached now" in w]
    assert stpipe_publish("out") == 5
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    assert stpipe_publish("out") == 0
    assert hub.address in capsys.readouterr().out
    found = status()
    assert (found["state"], found["exit_code"], found["error"]) == ("finished", 0, None)
    assert found["published"].startswith(hub.address)
    assert json.loads(Path("out/report.json").read_text())["run"]["state"] == "finished"
    assert len(hub.commits) == 1


def stpipe_publish(*arguments: str) -> int:
    from stpipe.cli.main import main

    return main(["publish", *arguments])


def test_nothing_is_published_unasked_but_it_can_be_later(stpipe: Command, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe(*RUN) == 0
    assert hub.requests == [] and "publish" not in status()["stages"]
    assert stpipe_publish("out") == 2
    assert "publish.repo_id=OWNER/NAME" in capsys.readouterr().err
    for name in ("exports/onnx/model.onnx", "exports/rejected/bad/model.onnx", "exports/.hidden"):
        Path("out", name).parent.mkdir(parents=True, exist_ok=True)
        Path("out", name).write_text(name)
    assert stpipe_publish("out", "publish={repo_id: me/later, private: false, exports: true, message: here it is}") == 0
    assert hub.repositories == {"me/later": False}
    (commit,) = hub.commits
    assert commit.message == "here it is"
    assert [name for name in commit.files if name.startswith("exports")] == ["exports/onnx/model.onnx"]
    assert status()["state"] == "finished"


@pytest.mark.parametrize("token", [None, "hf_another"])
def test_a_token_that_cannot_work_is_refused_before_training(
    token: str | None, stpipe: Command, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert stpipe(*RUN, "publish.repo_id=me/tiny") == 2
    message = capsys.readouterr().err
    assert "HF_TOKEN" in message and "hf_another" not in message
    assert not Path("out").exists()


def test_a_hub_that_must_not_be_asked_is_refused_before_training(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        check_access(PublishSection("me/tiny"), print)
    check_access(None, print)
    with pytest.raises(ConfigError, match="has no model/"):
        publish_finished(tmp_path, PublishSection("me/tiny"), name="x")
