"""Text -> token ids, the same for training data and for inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RoleTokenizer:
    """How the texts of one role become tokens: roles that go through different encoders differ in it.

    tokenizer: a transformers tokenizer; special_tokens: add its special tokens (static embeddings do without); max_length:
    tokens of the longest text, special tokens included, unless the data says otherwise (None: the tokenizer's own limit);
    name: stands for the tokenizer's identity where it cannot be serialised.
    """

    tokenizer: Any
    special_tokens: bool = True
    max_length: int | None = None
    name: str = ""


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, prompt: str = "", max_length: int | None = None, special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of each text with the prompt put before it as plain text, cut to max_length tokens.

    Args:
        tokenizer: a transformers tokenizer.
        texts: the texts.
        prompt: put before every text, without a separator (the sentence-transformers convention).
        max_length: longest result in tokens, special tokens included; None is the tokenizer's own limit.
        special_tokens: add the tokenizer's special tokens (static embeddings do without).
    """
    return _encode(tokenizer, [prompt + text for text in texts], max_length, special_tokens)["input_ids"]


def tokenize_counted(
    tokenizer: Any, texts: Sequence[str], *, prompt: str = "", max_length: int | None = None, special_tokens: bool = True
) -> tuple[list[list[int]], list[int]]:
    """What `tokenize` gives, and the number of tokens that each text has before it is cut."""
    whole = [prompt + text for text in texts]
    encoded = _encode(tokenizer, whole, max_length, special_tokens)
    ids = encoded["input_ids"]
    if not getattr(tokenizer, "is_fast", False):
        uncut = tokenizer(whole, truncation=False, add_special_tokens=special_tokens, return_attention_mask=False)["input_ids"]
        return ids, [len(i) for i in uncut]
    extra = tokenizer.num_special_tokens_to_add(False) if special_tokens else 0
    return ids, [len(e.ids) + sum(len(cut.ids) - extra for cut in e.overflowing) for e in encoded.encodings]


def _encode(tokenizer: Any, texts: list[str], max_length: int | None, special_tokens: bool) -> Any:
    limit = max_length if max_length is not None else tokenizer.model_max_length
    return tokenizer(
        texts,
        truncation=limit < 10**9,
        max_length=limit if limit < 10**9 else None,
        add_special_tokens=special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )


def prompt_length(tokenizer: Any, prompt: str, *, special_tokens: bool = True) -> int:
    """Leading tokens that belong to the prompt, the leading special token included; 0 without a prompt.

    A trailing special token of the tokenised prompt (such as [SEP]) does not stand between prompt and text, so it does
    not count.
    """
    if not prompt:
        return 0
    ids = tokenizer([prompt], add_special_tokens=special_tokens, return_attention_mask=False, return_token_type_ids=False)["input_ids"][0]
    special = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None} if special_tokens else set()
    return len(ids) - (1 if ids and ids[-1] in special else 0)
