"""Pairs of texts -> tokens: joined from the tokens of single texts where the tokenizer allows it, so that a query with a hundred
documents is tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stpipe.config.errors import ConfigError
from stpipe.core.pairs import PairTemplate
from stpipe.core.tokenize import tokenize_counted
from stpipe.core.tokens import Tokens
from stpipe.models.chat_pairs import Pair, check_template, tokenize_messages
from stpipe.models.tokenizer import UNLIMITED


@dataclass(frozen=True)
class PairInput:
    """How a model takes pairs.

    template: joins the tokens of two texts; None where only the tokenizer itself can make a pair, or where message_format (`flat` or
    `structured`) says that its chat template does.
    """

    tokenizer: Any
    template: PairTemplate | None = None
    message_format: str | None = None

    @staticmethod
    def of(tokenizer: Any, *, message_format: str | None = None) -> PairInput:
        """For a tokenizer, tried out; message_format None: its pairs are plain texts.

        Raises:
            ConfigError: the chat template has no place for two texts.
        """
        if message_format is None:
            return PairInput(tokenizer, PairTemplate.of(tokenizer))
        check_template(tokenizer, form=message_format)
        return PairInput(tokenizer, message_format=message_format)

    def tokens(self, pairs: Sequence[Pair], *, prompt: str = "", max_length: int | None = None) -> Tokens:
        """Tokens of pairs, on the CPU. prompt: put before the first text, or a message of the system; max_length: longest pair."""
        if self.message_format is not None:
            return tokenize_messages(self.tokenizer, pairs, prompt=prompt, max_length=max_length, form=self.message_format)
        if self.template is None:
            return tokenize_pairs(self.tokenizer, pairs, prompt=prompt, max_length=max_length)
        return join_texts(self.tokenizer, self.template, pairs, prompt=prompt, max_length=max_length)


def as_pairs(inputs: Any) -> tuple[list[Pair], bool]:
    """A list of pairs, and whether the input was a single one. Arrays and columns of a data set are lists too."""
    if isinstance(inputs, (str, dict)) or inputs is None:
        raise ConfigError(f"predict: expected a pair of texts or a list of pairs, got {type(inputs).__name__}")
    items = inputs.tolist() if hasattr(inputs, "tolist") else list(inputs)
    single = bool(items) and all(isinstance(item, str) for item in items)
    found = []
    for place, item in enumerate([items] if single else items):
        texts = [item] if isinstance(item, str) else list(item) if isinstance(item, Sequence) else []
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"predict: input {place} is {shown(item)}, expected two texts")
        found.append((texts[0], texts[1]))
    return found, single


def shown(item: Any) -> str:
    """An input in a message: of sequences the types of what they hold."""
    if isinstance(item, (list, tuple)):
        return f"{type(item).__name__} of {', '.join(type(part).__name__ for part in item) or 'nothing'}"
    return type(item).__name__


def join_texts(tokenizer: Any, template: PairTemplate, pairs: Sequence[Pair], *, prompt: str, max_length: int | None) -> Tokens:
    """The tokens of pairs from those of their texts, each distinct text tokenised once; see PairTemplate.join."""
    limit = max_length or UNLIMITED
    sides = []
    for texts in ([prompt + first for first, _ in pairs], [second for _, second in pairs]):
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids, whole = tokenize_counted(tokenizer, list(numbers), max_length=limit, special_tokens=False)
        sides.append((Tokens.from_lists(ids), torch.tensor(whole), torch.tensor([numbers[text] for text in texts])))
    (first, first_whole, i), (second, second_whole, j) = sides
    return template.join(first.rows(i), second.rows(j), max_length=max_length, first_lengths=first_whole[i], second_lengths=second_whole[j])


def tokenize_pairs(tokenizer: Any, pairs: Sequence[Pair], *, prompt: str, max_length: int | None) -> Tokens:
    """The tokens of pairs as the tokenizer lays them out, for tokenizers whose pairs cannot be joined."""
    cut = {"truncation": "longest_first", "max_length": max_length} if max_length is not None else {}
    out = tokenizer([prompt + first for first, _ in pairs], [second for _, second in pairs], return_attention_mask=False, **cut)
    return Tokens.from_lists(out["input_ids"], type_ids=out.get("token_type_ids"))
