"""Pairs of texts by the chat template of a tokenizer: a message with the role `query` and one with the role `document`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens

Pair = tuple[str, str]
ROLES = ("query", "document")
#: Signs of a template that reads the content of a message as a list of parts.
STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "message.content[")


def message_format(tokenizer: Any) -> str | None:
    """How the chat template of a tokenizer takes the content of messages; None when there is no template."""
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        return None
    return "structured" if not isinstance(template, str) or any(sign in template for sign in STRUCTURED) else "flat"


def messages(pair: Pair, *, prompt: str, form: str) -> list[dict[str, Any]]:
    """The messages of a pair; a prompt is that of the system."""
    parts = [("system", prompt)] if prompt else []
    parts += zip(ROLES, pair, strict=True)
    return [{"role": role, "content": text if form == "flat" else [{"type": "text", "text": text}]} for role, text in parts]


def check_template(tokenizer: Any, *, form: str) -> None:
    """Refuse a chat template that leaves out what a pair says; tried out, because reading a template cannot tell."""
    try:
        base, *others = (render(tokenizer, [pair], prompt="", form=form)[0] for pair in (("a", "b"), ("other a", "b"), ("a", "other b")))
        lost = [role for role, found in zip(ROLES, others, strict=True) if found == base]
        reason = f"the text of the {' and the '.join(lost)} is not in what it makes" if lost else ""
    except Exception as error:  # a template is code of its own
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise ConfigError(
            f"the chat template of this model has no place for a pair of texts ({reason}). Give one that has, with messages of the roles "
            "query and document: model.chat_template in a configuration, else set the tokenizer's chat_template"
        )


def render(tokenizer: Any, pairs: Sequence[Pair], *, prompt: str, form: str) -> list[str]:
    """The text that the template makes of each pair."""
    return [tokenizer.apply_chat_template(messages(pair, prompt=prompt, form=form), tokenize=False) for pair in pairs]


def tokenize_messages(tokenizer: Any, pairs: Sequence[Pair], *, prompt: str, max_length: int | None, form: str) -> Tokens:
    """The tokens of pairs by the chat template. A pair that is too long loses its end, but not what the template puts there, which
    is where the model is asked."""
    cut = {"truncation": True, "max_length": max_length} if max_length is not None else {}
    ids: list[list[int]] = plain_ids(tokenizer, render(tokenizer, pairs, prompt=prompt, form=form), **cut)
    if max_length is not None and any(len(text) >= max_length for text in ids):
        end = suffix(tokenizer, prompt=prompt, form=form)[-max_length:]
        ids = [[*text[: len(text) - len(end)], *end] if len(text) >= max_length else text for text in ids]
    return Tokens.from_lists(ids)


def suffix(tokenizer: Any, *, prompt: str, form: str) -> list[int]:
    """The tokens at the end of every pair, whatever its texts say."""
    first, second = plain_ids(tokenizer, render(tokenizer, [("0", "0"), ("1 2 3 4", "1 2 3 4")], prompt=prompt, form=form))
    shared = min(len(first), len(second))
    count = next((i for i in range(shared) if first[-1 - i] != second[-1 - i]), shared)
    return first[len(first) - count :] if count < shared else []


def plain_ids(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Token ids of texts that have all their special tokens already."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, **options)["input_ids"]
    return ids
