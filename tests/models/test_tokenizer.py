"""Identity of tokenizers: the key of the token cache."""

from __future__ import annotations

from tokenizers import normalizers

from stpipe.models.tokenizer import add_lower_case, tokenizer_fingerprint
from tests.models.tiny import make_tokenizer


def test_the_same_tokenizer_has_the_same_fingerprint() -> None:
    first, second = make_tokenizer(), make_tokenizer(max_length=10)
    expected = tokenizer_fingerprint(first)
    assert len(expected) == 64 and tokenizer_fingerprint(second) == expected
    first(["a b", "a"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(first) == expected, "padding and truncation are left-overs of the last call"


def test_every_change_of_the_ids_changes_the_fingerprint() -> None:
    seen = {tokenizer_fingerprint(make_tokenizer())}
    for change in ("lower", "token", "side", "special"):
        tokenizer = make_tokenizer()
        if change == "lower":
            add_lower_case(tokenizer)
        elif change == "token":
            tokenizer.add_tokens(["new"])
        elif change == "side":
            tokenizer.truncation_side = "left"
        else:
            tokenizer.pad_token = "[MASK]"
        fingerprint = tokenizer_fingerprint(tokenizer)
        assert fingerprint not in seen, change
        seen.add(fingerprint)


def test_lower_casing_is_added_once() -> None:
    tokenizer = make_tokenizer()
    add_lower_case(tokenizer)
    once = tokenizer_fingerprint(tokenizer)
    add_lower_case(tokenizer)
    assert tokenizer_fingerprint(tokenizer) == once
    bert = make_tokenizer()
    bert.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    before = tokenizer_fingerprint(bert)
    add_lower_case(bert)
    assert tokenizer_fingerprint(bert) == before
