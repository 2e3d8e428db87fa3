"""What a model directory says about itself, read from its JSON files and weight headers. No weights are loaded, no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

NO_LIMIT = 10**9
INTEGER_TYPES = ("I", "U", "BOOL")  # buffers such as position ids
SHOWN_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "Pooling": ("pooling_mode", "include_prompt"),
    "Dense": ("in_features", "out_features", "activation_function"),
    "LayerNorm": ("dimension",),
    "Dropout": ("dropout",),
}
BACKBONE_SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """One module of the stack: its class and the settings worth showing."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """A model directory. None where the directory does not say it.

    parameters: floating-point numbers stored in all weight files; dimension: of the output, after truncation where truncate_dim is set.
    """

    stack: tuple[ModuleFacts, ...]
    dimension: int | None
    max_length: int | None
    similarity: str
    prompts: Mapping[str, str]
    default_prompt: str | None
    truncate_dim: int | None
    parameters: int | None
    dtype: str | None


def read_model(directory: Path) -> ModelFacts:
    """Read the directory of a sentence-transformers model; an absent or damaged file only leaves its facts unknown."""
    entries = sorted(_read_list(directory / "modules.json"), key=lambda e: int(e.get("idx", 0)))
    folders = [directory / str(e.get("path") or "") for e in entries]
    names = [str(e.get("type", "")).rsplit(".", 1)[-1] for e in entries]
    settings = _read(directory / "config_sentence_transformers.json")
    configs = [_read(folder / "config.json") for folder in folders]
    truncate = settings.get("truncate_dim")
    dimension = _dimension(names, configs)
    sizes = _weights(directory)
    return ModelFacts(
        stack=tuple(ModuleFacts(n, _settings(n, c)) for n, c in zip(names, configs, strict=True)),
        dimension=min(dimension, truncate) if dimension and truncate else dimension,
        max_length=_max_length(directory),
        similarity=str(settings.get("similarity_fn_name") or "cosine"),
        prompts={k: v for k, v in (settings.get("prompts") or {}).items() if v},
        default_prompt=settings.get("default_prompt_name"),
        truncate_dim=truncate,
        parameters=sum(count for count, _ in sizes) or None,
        dtype=", ".join(sorted({dtype for _, dtype in sizes})) or None,
    )


def _settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if name == "Transformer":
        backbone = next(iter(config.get("architectures") or ()), config.get("model_type"))
        shown = {k: config[k] for k in BACKBONE_SETTINGS if k in config}
        return {"backbone": backbone, **shown}
    shown = {k: config[k] for k in SHOWN_SETTINGS.get(name, ()) if k in config}
    if name == "Pooling" and "pooling_mode" not in shown:
        shown = {"pooling_mode": _pooling_modes(config), **shown}
    return shown


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """Modes of a pooling, under the new key or the old booleans."""
    mode = config.get("pooling_mode")
    if mode:
        return [mode] if isinstance(mode, str) else list(mode)
    prefix, suffix = "pooling_mode_", "_tokens"
    old = [
        k.removeprefix(prefix).removesuffix(suffix).removesuffix("_token") for k, v in config.items() if k.startswith(prefix) and v is True
    ]
    return old or ["mean"]


def _dimension(names: list[str], configs: list[dict[str, Any]]) -> int | None:
    """Output dimension of the last module that sets one."""
    found = None
    for name, config in zip(names, configs, strict=True):
        if name == "Pooling":
            width = config.get("embedding_dimension") or config.get("word_embedding_dimension")
            found = width * len(_pooling_modes(config)) if width else found
        else:
            found = config.get("out_features") or found
    return found


def _max_length(directory: Path) -> int | None:
    """The stored limit, else the tokenizer's, neither above the positions that the backbone has."""
    stored = [_read(p).get("max_seq_length") for p in sorted(directory.glob("sentence_*_config.json"))]
    limit = next((n for n in stored if n), None) or _read(directory / "tokenizer_config.json").get("model_max_length")
    if not isinstance(limit, int | float) or limit > NO_LIMIT:
        limit = _read(directory / "config.json").get("max_position_embeddings")
    return int(limit) if limit else None


def _weights(directory: Path) -> list[tuple[int, str]]:
    """(number of values, dtype) of every floating-point tensor in the safetensors files, from their headers."""
    found = []
    for path in sorted(directory.rglob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        found += [
            (prod(t["shape"]), str(t["dtype"]))
            for name, t in header.items()
            if name != "__metadata__" and not t["dtype"].startswith(INTEGER_TYPES)
        ]
    return found


def _read(path: Path) -> dict[str, Any]:
    content = _load(path)
    return content if isinstance(content, dict) else {}


def _read_list(path: Path) -> list[dict[str, Any]]:
    content = _load(path)
    return [e for e in content if isinstance(e, dict)] if isinstance(content, list) else []


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
