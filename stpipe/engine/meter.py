"""Running values of a logging window, kept on the device until they are read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Means of tensors and rates of counts since the last reading. Adding costs no host sync; reading does."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._rows = self._tokens = 0
        self._computed = 0.0
        self._wait = 0.0
        self._began = time.perf_counter()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add 0-d tensors to the window's means."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def count(self, *, rows: int, tokens: int, computed_tokens: float, wait: float) -> None:
        """Count a batch: rows, real tokens, tokens computed (with padding), seconds that the loop waited for it."""
        self._rows += rows
        self._tokens += tokens
        self._computed += computed_tokens
        self._wait += wait

    def skip(self, seconds: float) -> None:
        """Leave time that was not training (evaluation, saving) out of the rates."""
        self._began += seconds

    def read(self) -> dict[str, float]:
        """Values of the window, which then starts anew. Waits for the device."""
        values = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        if self._rows:
            values["samples_per_second"] = self._rows / elapsed
            values["tokens_per_second"] = self._tokens / elapsed
            values["padding_share"] = 1 - self._tokens / self._computed
            values["input_wait_share"] = min(self._wait / elapsed, 1.0)
        self._start()
        return values

    def state_dict(self) -> dict[str, Any]:
        """The window so far, as JSON values: a run that is continued within one logs what it would have logged. Waits for the device."""
        return {
            "sums": {name: float(total) for name, total in self._sums.items()},
            "counts": dict(self._counts),
            "rows": self._rows,
            "tokens": self._tokens,
            "computed": self._computed,
            "wait": self._wait,
            "elapsed": time.perf_counter() - self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device) -> None:
        """Take back what `state_dict` gave. Sums are float32, which JSON keeps exactly."""
        self._sums = {name: torch.tensor(total, dtype=torch.float32, device=device) for name, total in state["sums"].items()}
        self._counts = defaultdict(int, state["counts"])
        self._rows, self._tokens = int(state["rows"]), int(state["tokens"])
        self._computed, self._wait = float(state["computed"]), float(state["wait"])
        self._began = time.perf_counter() - float(state["elapsed"])
