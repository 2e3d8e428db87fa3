"""The sentence-transformers directory: modules.json, a folder a module, config_sentence_transformers.json.

Written as version 6.2 writes it, read in the form of any version since 2.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import transformers

from stpipe.config.errors import ConfigError
from stpipe.models.backbone import is_causal, load_backbone, load_config
from stpipe.models.modules import MODULES, Module, Pooling, Transformer
from stpipe.models.tokenizer import load_tokenizer

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
FORMAT_VERSION = "6.2.0"
NAMESPACE = "sentence_transformers."


@dataclass(frozen=True)
class Settings:
    """What config_sentence_transformers.json holds. similarity None means that none was stored (cosine is the default)."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    model_type: str = "SentenceTransformer"


@dataclass(frozen=True)
class LoadOptions:
    """How the backbone is loaded.

    model, tokenizer, config: arguments for the three from_pretrained of transformers; hidden_dropout, attention_dropout:
    None keeps the model's own; max_seq_length: None keeps the stored one.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    max_seq_length: int | None = None


def read_modules(directory: Path, *, options: LoadOptions | None = None) -> list[Module]:
    """The modules of a model directory; a bare transformers checkpoint gets mean (causal models: last-token) pooling."""
    options = options or LoadOptions()
    if not (directory / MODULES_FILE).exists():
        transformer = read_transformer(directory, options)
        mode = "lasttoken" if is_causal(transformer.model.config) else "mean"
        return [transformer, Pooling(transformer.output_dim(), mode=mode)]
    entries = json.loads((directory / MODULES_FILE).read_text(encoding="utf-8"))
    modules = []
    for entry in sorted(entries, key=lambda e: int(e["idx"])):
        folder = module_folder(directory, entry["path"])
        cls = module_class(entry["type"], directory)
        modules.append(read_transformer(folder, options) if cls is Transformer else cls.load(folder))
    return modules


def module_folder(directory: Path, path: str) -> Path:
    """The folder of a module; only folders below the model directory are allowed."""
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts:
        raise ConfigError(f"{directory / MODULES_FILE}: path '{path}' leaves the model directory")
    return directory / inside


def module_class(type_name: str, directory: Path) -> type[Module]:
    """The class for a type string of any version; other namespaces would run foreign code and are refused."""
    cls = MODULES.get(type_name.rsplit(".", 1)[-1]) if type_name.startswith(NAMESPACE) else None
    if cls is None:
        raise ConfigError(
            f"{directory / MODULES_FILE}: module type '{type_name}' is not supported. Supported: {', '.join(sorted(MODULES))}"
        )
    return cls


def read_transformer(directory: Path, options: LoadOptions) -> Transformer:
    """Backbone and tokenizer, with the limits that sentence_bert_config.json adds."""
    stored = read_json(next((directory / name for name in TRANSFORMER_FILES if (directory / name).exists()), None))
    task = stored.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ConfigError(f"{directory}: the Transformer is for '{task}'; a dense model needs 'feature-extraction'")
    config = load_config(
        directory,
        hidden_dropout=options.hidden_dropout,
        attention_dropout=options.attention_dropout,
        options={**kept(stored, "config"), **options.config},
    )
    model = load_backbone(directory, config=config, options={**kept(stored, "model"), **options.model})
    # The tokenizer comes second: its limit depends on the positions that the model has.
    transformer = Transformer(model, tokenizer=None)
    transformer.tokenizer = load_tokenizer(
        directory,
        max_seq_length=options.max_seq_length or stored.get("max_seq_length"),
        position_limit=transformer.position_limit,
        do_lower_case=bool(stored.get("do_lower_case", False)),
        options={**kept(stored, "tokenizer", "processor"), **options.tokenizer},
    )
    return transformer


def kept(stored: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Stored arguments under their old (`_args`) and new (`_kwargs`) key; a file may not ask to run code."""
    found: dict[str, Any] = {}
    for name in names:
        for suffix in ("_args", "_kwargs"):
            found.update(stored.get(name + suffix) or {})
    return {key: value for key, value in found.items() if key != "trust_remote_code"}


def read_json(file: Path | None) -> dict[str, Any]:
    """Content of a JSON file; empty when there is none."""
    if file is None or not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error


def read_settings(directory: Path) -> Settings:
    """Prompts, similarity and truncation of a model directory; defaults where nothing is stored."""
    stored = read_json(directory / SETTINGS_FILE)
    return Settings(
        prompts={name: text for name, text in (stored.get("prompts") or {}).items() if text is not None},
        default_prompt_name=stored.get("default_prompt_name"),
        similarity=stored.get("similarity_fn_name"),
        truncate_dim=stored.get("truncate_dim"),
        model_type=stored.get("model_type") or "SentenceTransformer",
    )


def write_model(directory: Path, *, modules: Iterable[Module], settings: Settings) -> None:
    """Write a whole model into a directory that is the caller's own; a caller that must not be seen half-way renames it."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for idx, module in enumerate(modules):
        name = type(module).__name__
        path = "" if idx == 0 else f"{idx}_{name}"
        module.save(directory / path)
        entries.append({"idx": idx, "name": str(idx), "path": path, "type": module.type_name})
    (directory / MODULES_FILE).write_text(json.dumps(entries, indent=2), encoding="utf-8")
    stored: dict[str, Any] = {
        "__version__": {"pytorch": torch.__version__, "sentence_transformers": FORMAT_VERSION, "transformers": transformers.__version__},
        "default_prompt_name": settings.default_prompt_name,
        "model_type": settings.model_type,
        "prompts": dict(settings.prompts),
        "similarity_fn_name": settings.similarity,
    }
    if settings.truncate_dim is not None:
        stored["truncate_dim"] = settings.truncate_dim
    (directory / SETTINGS_FILE).write_text(json.dumps(stored, indent=2, sort_keys=True), encoding="utf-8")
