"""Where the shipped configs and recipes lie: next to the package in a wheel, at the top of the repository otherwise."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def _shipped(packaged: str, in_repository: str) -> Path:
    inside = PACKAGE / packaged
    return inside if inside.is_dir() else PACKAGE.parent / in_repository


def configs_dir() -> Path:
    """Folder of the config groups (`model/`, `loss/`, ...) and of train.yaml."""
    return _shipped("_configs", "configs")


def recipes_dir() -> Path:
    """Folder of the recipes, one runnable experiment a file."""
    return _shipped("_recipes", "recipes")


def schema_file() -> Path:
    """The generated JSON Schema of every key."""
    return PACKAGE / "config" / "schema.json"
