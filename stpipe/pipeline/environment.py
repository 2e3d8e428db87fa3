"""environment.json: on what a run was made, so that a difference between two runs can be found."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import stpipe

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "hydra-core", "omegaconf", "numpy", "safetensors", "bm25s")


def environment(*, device: torch.device, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Versions, machine, code state and data fingerprints."""
    versions = {"stpipe": stpipe.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": {"name": processor_name(), "threads": torch.get_num_threads(), "count": os.cpu_count()},
        "devices": [torch.cuda.get_device_name(device)] if device.type == "cuda" else [device.type],
        "git": git_state(Path.cwd()),
        "data": {name: dict(facts) for name, facts in data.items()},
        "created": time.time(),
    }


def processor_name() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and uncommitted changes of the repository around `folder`; None outside of one or without git."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
