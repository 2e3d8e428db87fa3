"""The model that scores embedded data for distillation: all-MiniLM-L6-v2 of the extra `offline`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from stpipe.config.data_format import TEACHER
from stpipe.core.digest import folder_digest
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer

CHUNK = 1024


class PackagedTeacher:
    """Loads the model when texts are to be scored, and lets go of it then; see `stpipe.data.teacher.Teacher`.

    Args:
        device: where it computes.
        progress: called with (what, done, total).
        address: which model; a directory or `package://MODULE/SUBDIR`.

    Raises:
        ConfigError: on first use, when the package is not installed.
    """

    def __init__(self, *, device: str = "cpu", progress: Callable[[str, int, int], None] | None = None, address: str = TEACHER) -> None:
        self.device = device
        self.progress = progress
        self.address = address

    @cached_property
    def folder(self) -> Path:
        """Where its files are."""
        return resolve_path(self.address, offline=True)

    @cached_property
    def identity(self) -> str:
        """Hash of all files of the model."""
        return folder_digest(self.folder)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of unit length. Leaves the global random state alone: a run is the same whether scores were cached or not."""
        parts = []
        with torch.random.fork_rng(devices=[]):
            model = SentenceTransformer(str(self.folder), device=self.device)
            for start in range(0, len(texts), CHUNK):
                parts.append(model.encode(list(texts[start : start + CHUNK]), normalize_embeddings=True))
                if self.progress is not None:
                    self.progress("scores of the teacher", min(start + CHUNK, len(texts)), len(texts))
        return np.concatenate(parts).astype(np.float32)
