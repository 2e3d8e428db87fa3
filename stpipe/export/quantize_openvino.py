"""Eight bits for OpenVINO: weights, and activations with ranges from a sample of inputs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stpipe.config.errors import MissingExtraError, TrainingError

SEPARATOR = "::"
PROGRAM = f"""
import sys
import numpy as np
import nncf
import openvino

file, into, sample = sys.argv[1:]
inputs = {{}}
with np.load(sample) as arrays:
    for key in arrays.files:
        number, _, name = key.partition("{SEPARATOR}")
        inputs.setdefault(int(number), {{}})[name] = arrays[key]
rows = [inputs[number] for number in sorted(inputs)]
model = openvino.Core().read_model(file)
done = nncf.quantize(model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))
openvino.save_model(done, into, compress_to_fp16=False)
"""


def quantize_static(file: Path, into: Path, *, sample: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> None:
    """Write a copy of an OpenVINO model in eight bits.

    It is done in a process of its own. OpenVINO gives the thread that creates it another signal stack; several of its cores, as nncf makes
    them, leave one behind that is freed already, and the next signal ends the process. Progress bars and reports of use stay there, too.

    Args:
        file: the .xml of the model in float32.
        into: the .xml of the copy; its folder must exist.
        sample: inputs, name -> array, that the ranges of activations are taken from.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
        TrainingError: nncf failed; the message holds what it said last.
    """
    for package in ("openvino", "nncf"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "openvino", "static quantisation for OpenVINO")
    with tempfile.TemporaryDirectory(prefix="stpipe-quantize-") as scratch:
        arrays = Path(scratch, "sample.npz")
        given: dict[str, Any] = {f"{n}{SEPARATOR}{name}": value for n, row in enumerate(sample) for name, value in row.items()}
        np.savez(arrays, **given)
        command = [sys.executable, "-c", PROGRAM, str(file.resolve()), str(into.resolve()), str(arrays)]
        environment = {**os.environ, "CI": "true", "NNCF_CI": "1"}
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise TrainingError(f"nncf could not quantise {file.name} (exit code {done.returncode}):\n{last}")
