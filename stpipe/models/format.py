"""The sentence-transformers directory: modules.json, a folder a module, config_sentence_transformers.json.

Written as version 6.2 writes it, read in the form of any version since 2.0.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from stpipe.config.errors import ConfigError
from stpipe.models.backbone import is_causal, load_backbone, load_causal_lm, load_classifier, load_config, load_masked_lm
from stpipe.models.mlm_head import reset_head
from stpipe.models.modules import (
    MODULES,
    CausalLanguageModel,
    MaskedLanguageModel,
    Module,
    Pooling,
    SequenceClassifier,
    Transformer,
)
from stpipe.models.modules.headed import HeadedTransformer
from stpipe.models.runtimes import RUNTIME_KEYS, load_runtime
from stpipe.models.tokenizer import load_tokenizer

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
FORMAT_VERSION = "6.2.0"
NAMESPACE = "sentence_transformers."
CROSS_ENCODER = "CrossEncoder"

logger = logging.getLogger("stpipe")


@dataclass(frozen=True)
class Settings:
    """What config_sentence_transformers.json holds. similarity None means that none was stored (cosine is the default).

    activation: of the scores of a cross-encoder, by the dotted path of its class; None means that none was stored.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    max_active_dims: int | None = None
    model_type: str = "SentenceTransformer"
    activation: str | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How the backbone is loaded.

    model, tokenizer, config: arguments for the three from_pretrained of transformers; hidden_dropout, attention_dropout, head_dropout:
    None keeps the model's own; max_seq_length: None keeps the stored one; num_labels: outputs of a classification head, None keeps the
    stored one, and gives an encoder without such a head one output; backend: what computes it (torch, onnx, openvino), whose own
    options (models/runtimes/files.py: RUNTIME_KEYS) are in `model`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    max_seq_length: int | None = None
    head_dropout: float | None = None
    num_labels: int | None = None
    backend: str = "torch"


Bare = Callable[[Path, LoadOptions], list[Module]]
T = TypeVar("T", bound=Transformer)


def read_modules(directory: Path, *, options: LoadOptions | None = None, bare: Bare | None = None) -> list[Module]:
    """The modules of a model directory.

    Args:
        directory: the model directory.
        options: how the backbone is loaded.
        bare: modules of a transformers checkpoint without modules.json; None is `dense_stack`.
    """
    options = options or LoadOptions()
    if not (directory / MODULES_FILE).exists():
        return (bare or dense_stack)(directory, options)
    return [read_module(entry["type"], module_folder(directory, entry["path"]), options) for entry in stored_modules(directory)]


def dense_stack(directory: Path, options: LoadOptions) -> list[Module]:
    """A bare checkpoint as a dense model: mean pooling, for a causal model last-token pooling."""
    transformer = read_transformer(directory, options)
    mode = "lasttoken" if is_causal(transformer.model.config) else "mean"
    return [transformer, Pooling(transformer.output_dim(), mode=mode)]


def read_module(type_name: str, folder: Path, options: LoadOptions) -> Module:
    """Any module by its type in the format; one that holds others reads them by this function, too."""
    cls = module_class(type_name, folder)
    if issubclass(cls, Transformer):
        return read_transformer(folder, options, task=cls.task)
    return cls.read(folder, read_module=lambda inner, inside: read_module(inner, inside, options))


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


def read_transformer(directory: Path, options: LoadOptions, *, task: str = Transformer.task) -> Transformer:
    """Backbone and tokenizer, with the limits that sentence_bert_config.json adds. The task that is stored there decides
    whether the backbone keeps its masked-language-model head; versions before 5.4 store none, and `task` (that of the class) does."""
    stored = stored_limits(directory)
    task = stored.get("transformer_task") or task
    if task not in TASKS:
        raise ConfigError(f"{directory}: the Transformer is for '{task}'; supported are {', '.join(TASKS)}")
    return read_task(task, directory, options, stored)


def read_task(task: str, directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> Transformer:
    """A backbone for a task, computed by the backend of the options."""
    if options.backend == "torch":
        return TASKS[task](directory, options, stored)
    given = {**kept(stored, "model"), **options.model}
    plain = replace(options, backend="torch", model={key: value for key, value in options.model.items() if key not in RUNTIME_KEYS})
    own = replace(options, config={key: value for key, value in options.config.items() if key != "num_labels"})
    model = load_runtime(
        directory,
        config=stored_config(directory, own, stored),
        backend=options.backend,
        options=given,
        torch_backbone=lambda: TASKS[task](directory, plain, stored),
    )
    # The classes of modules ask a transformers model for nothing that a graph in its place does not answer.
    backbone = CLASSES[task](cast(PreTrainedModel, model), tokenizer=None)
    backbone.position_offset = model.position_offset
    if isinstance(backbone, HeadedTransformer):
        backbone.message_format = stored_message_format(stored)
    else:
        backbone.packing_obstacle = f"the backend {options.backend} computes a graph of padded texts"
    return with_tokenizer(backbone, directory, options, stored)


def stored_limits(directory: Path) -> dict[str, Any]:
    """Content of sentence_bert_config.json, whatever it is called; empty for a bare checkpoint."""
    return read_json(next((directory / name for name in TRANSFORMER_FILES if (directory / name).exists()), None))


def read_backbone(directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> Transformer:
    """A backbone without head."""
    config = stored_config(directory, options, stored)
    model = load_backbone(directory, config=config, options={**kept(stored, "model"), **options.model})
    return with_tokenizer(Transformer(model, tokenizer=None), directory, options, stored)


def read_masked_lm(directory: Path, options: LoadOptions, stored: Mapping[str, Any], *, fresh_head: bool = False) -> MaskedLanguageModel:
    """A backbone with its masked-language-model head.

    fresh_head: give a checkpoint that has none a head tied to its word embeddings (to be calibrated); else that is an error.
    """
    config = stored_config(directory, options, stored)
    model, has_head = load_masked_lm(directory, config=config, options={**kept(stored, "model"), **options.model})
    if not has_head:
        if not fresh_head:
            raise ConfigError(
                f"{directory} holds an encoder without masked-language-model head. Train one with `model=splade` (it gets a head "
                "tied to its word embeddings), or name a fill-mask checkpoint"
            )
        reset_head(model)
    backbone = MaskedLanguageModel(model, tokenizer=None)
    backbone.fresh = not has_head
    return with_tokenizer(backbone, directory, options, stored)


def read_classifier(directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> SequenceClassifier:
    """A backbone with its classification head; a new one where there is none, or one with another number of outputs."""
    num_labels = options.num_labels or options.config.get("num_labels")
    options = replace(options, config={key: value for key, value in options.config.items() if key != "num_labels"})
    config = stored_config(directory, options, stored)
    trained = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    before = config.num_labels
    wanted = num_labels or (before if trained else 1)
    if wanted != before:
        config.num_labels = wanted  # names the classes anew, too
    model, fresh = load_classifier(directory, config=config, options={**kept(stored, "model"), **options.model})
    if trained and fresh:
        logger.warning(f"{directory}: the stored head has {before} outputs, not {wanted}; {', '.join(fresh)} are drawn anew and untrained")
    backbone = SequenceClassifier(model, tokenizer=None)
    backbone.fresh = fresh
    backbone.message_format = stored_message_format(stored)
    return with_tokenizer(backbone, directory, options, stored)


def read_causal_lm(directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> CausalLanguageModel:
    """A causal language model with its head."""
    config = stored_config(directory, options, stored)
    model = load_causal_lm(directory, config=config, options={**kept(stored, "model"), **options.model})
    backbone = CausalLanguageModel(model, tokenizer=None)
    backbone.message_format = stored_message_format(stored)
    return with_tokenizer(backbone, directory, options, stored)


def stored_message_format(stored: Mapping[str, Any]) -> str | None:
    """`flat` or `structured` where a stored model lays its pairs out by a chat template."""
    message = (stored.get("modality_config") or {}).get("message")
    return None if message is None else message.get("format", "structured")


def stored_classes(directory: Path) -> list[str]:
    """Class names of the modules of a directory, in order; none for a bare checkpoint."""
    return [entry["type"].rsplit(".", 1)[-1] for entry in stored_modules(directory)]


def first_folder(directory: Path) -> Path:
    """Where the first module lies: the directory itself, but for old versions, which gave it a folder of its own."""
    return next((module_folder(directory, entry["path"]) for entry in stored_modules(directory)), directory)


def stored_modules(directory: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, in order; none for a bare checkpoint."""
    file = directory / MODULES_FILE
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return sorted(entries, key=lambda entry: int(entry["idx"]))


def stored_config(directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> PreTrainedConfig:
    """Configuration of the backbone, with the changes that are stored and asked for."""
    return load_config(
        directory,
        hidden_dropout=options.hidden_dropout,
        attention_dropout=options.attention_dropout,
        head_dropout=options.head_dropout,
        options={**kept(stored, "config"), **options.config},
    )


def with_tokenizer(transformer: T, directory: Path, options: LoadOptions, stored: Mapping[str, Any]) -> T:
    """The backbone with its tokenizer, which comes second: its limit depends on the positions that the model has."""
    transformer.tokenizer = load_tokenizer(
        directory,
        max_seq_length=options.max_seq_length or stored.get("max_seq_length"),
        position_limit=transformer.position_limit,
        do_lower_case=bool(stored.get("do_lower_case", False)),
        options={**kept(stored, "tokenizer", "processor"), **options.tokenizer},
    )
    return transformer


TASKS: dict[str, Callable[[Path, LoadOptions, Mapping[str, Any]], Transformer]] = {
    "feature-extraction": read_backbone,
    "fill-mask": read_masked_lm,
    "sequence-classification": read_classifier,
    "text-generation": read_causal_lm,
}
CLASSES: Mapping[str, type[Transformer]] = {
    cls.task: cls for cls in (Transformer, MaskedLanguageModel, SequenceClassifier, CausalLanguageModel)
}


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
    """Prompts, similarity and the like of a model directory; defaults where nothing is stored."""
    stored = read_json(directory / SETTINGS_FILE)
    backbone = read_json(directory / "config.json")
    return Settings(
        prompts={name: text for name, text in (stored.get("prompts") or {}).items() if text is not None},
        default_prompt_name=stored.get("default_prompt_name"),
        similarity=stored.get("similarity_fn_name"),
        truncate_dim=stored.get("truncate_dim"),
        max_active_dims=stored.get("max_active_dims"),
        model_type=stored.get("model_type") or stored_type(directory, backbone),
        activation=stored.get("activation_fn") or old_activation(backbone),
    )


def stored_type(directory: Path, backbone: Mapping[str, Any]) -> str:
    """The class that a directory is for which names none: versions before 5.4 stored cross-encoders as transformers alone does."""
    scores = any(name.endswith("ForSequenceClassification") for name in backbone.get("architectures") or ())
    return CROSS_ENCODER if scores and not (directory / MODULES_FILE).exists() else "SentenceTransformer"


def old_activation(backbone: Mapping[str, Any]) -> str | None:
    """The activation where versions before 5.4, and before 4.0, stored it: in the configuration of the backbone."""
    section = backbone.get("sentence_transformers") or {}
    return section.get("activation_fn") or backbone.get("sbert_ce_default_activation_function")


def write_old_activation(file: Path, activation: str) -> None:
    """Put an activation into the config.json of a backbone, where versions before 5.4 look for it."""
    values = read_json(file)
    values.pop("sbert_ce_default_activation_function", None)
    values["sentence_transformers"] = {"activation_fn": activation, "version": FORMAT_VERSION}
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_model(directory: Path, *, modules: Iterable[Module], settings: Settings) -> None:
    """Write a whole model into a directory that is the caller's own; a caller that must not be seen half-way renames it."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = []
    for idx, module in enumerate(modules):
        path = "" if idx == 0 else f"{idx}_{module.folder_name()}"
        module.save(directory / path)
        entries.append({"idx": idx, "name": str(idx), "path": path, "type": module.type_name})
    (directory / MODULES_FILE).write_text(json.dumps(entries, indent=2), encoding="utf-8")
    stored: dict[str, Any] = {
        "__version__": {"pytorch": torch.__version__, "sentence_transformers": FORMAT_VERSION, "transformers": transformers.__version__},
        "default_prompt_name": settings.default_prompt_name,
        "model_type": settings.model_type,
        "prompts": dict(settings.prompts),
    }
    if settings.activation is None:
        stored["similarity_fn_name"] = settings.similarity
    else:
        stored["activation_fn"] = settings.activation
        write_old_activation(directory / "config.json", settings.activation)
    for name in ("truncate_dim", "max_active_dims"):
        if getattr(settings, name) is not None:
            stored[name] = getattr(settings, name)
    (directory / SETTINGS_FILE).write_text(json.dumps(stored, indent=2, sort_keys=True), encoding="utf-8")
