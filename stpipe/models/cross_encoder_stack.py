"""The modules of cross-encoders, also made from checkpoints that are no cross-encoders yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from stpipe.config.errors import ConfigError, Problem
from stpipe.models.backbone import is_causal
from stpipe.models.chat_pairs import message_format
from stpipe.models.format import (
    CROSS_ENCODER,
    LoadOptions,
    Settings,
    first_folder,
    read_modules,
    read_task,
    stored_config,
    stored_limits,
    stored_modules,
)
from stpipe.models.modules import CausalLanguageModel, LogitScore, Module, SequenceClassifier


def cross_encoder_stack(
    directory: Path, settings: Settings, options: LoadOptions, *, true_token: str | None = None, false_token: str | None = None
) -> list[Module]:
    """The modules of a stored cross-encoder; or a causal language model that is asked yes or no; or a classification head on the backbone
    of any other directory.

    true_token, false_token: what a language model says of a document that answers the query, and of another; None is what is stored,
    else yes and no.
    """
    if settings.model_type == CROSS_ENCODER and stored_modules(directory):
        modules = read_modules(directory, options=options)
        return modules if true_token is None and false_token is None else asking(modules, true_token, false_token)
    folder = first_folder(directory)
    # How long texts of another kind of model may be says nothing about pairs.
    stored = {key: value for key, value in stored_limits(folder).items() if key == "do_lower_case"}
    if is_causal(stored_config(folder, options, stored)):
        asked = cast(CausalLanguageModel, read_task("text-generation", folder, options, stored))
        asked.message_format = message_format(asked.tokenizer)
        return [asked, logit_score(asked.tokenizer, true_token or "yes", false_token or "no")]
    backbone = cast(SequenceClassifier, read_task("sequence-classification", folder, options, stored))
    backbone.message_format = message_format(backbone.tokenizer)
    return asking([backbone], true_token, false_token) if true_token or false_token else [backbone]


def asking(modules: list[Module], true_token: str | None, false_token: str | None) -> list[Module]:
    """The modules of a stored language model with the words that were named, the others as they are stored."""
    entry, score = modules[0], modules[-1]
    if not isinstance(score, LogitScore):
        key = "true_token" if true_token is not None else "false_token"
        raise ConfigError(Problem(f"model.{key}", "only for causal language models; this model has a classification head. Remove the key"))
    true = score.true_token_id if true_token is None else token_id(entry.tokenizer, true_token, "true_token")
    false = score.false_token_id if false_token is None else token_id(entry.tokenizer, false_token, "false_token")
    return [*modules[:-1], LogitScore(true, false_token_id=false, input_name=score.input_name)]


def logit_score(tokenizer: Any, true_token: str, false_token: str) -> LogitScore:
    """The score of a language model that says one of two words."""
    true, false = token_id(tokenizer, true_token, "true_token"), token_id(tokenizer, false_token, "false_token")
    return LogitScore(true, false_token_id=false)


def token_id(tokenizer: Any, token: str, key: str) -> int:
    """The id of a word that is one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
        what = f"the tokenizer has no token '{token}', which the score of a language model is made of; set one that it has"
        raise ConfigError(Problem(f"model.{key}", what))
    return int(found)
