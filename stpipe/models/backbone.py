"""Loading and making the transformers model inside a Transformer module."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from stpipe.config.errors import ConfigError
from stpipe.models.own_code import loading, refuse_own_code

# model_type -> (module, class) of the encoder half of an encoder-decoder architecture
ENCODER_ONLY: dict[str, tuple[str, str]] = {
    "t5": ("transformers", "T5EncoderModel"),
    "mt5": ("transformers", "MT5EncoderModel"),
    "umt5": ("transformers", "UMT5EncoderModel"),
    "longt5": ("transformers", "LongT5EncoderModel"),
    "t5gemma": ("transformers", "T5GemmaEncoderModel"),
}

# Names under which configurations of different architectures store the same thing.
HIDDEN_DROPOUT = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    "mlp_dropout",
)
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
HEAD_DROPOUT = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "cls_dropout", "pooler_dropout")


def load_config(
    directory: Path,
    *,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    head_dropout: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> PreTrainedConfig:
    """The transformers configuration of a model directory, with dropout changed where asked.

    Args:
        directory: model directory with config.json.
        hidden_dropout: dropout of hidden states; None keeps the model's own.
        attention_dropout: dropout of attention weights; None keeps the model's own.
        head_dropout: dropout in a classification head; None keeps the model's own.
        options: further arguments of AutoConfig.from_pretrained.
    """
    try:
        config = AutoConfig.from_pretrained(directory, **loading(options))
    except (OSError, ValueError, KeyError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(f"{directory} holds no transformers model: {str(error).splitlines()[0]}") from error
    override(config, "hidden_dropout", HIDDEN_DROPOUT, hidden_dropout)
    override(config, "attention_dropout", ATTENTION_DROPOUT, attention_dropout)
    override(config, "head_dropout", HEAD_DROPOUT, head_dropout)
    for part in (config, config.get_text_config()):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # there is nothing to generate
    return config


def override(config: PreTrainedConfig, key: str, names: tuple[str, ...], value: float | None) -> None:
    """Set every attribute of the configuration that means this dropout."""
    if value is None:
        return
    text = config.get_text_config()
    found = [name for name in names if hasattr(text, name)]
    if not found:
        raise ConfigError(f"model.{key}: {config.model_type} has no such dropout (looked for {', '.join(names)}); remove the key")
    for name in found:
        setattr(text, name, value)


def load_backbone(directory: Path, *, config: PreTrainedConfig, options: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """The weights of a model directory, without language-model head and without decoder.

    Args:
        directory: model directory.
        config: its configuration, from load_config.
        options: further arguments of from_pretrained, such as dtype, device_map and attn_implementation.
    """
    cls = model_class(config)
    try:
        with no_progress_bars():
            model: PreTrainedModel = cls.from_pretrained(directory, config=config, **loading(options))
    except (OSError, ValueError, RuntimeError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(f"{directory}: {cls.__name__} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model


def load_masked_lm(directory: Path, *, config: PreTrainedConfig, options: Mapping[str, Any] | None = None) -> tuple[PreTrainedModel, bool]:
    """The weights of a model directory with their masked-language-model head, and whether the directory holds that head.

    Arguments as for load_backbone. A head that is not in the directory has arbitrary weights.

    Raises:
        ConfigError: there is no such model, or weights of the encoder below the head are not there.
    """
    try:
        with no_progress_bars(), quiet():
            model, found = AutoModelForMaskedLM.from_pretrained(directory, config=config, output_loading_info=True, **loading(options))
    except (OSError, ValueError, RuntimeError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(
            f"{directory}: there is no masked-language model here, which SPLADE needs ({str(error).splitlines()[0]})"
        ) from error
    check_complete(directory, model, found["missing_keys"])
    return model, not found["missing_keys"]


def load_classifier(
    directory: Path, *, config: PreTrainedConfig, options: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The weights of a model directory with a classification head, and the names of the weights of the head that are not in the
    directory or do not fit: they are drawn from torch's global generator, as the architecture does it. A pooler belongs to the head.

    Arguments as for load_backbone; config.num_labels decides how many outputs the head has.

    Raises:
        ConfigError: the architecture has no such head, or weights of the encoder below it are not there.
    """
    try:
        with no_progress_bars(), quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                directory, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **loading(options)
            )
    except (OSError, ValueError, RuntimeError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(f"{directory}: no classification head can be put on this model ({str(error).splitlines()[0]})") from error
    fresh = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    check_complete(directory, model, {name for name in fresh if ".pooler." not in name})
    return model, tuple(sorted(fresh))


def load_causal_lm(directory: Path, *, config: PreTrainedConfig, options: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """The weights of a model directory with its language-model head. Arguments as for load_backbone.

    Raises:
        ConfigError: there is no such model, or some of its weights are not there.
    """
    try:
        with no_progress_bars(), quiet():
            model, found = AutoModelForCausalLM.from_pretrained(directory, config=config, output_loading_info=True, **loading(options))
    except (OSError, ValueError, RuntimeError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(f"{directory}: there is no causal language model here ({str(error).splitlines()[0]})") from error
    if found["missing_keys"]:
        raise ConfigError(f"{directory}: the weights of the language model lack {', '.join(sorted(found['missing_keys'])[:3])}")
    return model


def check_complete(directory: Path, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """Refuse weights that lack some of the encoder, which would start as random numbers."""
    base = [name for name in sorted(missing) if below_head(model, name)]
    if base:
        shown = ", ".join(base[:3]) + (f" and {len(base) - 3} more" if len(base) > 3 else "")
        raise ConfigError(
            f"{directory}: the weights lack {shown}, which {type(model).__name__} needs below its head, so training would start from "
            "random numbers there. Name a complete checkpoint, whose config.json belongs to its weights"
        )


def below_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight belongs to the encoder itself; not where the architecture does not tell it from its head."""
    return model.base_model is not model and name.startswith(f"{model.base_model_prefix}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the table of weights that are missing or left over; the caller looks at them itself."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence the bars that transformers shows while reading and writing weights."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def model_class(config: PreTrainedConfig) -> Any:
    """AutoModel, or the encoder class of an encoder-decoder architecture."""
    if config.model_type not in ENCODER_ONLY:
        return AutoModel
    module, name = ENCODER_ONLY[config.model_type]
    config.is_encoder_decoder = False
    return getattr(importlib.import_module(module), name)


def random_backbone(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, the same for the same seed (tests, and training from scratch)."""
    cls = model_class(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls.from_config(config) if cls is AutoModel else cls(config)


def is_causal(config: PreTrainedConfig) -> bool:
    """True for a language model whose tokens see only what stands before them."""
    architecture = (config.architectures or [""])[0]
    return architecture.endswith("ForCausalLM") and getattr(config, "is_causal", None) is not False
