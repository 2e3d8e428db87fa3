from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stpipe.config.errors import ConfigError
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.data.noise import Boundaries, NoisyCollator, delete_words, uniform
from stpipe.data.prepared import PreparedSource
from stpipe.data.samplers import RandomSampler
from stpipe.data.stream import BatchStream
from tests.data.conftest import sentence

TEXTS = ["Unbelievable tokenization, isn't it?", "word", "", "the quick brown fox jumps over the lazy dog " * 3]
WHOLE = slice(None)


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """A small byte-level BPE tokenizer, whose tokens mark the beginnings of words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def texts_of(tokens: Tokens) -> list[list[int]]:
    return [ids.tolist() for ids in tokens.ids.split(tokens.lengths.tolist())]


def slow(ids: list[int], boundaries: Boundaries, *, prompt: int, ratio: float, row: int, seed: int) -> list[int]:
    """One text, word by word."""
    words: list[list[int]] = []
    whole: list[tuple[int, int | None]] = []
    inside = False
    for place, token in enumerate(ids):
        if boundaries.special[token] or place < prompt:
            whole.append((token, None))
            inside = False
            continue
        if boundaries.begins[token] or not inside:
            words.append([])
        inside = True
        words[-1].append(token)
        whole.append((token, len(words) - 1))
    draws = [float(uniform(np.array([row]), np.array([k]), seed)[0]) for k in range(len(words))]
    stay = {k for k, u in enumerate(draws) if u >= ratio} or ({int(np.argmax(draws))} if draws else set())
    return [token for token, word in whole if word is None or word in stay]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("prompt", [None, 3])
@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_words_are_deleted_as_one_text_at_a_time_has_it(
    tokenizer: Any, byte_level: Any, kind: str, prompt: int | None, ratio: float
) -> None:
    chosen = tokenizer if kind == "wordpiece" else byte_level
    boundaries = Boundaries.of(chosen)
    ids = tokenize(chosen, TEXTS, max_length=40)
    prompts = None if prompt is None else [min(prompt, len(i)) for i in ids]
    rows = np.array([40, 7, 3, 12])
    found = delete_words(Tokens.from_lists(ids, prompt_lengths=prompts), boundaries, ratio=ratio, rows=rows, seed=5)
    expected = [slow(text, boundaries, prompt=prompt or 0, ratio=ratio, row=int(row), seed=5) for text, row in zip(ids, rows, strict=True)]
    assert texts_of(found) == expected
    assert (found.num_tokens < sum(map(len, ids))) == (ratio > 0)
    assert found.prompt_lengths is None if prompt is None else found.prompt_lengths is not None and found.prompt_lengths.tolist() == prompts


def test_pieces_of_a_word_stay_together_in_order(tokenizer: Any) -> None:
    """The result is a text of some of the words, with the special tokens around it."""
    boundaries = Boundaries.of(tokenizer)
    (ids,) = tokenize(tokenizer, ["unbelievable tokenization of hyperparameters"])
    assert any(tokenizer.convert_ids_to_tokens(i).startswith("##") for i in ids)
    words = [tokenize(tokenizer, [w])[0][1:-1] for w in ("unbelievable", "tokenization", "of", "hyperparameters")]
    seen = set()
    for seed in range(60):
        tokens = delete_words(Tokens.from_lists([ids]), boundaries, ratio=0.6, rows=np.array([0]), seed=seed)
        left = texts_of(tokens)[0]
        assert left[0] == tokenizer.cls_token_id and left[-1] == tokenizer.sep_token_id
        kept = [k for k, word in enumerate(words) if any(left[i : i + len(word)] == word for i in range(len(left)))]
        assert left[1:-1] == [token for k in kept for token in words[k]] and kept
        seen.add(tuple(kept))
    assert len(seen) > 8


def test_the_share_that_is_deleted() -> None:
    boundaries = Boundaries(np.ones(50, bool), np.zeros(50, bool))
    tokens = Tokens.from_lists([[7] * 400] * 50)
    left = delete_words(tokens, boundaries, ratio=0.6, rows=np.arange(50), seed=1)
    assert left.num_tokens / tokens.num_tokens == pytest.approx(0.4, abs=0.02)
    assert len(set(left.lengths.tolist())) > 10


def test_one_word_is_always_kept_and_nothing_of_an_empty_text_is_lost(tokenizer: Any) -> None:
    boundaries, ids = Boundaries.of(tokenizer), tokenize(tokenizer, ["", "word", "two words"])
    for seed in range(40):
        left = texts_of(delete_words(Tokens.from_lists(ids), boundaries, ratio=0.99, rows=np.arange(3), seed=seed))
        assert left[0] == ids[0] and left[1] == ids[1] and len(left[2]) == 3
    only = Tokens.from_lists(ids[:1])
    assert texts_of(delete_words(only, boundaries, ratio=0.9, rows=np.arange(1), seed=0)) == ids[:1]


def test_other_texts_do_not_matter(tokenizer: Any) -> None:
    boundaries, ids = Boundaries.of(tokenizer), tokenize(tokenizer, [sentence(i) * 3 for i in range(8)])
    together = texts_of(delete_words(Tokens.from_lists(ids), boundaries, ratio=0.6, rows=np.arange(8), seed=3))
    for i in range(8):
        alone = delete_words(Tokens.from_lists(ids[i : i + 1]), boundaries, ratio=0.6, rows=np.array([i]), seed=3)
        assert texts_of(alone)[0] == together[i]
    assert texts_of(delete_words(Tokens.from_lists(ids), boundaries, ratio=0.6, rows=np.arange(8), seed=4)) != together


def test_the_unknown_word_is_a_word(tokenizer: Any) -> None:
    boundaries = Boundaries.of(tokenizer)
    assert not boundaries.special[tokenizer.unk_token_id] and boundaries.special[tokenizer.cls_token_id]


def test_a_vocabulary_without_marks_has_words_of_one_token() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[PAD]": 2}, unk_token="[PAD]"))
    boundaries = Boundaries.of(PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]"))
    assert boundaries.begins.all() and boundaries.special.tolist() == [False, False, True]


# --- in the stream of batches -----------------------------------------------------------------------------------------------------


@pytest.fixture
def source(run_prepare: Any, write_jsonl: Callable[..., str]) -> PreparedSource:
    data = run_prepare(train=write_jsonl([{"anchor": sentence(i) * 2} for i in range(20)]))
    return data.train["default"]


def noisy(source: PreparedSource, tokenizer: Any, **keys: Any) -> BatchStream:
    collators = {"default": NoisyCollator(Boundaries.of(tokenizer))}
    return BatchStream({"default": source}, sampler=RandomSampler(), batch_size=4, seed=5, collators=collators, **keys)


def test_batches_have_damaged_texts_and_whole_ones(source: PreparedSource, tokenizer: Any) -> None:
    assert source.format.name == "text"
    batch = noisy(source, tokenizer)[2]
    whole, damaged = batch.targets.tokens, batch.columns["anchor"].tokens
    assert whole is not None and len(whole) == len(damaged) == 4
    assert texts_of(whole) == texts_of(source.batch(batch.row.numpy()).columns["anchor"].tokens)
    assert 4 * 3 <= damaged.num_tokens < whole.num_tokens
    assert all(set(a) <= set(b) for a, b in zip(texts_of(damaged), texts_of(whole), strict=True))


def test_every_epoch_has_its_own_noise_and_any_batch_can_be_had_again(source: PreparedSource, tokenizer: Any) -> None:
    stream = noisy(source, tokenizer)
    by_row: dict[int, set[tuple[int, ...]]] = {}
    for i in range(4 * len(stream)):
        batch = stream[i]
        for row, ids in zip(batch.row.tolist(), texts_of(batch.columns["anchor"].tokens), strict=True):
            by_row.setdefault(row, set()).add(tuple(ids))
    assert len(by_row) == 20 and sum(len(found) for found in by_row.values()) > 60
    again = pickle.loads(pickle.dumps(stream))
    assert torch.equal(again[7].columns["anchor"].tokens.ids, stream[7].columns["anchor"].tokens.ids)


def test_processes_share_the_noise_of_a_batch(source: PreparedSource, tokenizer: Any) -> None:
    collator = NoisyCollator(Boundaries.of(tokenizer))
    rows = np.array([3, 9, 14, 0, 7])
    whole = texts_of(collator(source, rows, WHOLE, 11).columns["anchor"].tokens)
    parts = [texts_of(collator(source, rows, part, 11).columns["anchor"].tokens) for part in (slice(0, 2), slice(2, 5))]
    assert whole == parts[0] + parts[1]


def test_no_batch_is_larger_than_the_worst_case(source: PreparedSource, tokenizer: Any) -> None:
    stream = noisy(source, tokenizer)
    assert max(stream[i].num_tokens for i in range(len(stream))) <= int(np.sort(source.row_tokens())[-4:].sum())
    assert stream.worst_case().targets.tokens is not None


def test_targets_go_with_their_rows(source: PreparedSource, tokenizer: Any) -> None:
    batch = noisy(source, tokenizer)[0]
    whole = texts_of(batch.targets.tokens)  # type: ignore[arg-type]
    assert texts_of(batch.rows(torch.tensor([2, 0])).targets.tokens) == [whole[2], whole[0]]  # type: ignore[arg-type]
    assert texts_of(batch.targets.rows(slice(1, 3)).tokens) == whole[1:3]  # type: ignore[arg-type]
    assert texts_of(batch.to("cpu").targets.tokens) == whole  # type: ignore[arg-type]


def test_data_without_an_anchor_are_refused(run_prepare: Any, write_jsonl: Callable[..., str], tokenizer: Any) -> None:
    rows = [{"query": sentence(i), "document": sentence(i + 9), "label": 1.0} for i in range(6)]
    other = run_prepare(train=write_jsonl(rows)).train["default"]
    with pytest.raises(ConfigError, match="has the roles query, document: denoising needs an anchor"):
        NoisyCollator(Boundaries.of(tokenizer))(other, np.arange(3), WHOLE, 1)
