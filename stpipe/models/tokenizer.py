"""Tokenizers: loading, limits, identity."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from transformers import AutoTokenizer

from stpipe.config.errors import ConfigError
from stpipe.models.own_code import loading, refuse_own_code

UNLIMITED = 10**9  # transformers stores a huge number where a tokenizer has no limit


def load_tokenizer(
    directory: Path,
    *,
    max_seq_length: int | None = None,
    position_limit: int | None = None,
    do_lower_case: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The tokenizer of a model directory.

    Args:
        directory: model directory.
        max_seq_length: longest text in tokens; None keeps the tokenizer's own limit, cut to position_limit.
        position_limit: longest text that the model's positions reach; None when it has no limit.
        do_lower_case: put a lower-casing step first (key of old sentence_bert_config.json files).
        options: further arguments of AutoTokenizer.from_pretrained.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **loading(options))
    except (OSError, ValueError) as error:
        refuse_own_code(directory, error)
        raise ConfigError(f"{directory} has no tokenizer that transformers can read: {str(error).splitlines()[0]}") from error
    if max_seq_length is not None:
        tokenizer.model_max_length = max_seq_length
    elif position_limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, position_limit)
    if do_lower_case:
        add_lower_case(tokenizer)
    return tokenizer


def add_lower_case(tokenizer: Any) -> None:
    """Put a Lowercase normaliser before the others unless one is there."""
    present = tokenizer.backend_tokenizer.normalizer
    if present is not None and ("Lowercase" in repr(present) or "lowercase=True" in repr(present)):
        return
    steps = [normalizers.Lowercase()] + ([present] if present is not None else [])
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash (64 hex digits) of everything that decides which ids a text gets, but for the length that the caller cuts at.

    Padding and truncation are state of the last call, not of the tokenizer, so they are left out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    digest = hashlib.sha256()
    if backend is None:  # a tokenizer in Python: its class, vocabulary and arguments
        digest.update(
            repr(
                (type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items()), sorted(tokenizer.init_kwargs.items(), key=str))
            ).encode()
        )
    else:
        clean = type(backend).from_str(backend.to_str())
        clean.no_padding()
        clean.no_truncation()
        digest.update(clean.to_str().encode("utf-8"))
    digest.update(repr((tokenizer.padding_side, tokenizer.truncation_side, sorted(tokenizer.special_tokens_map.items(), key=str))).encode())
    return digest.hexdigest()
