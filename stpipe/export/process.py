"""An export in a process of its own, as its users run it: nothing of this process is there to help."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from stpipe.config.errors import TrainingError

Result = dict[str, np.ndarray[Any, Any]]


class Fresh:
    """A process that answers requests about one export (stpipe/export/standalone.py: serve). A context manager.

    command: arguments after the interpreter; folder: where it runs, the export itself.
    """

    def __init__(self, command: Sequence[str], *, folder: Path) -> None:
        self.command = [sys.executable, *command]
        self.folder = folder

    def __enter__(self) -> Fresh:
        self.scratch = tempfile.TemporaryDirectory(prefix="stpipe-export-")
        self.errors = Path(self.scratch.name, "stderr").open("w+", encoding="utf-8")
        threads = str(torch.get_num_threads())
        hidden = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CI": "true"}
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **hidden, "OMP_NUM_THREADS": threads},
        )
        self.count = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        self.scratch.cleanup()

    def ask(self, action: str, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TrainingError: the process died or refused; the message holds what it said last.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": action, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = "\n".join(self.errors.read().strip().splitlines()[-5:])
            raise TrainingError(f"the export in {self.folder} cannot be run on its own (exit code {self.process.returncode}):\n{last}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise TrainingError(f"the export in {self.folder} fails when it is run on its own: {answer['error']}")
        return answer

    def results(self, action: str, **request: Any) -> Result:
        """The arrays that a request leaves in a file."""
        self.count += 1
        into = Path(self.scratch.name, f"{self.count}.npz")
        self.ask(action, into=str(into), **request)
        with np.load(into) as file:
            arrays = {name: file[name] for name in file.files}
        into.unlink()
        return arrays


def versions(modules: Mapping[str, str]) -> dict[str, str]:
    """Of the packages that a process had loaded, those that compute or tokenise."""
    known = ("onnxruntime", "openvino", "tokenizers", "numpy", "torch", "transformers", "stpipe", "safetensors")
    return {name: modules[name] for name in known if name in modules}
