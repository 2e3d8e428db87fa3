"""Runs of the real command in several processes, on the tiny model and pairs of the pipeline tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.pipeline.conftest import QUICK, word

#: A callback that ends one process in some way after a step.
TROUBLE = '''
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.registry import CALLBACKS
from stpipe.engine.callbacks import Callback


@CALLBACKS.register("trouble")
@dataclass
class Trouble(Callback):
    """Ends one process after a step."""

    rank: int = option(1, help="Process.")
    step: int = option(3, help="Step.")
    kind: str = option("error", help="error, data, kill, stop, or a signal to the process that started all.")

    def on_step_end(self, trainer):
        if trainer.runtime.rank != self.rank or trainer.state.step != self.step or os.environ.get("NO_TROUBLE"):
            return
        if self.kind == "data":
            raise DataError("row 7 is no good")
        if self.kind == "error":
            raise ValueError("a defect")
        if self.kind == "stop":
            trainer.stop("enough")
        if self.kind.startswith("SIG"):
            os.kill(os.getppid(), signal.Signals[self.kind])
        if self.kind == "kill":
            Path("killed-at").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
'''
SHARED = (
    "model=dense",
    *QUICK,
    "trainer.batch_size=4",
    "trainer.max_steps=8",
    "trainer.save_steps=2",
    "trainer.log_steps=1",
    "trainer.num_epochs=3",
    "+evaluator.dev.name=information_retrieval",
)
OWN = (sys.executable, "-m", "stpipe")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "stpipe")


@dataclass(frozen=True)
class Runs:
    """A working directory with the model and the data."""

    folder: Path
    model: Path
    data: Path

    @property
    def given(self) -> tuple[str, ...]:
        """Overrides of every run here."""
        return (f"model.name_or_path={self.model}", f"dataset.train={self.data}", *SHARED)

    def run(
        self, *overrides: str, start: Sequence[str] = OWN, timeout: float = 400, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `stpipe train` to its end."""
        command = [*start, "train", *self.given, *overrides]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def processes(self) -> list[str]:
        """Commands of processes that still work in this folder (Linux)."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if (place / "cwd").resolve() == self.folder and (command := (place / "cmdline").read_bytes()):
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:  # it has ended, or is somebody else's
                continue
        return found

    def weights(self, run: str) -> bytes:
        return (self.folder / run / "model" / "model.safetensors").read_bytes()

    def status(self, run: str) -> dict:
        found: dict = json.loads((self.folder / run / "status.json").read_text())
        return found

    def records(self, run: str, name: str) -> list[tuple[int, float]]:
        rows = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        return [(r["step"], r["value"]) for r in rows if r["name"] == name and r["split"] == "train"]


def write_pairs(path: Path) -> Path:
    """The rows of the fixture `pairs`."""
    rows = [{"anchor": f"{word(i)} {word(i + 7)}", "positive": " ".join(word(i * 3 + k) for k in range(1 + i % 9))} for i in range(56)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trouble(kind: str, *, rank: int = 1, step: int = 5) -> tuple[str, ...]:
    """Overrides that end a process."""
    return ("imports=[trouble]", "+callbacks.trouble.name=trouble", f"+callbacks.trouble.kind={kind}", f"+callbacks.trouble.rank={rank}",
            f"+callbacks.trouble.step={step}")  # fmt: skip
