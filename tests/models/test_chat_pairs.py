"""Pairs by a chat template: its end is never cut, and a template without a place for the texts is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stpipe.config.errors import ConfigError
from stpipe.models.chat_pairs import check_template, message_format, render, suffix, tokenize_messages
from stpipe.models.pair_input import PairInput
from tests.models.tiny import make_tokenizer

FLAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}w1 {{ message['content'] }} . {% endif %}"
    "{% if message['role'] == 'query' %}query : {{ message['content'] }} {% endif %}"
    "{% if message['role'] == 'document' %}document : {{ message['content'] }} . w2 w3{% endif %}{% endfor %}"
)
STRUCTURED = FLAT.replace("['content']", ".content[0].text")
PRESETS = Path(__file__).parents[2] / "configs" / "model"


def tokenizer_with(template: Any) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_tokens(["0", "4"])  # what tells apart the end of a template from the text before it
    return tokenizer


@pytest.mark.parametrize(("template", "form"), [(FLAT, "flat"), (STRUCTURED, "structured"), (None, None)])
def test_form_of_messages(template: str | None, form: str | None) -> None:
    assert message_format(tokenizer_with(template)) == form


@pytest.mark.parametrize(("template", "form"), [(FLAT, "flat"), (STRUCTURED, "structured")])
def test_what_a_template_makes(template: str, form: str) -> None:
    tokenizer = tokenizer_with(template)
    assert render(tokenizer, [("w5", "w6")], prompt="", form=form) == ["query : w5 document : w6 . w2 w3"]
    assert render(tokenizer, [("w5", "w6")], prompt="w9", form=form) == ["w1 w9 . query : w5 document : w6 . w2 w3"]


@pytest.mark.parametrize("limit", [None, 8, 9, 12, 40])
def test_a_long_pair_keeps_the_end_of_the_template(limit: int | None) -> None:
    tokenizer = tokenizer_with(FLAT)
    words = tokenizer.get_vocab()
    tokens = tokenize_messages(tokenizer, [("w5", "w6"), ("w5 w5", "w6 " * 20)], prompt="", max_length=limit, form="flat")
    end = [words[word] for word in (".", "w2", "w3")]
    assert suffix(tokenizer, prompt="", form="flat") == end
    for part, whole in zip(tokens.ids.split(tokens.lengths.tolist()), (9, 29), strict=True):
        assert part.tolist()[-3:] == end and len(part) == min(whole, limit or whole)
        assert part.tolist()[:2] == [words["query"], words[":"]]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'] }}", "the text of the document is not in what it makes"),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "text of the query and the document",
        ),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_template_without_place_for_a_pair_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"no place for a pair of texts.*{message}.*model.chat_template"):
        PairInput.of(tokenizer_with(template), message_format="flat")


def test_the_template_of_the_preset() -> None:
    """As the publisher of the model writes it out."""
    preset = yaml.safe_load((PRESETS / "qwen3_reranker.yaml").read_text())
    tokenizer = tokenizer_with(preset["chat_template"])
    form = message_format(tokenizer)
    assert form == "flat"
    check_template(tokenizer, form=form)
    expected = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {}\n<Query>: Where?\n'
        "<Document>: Here.\nReally.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    default = "Given a web search query, retrieve relevant passages that answer the query"
    pair = ("Where?", "Here.\nReally.")
    assert render(tokenizer, [pair], prompt="", form=form) == [expected.format(default)]
    assert render(tokenizer, [pair], prompt="Find code", form=form) == [expected.format("Find code")]
