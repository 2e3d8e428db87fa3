"""TensorBoard's event files, written by TensorBoard itself; needs neither TensorFlow nor torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from stpipe.config.fields import option
from stpipe.config.file_names import file_name
from stpipe.config.registry import TRACKERS
from stpipe.trackers.base import Ending, Memory, Session, TrackedRun, Tracker
from stpipe.trackers.records import Record


@TRACKERS.register("tensorboard")
@dataclass(frozen=True)
class TensorBoardTracker(Tracker):
    """Event files for TensorBoard: scalars by step, the configuration as text and as hyper-parameters. Values are single precision there."""

    package: ClassVar[str | None] = "tensorboard"
    extra: ClassVar[str | None] = "tensorboard"

    dir: str | None = option(None, help="Folder of the event files; None is `tensorboard` in the run directory, DIR/<run.name> otherwise.")

    def connect(self, run: TrackedRun, memory: Memory) -> Session:
        return TensorBoardSession(run.folder / "tensorboard" if self.dir is None else Path(self.dir) / file_name(run.name), run, memory)


class TensorBoardSession(Session):
    """A file of events; a continued run begins another one in the same folder, which TensorBoard shows as one."""

    def __init__(self, folder: Path, run: TrackedRun, memory: Memory) -> None:
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder))
        self.memory = memory
        if memory.id is None:
            values = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in run.parameters().items()}
            self._write(summary_v2.hparams_pb(values, trial_id=run.name))
            self._write(text_summary("configuration", f"```yaml\n{yaml.safe_dump(dict(run.config), sort_keys=False)}```"))
            self.writer.flush()
            memory.id = run.name
            memory.url = str(folder.absolute())
            memory.save()

    def _write(self, summary: Any, *, step: int = 0, when: float | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time() if when is None else when, step=step, summary=summary))

    def log(self, records: Sequence[Record]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for record in records:
            scalar = Summary(value=[Summary.Value(tag=record.key, simple_value=record.value)])
            self._write(scalar, step=record.step, when=record.time)
        self.writer.flush()

    def finish(self, ending: Ending) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        status = api_pb2.STATUS_SUCCESS if ending.good else api_pb2.STATUS_FAILURE
        session_end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        made = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=session_end))
        self._write(Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=made, tensor=metadata.NULL_TENSOR)]))
        self._write(text_summary("ending", f"{ending.state}, exit code {ending.exit_code}"))
        self.writer.close()


def text_summary(tag: str, text: str) -> Any:
    """A text for the dashboard of texts."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text import metadata

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(tag, ""), tensor=tensor)])
