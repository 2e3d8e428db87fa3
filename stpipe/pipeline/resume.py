"""Where a run continues, and whether it may."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, Problem
from stpipe.engine.checkpoint import Checkpoint, newest_complete, open_checkpoint
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.identity import differences, identity
from stpipe.pipeline.run_dir import RunDirectory


def training_identity(values: Mapping[str, Any], parts: Parts, *, processes: int = 1) -> dict[str, Any]:
    """What a continued run must share with the run it continues: configuration, number of processes, and content of the training data."""
    data = {f"fingerprint of data '{name}'": source.fingerprint for name, source in parts.data.train.items()}
    # Through JSON, because that is how it is read back from a checkpoint.
    return json.loads(json.dumps({**identity(values), "number of processes": processes, **data}))


def find_checkpoint(
    directory: RunDirectory, values: Mapping[str, Any], parts: Parts, *, processes: int = 1, notify: Callable[[str], None]
) -> Checkpoint | None:
    """The checkpoint that trainer.resume asks for; None starts at step 0.

    Raises:
        ConfigError: the path holds no intact checkpoint, or configuration or data differ from those of the checkpoint.
    """
    wanted = values["trainer"]["resume"]
    if wanted == "never" or values["run"]["overwrite"]:
        return None
    if wanted == "auto":
        checkpoint, notes = newest_complete(directory.checkpoints)
        for note in notes:
            notify(note)
    else:
        checkpoint = open_checkpoint(Path(wanted))
    if checkpoint is None:
        return None
    changed = differences(checkpoint.state()["identity"], training_identity(values, parts, processes=processes))
    if changed:
        lines = "\n".join(f"  {key}: {old!r} in the checkpoint, {new!r} now" for key, old, new in changed)
        raise ConfigError(Problem("trainer.resume", f"{checkpoint.path} is of a run with another configuration or other data:\n{lines}"))
    return checkpoint
