"""TensorBoard's events, read back by TensorBoard."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from stpipe.trackers import Memory, TensorBoardTracker, TrackedRun
from stpipe.trackers.follow import Follower
from tests.trackers.run_folder import CONFIG, LINES, SERIES, line, make_run, write_lines, write_status

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard")


def read(folder):
    found = events.EventAccumulator(str(folder))
    found.Reload()
    return found


def follow(folder, **options):
    over = threading.Event()
    over.set()
    memory = Memory.load(Memory.place(folder, "tb"))
    assert Follower(TensorBoardTracker(**options), TrackedRun(folder, CONFIG), memory, over).follow()


def test_scalars_configuration_and_ending(tmp_path):
    folder = make_run(tmp_path / "out")
    follow(folder)
    found = read(folder / "tensorboard")
    assert set(found.Tags()["scalars"]) == set(SERIES)
    for key, expected in SERIES.items():
        assert [(e.step, e.value) for e in found.Scalars(key)] == [(step, float(np.float32(value))) for step, value in expected]
    assert [e.wall_time for e in found.Scalars("train/loss")] == [record["time"] for record in LINES if record["name"] == "loss"]
    text = found.Tensors("configuration")[0].tensor_proto.string_val[0].decode()
    assert "name_or_path: some/model" in text
    assert found.Tensors("ending")[0].tensor_proto.string_val == [b"finished, exit code 0"]
    assert hparams(found)["optimizer.lr"].number_value == 2e-05
    assert status(found) == "STATUS_SUCCESS"


def hparams(found):
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = plugin_data_pb2.HParamsPluginData.FromString(found.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    return content.session_start_info.hparams


def status(found):
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    content = plugin_data_pb2.HParamsPluginData.FromString(found.PluginTagToContent("hparams")["_hparams_/session_end_info"])
    return api_pb2.Status.Name(content.session_end_info.status)


def test_a_continued_run_adds_to_the_same_folder(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    follow(folder, dir=str(tmp_path / "all"))
    write_lines(folder, [line(5, "loss", 0.125)])
    write_status(folder, "failed", 1)
    follow(folder, dir=str(tmp_path / "all"))
    found = read(tmp_path / "all" / "a-run")
    assert [(e.step, e.value) for e in found.Scalars("train/loss")][-2:] == [(4, 0.25), (5, 0.125)]
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert len(found.Tensors("configuration")) == 1
    assert status(found) == "STATUS_FAILURE"
    assert len(list((tmp_path / "all" / "a-run").iterdir())) == 2
    assert Memory.load(Memory.place(folder, "tb")).url == str(tmp_path / "all" / "a-run")


def test_its_package_is_named_where_the_rules_look():
    assert (TensorBoardTracker.package, TensorBoardTracker.extra) == ("tensorboard", "tensorboard")
