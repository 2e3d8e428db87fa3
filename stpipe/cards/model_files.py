"""What a model directory says about itself, read from its JSON files and weight headers. No weights are loaded, no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    "SpladePooling": ("pooling_strategy", "activation_function"),
    "SparseAutoEncoder": ("input_dim", "hidden_dim", "k"),
    "SparseStaticEmbedding": ("frozen",),
    "LogitScore": ("true_token_id", "false_token_id"),
}
BACKBONES = frozenset({"Transformer", "MLMTransformer"})
ROUTERS = frozenset({"Router", "Asym"})
ROUTER_FILES = ("router_config.json", "config.json")
KINDS_BY_TYPE: Mapping[str, str] = {"SentenceTransformer": "dense", "SparseEncoder": "sparse", "CrossEncoder": "cross_encoder"}
DEFAULT_SIMILARITY: Mapping[str | None, str] = {"sparse": "dot"}
BACKBONE_SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """One module of the stack: its class, the settings worth showing, the width of what it gives (None: that of the module
    before it, or not known), its longest text in tokens where texts enter by it, and of a Router the modules of each route."""

    name: str
    settings: Mapping[str, Any]
    width: int | None = None
    max_length: int | None = None
    routes: Mapping[str, tuple[ModuleFacts, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFacts:
    """A model directory. None where the directory does not say it.

    kind: "dense", "sparse" or "cross_encoder"; parameters: floating-point numbers stored in all weight files; dimension: of the output, after
    truncation where truncate_dim is set; max_length: of a Router that of its default route; max_active_dims: how many of the
    largest values of an embedding are kept; labels: names of the outputs of a cross-encoder, one for a reranker, none for other kinds;
    activation: class of torch that its outputs go through.
    """

    kind: str | None
    stack: tuple[ModuleFacts, ...]
    dimension: int | None
    max_length: int | None
    max_active_dims: int | None
    similarity: str
    prompts: Mapping[str, str]
    default_prompt: str | None
    truncate_dim: int | None
    parameters: int | None
    dtype: str | None
    labels: tuple[str, ...] = ()
    activation: str | None = None

    @property
    def modules(self) -> tuple[ModuleFacts, ...]:
        """All modules, those inside a Router too."""
        return tuple(_flat(self.stack))

    @property
    def routes(self) -> Mapping[str, tuple[ModuleFacts, ...]]:
        """The routes of the Router that texts enter by; empty without one."""
        return self.stack[0].routes if self.stack else {}


def read_model(directory: Path) -> ModelFacts:
    """Read the directory of a sentence-transformers model; an absent or damaged file only leaves its facts unknown."""
    entries = sorted(_read_list(directory / "modules.json"), key=lambda e: int(e.get("idx", 0)))
    folders = [directory / str(e.get("path") or "") for e in entries]
    stack = _stack([str(e.get("type", "")) for e in entries], folders)
    settings = _read(directory / "config_sentence_transformers.json")
    kind = KINDS_BY_TYPE.get(str(settings.get("model_type")))
    truncate = settings.get("truncate_dim")
    dimension = _width(stack)
    sizes = _weights(sorted(directory.rglob("*.safetensors")))
    return ModelFacts(
        kind=kind,
        stack=stack,
        dimension=min(dimension, truncate) if dimension and truncate else dimension,
        max_length=stack[0].max_length if stack and stack[0].routes else _max_length(directory),
        max_active_dims=settings.get("max_active_dims"),
        similarity=str(settings.get("similarity_fn_name") or DEFAULT_SIMILARITY.get(kind, "cosine")),
        prompts={k: v for k, v in (settings.get("prompts") or {}).items() if v},
        default_prompt=settings.get("default_prompt_name"),
        truncate_dim=truncate,
        parameters=sum(prod(shape) for _, shape, _ in sizes) or None,
        dtype=", ".join(sorted({dtype for _, _, dtype in sizes})) or None,
        labels=_labels(directory, stack) if kind == "cross_encoder" else (),
        activation=str(settings["activation_fn"]).rsplit(".", 1)[-1] if settings.get("activation_fn") else None,
    )


def _labels(directory: Path, stack: Sequence[ModuleFacts]) -> tuple[str, ...]:
    """Names of the outputs, in order."""
    names = _read(directory / "config.json").get("id2label")
    if any(module.name == "LogitScore" for module in stack) or not isinstance(names, Mapping):
        return ("score",)
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _flat(stack: Sequence[ModuleFacts]) -> Iterator[ModuleFacts]:
    for module in stack:
        yield module
        for inner in module.routes.values():
            yield from _flat(inner)


def _stack(types: Sequence[str], folders: Sequence[Path]) -> tuple[ModuleFacts, ...]:
    """Modules in order, each from its own folder."""
    stack: list[ModuleFacts] = []
    for kind, folder in zip(types, folders, strict=True):
        name = kind.rsplit(".", 1)[-1]
        stack.append(_router(name, folder) if name in ROUTERS else _module(name, folder, stack))
    return tuple(stack)


def _module(name: str, folder: Path, before: Sequence[ModuleFacts]) -> ModuleFacts:
    config = _read(folder / "config.json")
    limit = None if before else _max_length(folder)
    return ModuleFacts(name, _settings(name, config), WIDTHS.get(name, _out_features)(config, folder, before), limit)


def _router(name: str, folder: Path) -> ModuleFacts:
    """A Router with the modules of its routes, as far as its file says."""
    stored = next((found for file in ROUTER_FILES if "structure" in (found := _read(folder / file))), {})
    types = stored.get("types") or {}
    structure = stored.get("structure") or {}
    routes = {
        str(route): _stack([str(types.get(n, n)) for n in names], [folder / str(n) for n in names]) for route, names in structure.items()
    }
    parameters = stored.get("parameters") or {}
    default = parameters.get("default_route") or next(iter(routes), None)
    widths = [width for inner in routes.values() if (width := _width(inner))]
    first = routes.get(str(default), ())[:1]
    shown = {"default_route": default, **({"route_mappings": m} if (m := parameters.get("route_mappings")) else {})}
    return ModuleFacts(name, shown, next(iter(widths), None), first[0].max_length if first else None, routes)


def _settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if name in BACKBONES:
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


def _width(stack: Sequence[ModuleFacts]) -> int | None:
    """Width after all modules: that of the last one that sets it."""
    return next((m.width for m in reversed(stack) if m.width), None)


def _out_features(config: Mapping[str, Any], folder: Path, before: Sequence[ModuleFacts]) -> int | None:
    return config.get("out_features")


def _pooled(config: Mapping[str, Any], folder: Path, before: Sequence[ModuleFacts]) -> int | None:
    width = _stored_width(config)
    return width * len(_pooling_modes(config)) if width else None


def _vocabulary(config: Mapping[str, Any], folder: Path, before: Sequence[ModuleFacts]) -> int | None:
    """What was stored, which some versions leave open until a first text was seen, else the vocabulary of the backbone."""
    return _stored_width(config) or next((m.settings["vocab_size"] for m in reversed(before) if "vocab_size" in m.settings), None)


def _features(config: Mapping[str, Any], folder: Path, before: Sequence[ModuleFacts]) -> int | None:
    return config.get("hidden_dim")


def _weight_a_word(config: Mapping[str, Any], folder: Path, before: Sequence[ModuleFacts]) -> int | None:
    return next((shape[0] for name, shape, _ in _weights([folder / "model.safetensors"]) if name == "weight"), None)


#: Width of what a module gives, where it is not `out_features`.
WIDTHS: Mapping[str, Callable[[Mapping[str, Any], Path, Sequence[ModuleFacts]], int | None]] = {
    "Pooling": _pooled,
    "SpladePooling": _vocabulary,
    "SparseAutoEncoder": _features,
    "SparseStaticEmbedding": _weight_a_word,
}


def _stored_width(config: Mapping[str, Any]) -> int | None:
    """Under the new key or the old one."""
    return config.get("embedding_dimension") or config.get("word_embedding_dimension")


def _max_length(directory: Path) -> int | None:
    """The stored limit, else the tokenizer's, neither above the positions that the backbone has."""
    stored = [_read(p).get("max_seq_length") for p in sorted(directory.glob("sentence_*_config.json"))]
    limit = next((n for n in stored if n), None) or _read(directory / "tokenizer_config.json").get("model_max_length")
    if not isinstance(limit, int | float) or limit > NO_LIMIT:
        limit = _read(directory / "config.json").get("max_position_embeddings")
    return int(limit) if limit else None


def _weights(files: Sequence[Path]) -> list[tuple[str, list[int], str]]:
    """(name, shape, dtype) of every floating-point tensor in safetensors files, from their headers."""
    found = []
    for path in (file for file in files if file.is_file()):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        found += [
            (name, t["shape"], str(t["dtype"]))
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
