"""Where a run continues, and whether it may."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import stpipe
from stpipe.config.errors import ConfigError, Problem
from stpipe.engine.checkpoint import Checkpoint, damage_of_best, newest_complete, open_checkpoint
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.identity import Change, differences, identity, listed, refused
from stpipe.pipeline.run_dir import RunDirectory

#: Packages whose version may change the bits that are computed.
VERSIONS = ("torch", "transformers", "accelerate", "numpy")


def versions() -> dict[str, str]:
    """Versions of the code that computes."""
    return {"stpipe": stpipe.__version__, **{package: importlib.metadata.version(package) for package in VERSIONS}}


def training_identity(values: Mapping[str, Any], parts: Parts, *, processes: int = 1) -> dict[str, Any]:
    """What a continued run must share with the run it continues: configuration, number of processes, content of the training data, and
    versions of the code."""
    data = {f"fingerprint of data '{name}'": source.fingerprint for name, source in parts.data.train.items()}
    code = {f"version of {package}": version for package, version in versions().items()}
    # Through JSON, because that is how it is read back from a checkpoint.
    return json.loads(json.dumps({**identity(values), "number of processes": processes, **data, **code}))


def find_checkpoint(
    directory: RunDirectory,
    values: Mapping[str, Any],
    parts: Parts,
    *,
    processes: int = 1,
    num_steps: int | None = None,
    notify: Callable[[str], None],
) -> Checkpoint | None:
    """The checkpoint that trainer.resume asks for; None starts at step 0.

    Args:
        directory: of the run.
        values: the configuration.
        parts: model and data of the run.
        processes: of the run.
        num_steps: of the run; None: not known.
        notify: is told which checkpoints were passed over, and why.

    Raises:
        ConfigError: the path holds no intact checkpoint, or something differs from the run it is of that trainer.resume_allow does not name.
    """
    wanted, allowed = values["trainer"]["resume"], values["trainer"]["resume_allow"]
    if wanted == "never" or values["run"]["overwrite"]:
        return None
    if wanted == "auto":
        checkpoint = _newest(directory, allowed, notify)
    else:
        checkpoint = open_checkpoint(Path(wanted))
        lost = damage_of_best(checkpoint)
        if lost is not None and "lost_best" not in allowed:
            raise _lost_best(checkpoint, lost)
    if checkpoint is None:
        return None
    check_changes(checkpoint, training_identity(values, parts, processes=processes), allowed, num_steps=num_steps)
    return checkpoint


def changes_since(checkpoint: Checkpoint | None, now: Mapping[str, Any]) -> list[Change]:
    """What differs between the run that a checkpoint is of and its continuation, by `training_identity`."""
    return [] if checkpoint is None else differences(checkpoint.state()["identity"], now)


def check_changes(checkpoint: Checkpoint, now: Mapping[str, Any], allowed: list[str], *, num_steps: int | None = None) -> None:
    """Refuse to continue where something differs that trainer.resume_allow does not name, or that no run can go on with.

    Args:
        checkpoint: to continue from.
        now: identity of the run as it would be continued.
        allowed: trainer.resume_allow.
        num_steps: of the run as it would be continued; None: not known.

    Raises:
        ConfigError: with each key, its old and its new value, and what would allow it.
    """
    changes = changes_since(checkpoint, now)
    bad = refused(changes, allowed)
    if bad:
        what = f"{checkpoint.path} is of a run with another configuration, other data or other code:\n{listed(bad, place='checkpoint')}"
        raise ConfigError(Problem("trainer.resume", what))
    parts = sorted(p.stem for p in checkpoint.path.glob("optimizer-*.pt"))
    if parts and any(key == "number of processes" for key, _, _ in changes):
        what = (
            f"{checkpoint.path} holds the optimiser in {len(parts)} parts, one for each process, which cannot be dealt out anew. Continue with "
            f"{len(parts)} processes, or start another run from its weights"
        )
        raise ConfigError(Problem("trainer.resume", what))
    if changes and num_steps is not None and checkpoint.step >= num_steps:
        what = f"{checkpoint.path} is of step {checkpoint.step}, and with these settings the run has {num_steps} steps: none would be left"
        raise ConfigError(Problem("trainer.resume", what))


def _newest(directory: RunDirectory, allowed: list[str], notify: Callable[[str], None]) -> Checkpoint | None:
    checkpoint, notes = newest_complete(directory.checkpoints)
    for note in notes:
        notify(note)
    if checkpoint is not None:
        return checkpoint
    alone, _ = newest_complete(directory.checkpoints, with_best=False)
    lost = None if alone is None else damage_of_best(alone)
    if alone is None or lost is None:
        return None
    if "lost_best" not in allowed:
        raise _lost_best(alone, lost)
    return alone


def _lost_best(checkpoint: Checkpoint, lost: str) -> ConfigError:
    what = (
        f"{checkpoint.path} is intact, but {lost}. Go on without the best model so far (trainer.resume_allow=[lost_best]), or train anew "
        "(run.overwrite=true)"
    )
    return ConfigError(Problem("trainer.resume", what))
