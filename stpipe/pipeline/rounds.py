"""Iterated mining: a training in equal parts, before each of which the newest weights mine anew (mine.rounds).

ANCE (Xiong et al. 2021, arXiv 2007.00808) refreshes negatives while training goes on. Here each part but the last is a run of its
own below `rounds/` of the run directory, with its checkpoints, report and model, and the next one starts from that model. So
a run that is cut off continues like any other, and every round can be looked at. Each part has a learning-rate schedule of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.load import Loaded, redact
from stpipe.pipeline.run_dir import RunDirectory, claim, start_fresh

#: What a model section adds to start weights: it is in the weights of the round before already.
ADDED: Mapping[str, Any] = {"pooling": None, "dense": [], "layer_norm": False, "embedding_dropout": None, "calibrate": None}

#: Trains once: (configuration, values to train by, one stage or all) -> exit code.
TrainOnce = Callable[[Loaded, Mapping[str, Any], str | None], int]


def run_rounds(loaded: Loaded, train_once: TrainOnce, *, stage: str | None = None, processes: int = 1) -> int:
    """Train in mine.rounds parts; returns the exit code of the last one that ran.

    Args:
        loaded: the decoded configuration.
        train_once: what runs one part.
        stage: of the last part, run alone.
        processes: of the run; rounds are for one.
    """
    if processes > 1:
        what = (
            f"{processes} processes cannot yet train in rounds: run in one process, or train, mine with the model and train on, run by run"
        )
        raise ConfigError(Problem("mine.rounds", what))
    directory = RunDirectory(Path(loaded.values["run"]["dir"]))
    check_settings(loaded.values)
    claimed = claim(directory, redact(loaded))
    if loaded.values["run"]["overwrite"]:
        start_fresh(directory, overwrite=True)
    run, trainer = {**loaded.values["run"], "overwrite": False}, {**loaded.values["trainer"], "resume": "auto"}
    loaded = replace(loaded, values={**loaded.values, "run": run, "trainer": trainer})  # each part finds those before it
    count = loaded.values["mine"]["rounds"]
    start = None
    for number in range(1, count) if claimed.mode != "finished" else ():
        values = round_values(loaded.values, number, start)
        code = train_once(replace(loaded, values=values), values, None)
        if code:
            return code
        start = RunDirectory(directory.round(number)).model
    return train_once(loaded, round_values(loaded.values, count, start), stage)


def check_settings(values: Mapping[str, Any]) -> None:
    """What cannot be cut into parts."""
    problems = []
    rounds, trainer = values["mine"]["rounds"], values["trainer"]
    if trainer["max_steps"] is not None and trainer["max_steps"] < rounds:
        problems.append(Problem("trainer.max_steps", f"found {trainer['max_steps']}, expected at least one for each of {rounds} rounds"))
    if trainer["resume"] not in ("never", "auto"):
        problems.append(Problem("trainer.resume", f"a run of {rounds} rounds continues with trainer.resume=auto, not from one checkpoint"))
    if problems:
        raise ConfigError(problems)


def round_values(values: Mapping[str, Any], number: int, start: Path | None) -> dict[str, Any]:
    """The configuration of one part: its share of the training, from the weights of the one before.

    Args:
        values: of the whole run.
        number: counted from 1. The last part is the run itself, with its directory.
        start: model of the part before; None for the first.
    """
    found = copy.deepcopy(dict(values))
    count, trainer, run = values["mine"]["rounds"], found["trainer"], found["run"]
    found["mine"]["rounds"] = 1
    trainer["num_epochs"] = trainer["num_epochs"] / count
    if trainer["max_steps"] is not None:
        done, upto = (trainer["max_steps"] * n // count for n in (number - 1, number))
        trainer["max_steps"] = upto - done
    if start is not None:
        model = found["model"]
        model.update({key: value for key, value in ADDED.items() if key in model}, name_or_path=str(start), revision=None)
    if number < count:
        run.update(dir=str(RunDirectory(Path(run["dir"])).round(number)), name=f"{run['name']}-round-{number}")
    return found
