from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.config.errors import DataError
from stpipe.config.sections import CheckSection
from stpipe.core.pairs import PairTemplate
from stpipe.core.scores import ALL_NEGATIVES
from stpipe.core.tokens import Tokens
from stpipe.data.pairs import PAIR, Draw, JoinedTokens, PairCollator, TokenizedPairs
from stpipe.data.prepared import PreparedSource
from stpipe.data.samplers import RandomSampler
from stpipe.data.stream import BatchStream
from tests.data.conftest import sentence

LIMIT = 24
WHOLE = slice(None)

ROWS: Mapping[str, list[dict[str, Any]]] = {
    "pair": [{"anchor": sentence(i), "positive": sentence(i + 100)} for i in range(12)],
    "n-tuple": [
        {"anchor": sentence(i), "positive": sentence(i + 100), "negative_1": sentence(i + 200) * 4, "negative_2": sentence(i + 300)}
        for i in range(12)
    ],
    "query-document": [{"query": sentence(i), "document": sentence(i + 100), "label": float(i % 2)} for i in range(12)],
    "pair-class": [{"anchor": sentence(i), "positive": sentence(i + 100), "label": i % 3} for i in range(12)],
    "query-documents": [
        {
            "query": sentence(i),
            "documents": [sentence(i + 100 * k) for k in range(1, 2 + i % 4)],
            "label": [float(k) for k in range(1 + i % 4)],
        }
        for i in range(12)
    ],
}


@pytest.fixture
def source_of(run_prepare: Any, write_jsonl: Callable[..., str]) -> Callable[..., PreparedSource]:
    def make(rows: list[dict[str, Any]], **keys: Any) -> PreparedSource:
        data = run_prepare(train=write_jsonl(rows), special_tokens=False, limit=LIMIT, **keys)
        return data.train["default"]

    return make


@pytest.fixture
def collator(tokenizer: Any) -> PairCollator:
    template = PairTemplate.of(tokenizer)
    assert template is not None
    return PairCollator(JoinedTokens(template, LIMIT))


def lists(tokens: Tokens, counts: torch.Tensor) -> list[list[list[int]]]:
    """Token ids of each pair of each row."""
    flat = [part.tolist() for part in torch.split(tokens.ids, tokens.lengths.tolist())]
    ends = counts.cumsum(0).tolist()
    return [flat[end - n : end] for end, n in zip(ends, counts.tolist(), strict=True)]


def expected(tokenizer: Any, row: Mapping[str, Any]) -> list[list[int]]:
    """What the tokenizer makes of a row's pairs."""
    query = row.get("query", row.get("anchor"))
    candidates = row.get("documents") or [v for k, v in row.items() if k not in ("query", "anchor", "label")]
    return [tokenizer(query, c, truncation=True, max_length=LIMIT)["input_ids"] for c in candidates]


@pytest.mark.parametrize("name", list(ROWS))
def test_each_format_becomes_the_pairs_of_the_tokenizer(
    name: str, source_of: Callable[..., PreparedSource], collator: PairCollator, tokenizer: Any
) -> None:
    source = source_of(ROWS[name])
    assert source.format.name == name
    rows = np.array([5, 2, 9, 0])
    batch = collator(source, rows, WHOLE, seed=1)
    column = batch.columns[PAIR]
    assert column.counts is not None
    assert lists(column.tokens, column.counts) == [expected(tokenizer, ROWS[name][i]) for i in rows]
    assert batch.row.tolist() == rows.tolist()
    assert column.tokens.type_ids is not None
    assert column.tokens.type_ids.any()
    assert max(column.tokens.lengths) <= LIMIT
    if "label" in ROWS[name][0]:
        given = [t for t in (batch.targets.score, batch.targets.label, batch.targets.scores) if t is not None]
        assert len(given) == 1
        assert given[0].shape[0] == len(rows)
    by_tokenizer = PairCollator(TokenizedPairs(lambda pairs, _: tokenized(tokenizer, pairs), LIMIT))(source, rows, WHOLE, seed=1).columns[
        PAIR
    ]
    assert torch.equal(by_tokenizer.tokens.ids, column.tokens.ids)
    assert torch.equal(by_tokenizer.text_id, column.text_id)


def tokenized(tokenizer: Any, pairs: Any) -> Tokens:
    return Tokens.from_lists([tokenizer(a, b, truncation=True, max_length=LIMIT)["input_ids"] for a, b in pairs])


def test_a_prompt_is_handed_over_beside_the_texts(source_of: Callable[..., PreparedSource], tokenizer: Any) -> None:
    """A chat template makes a message of the system of it."""
    seen = []

    def tokenize(pairs: Any, prompt: str) -> Tokens:
        seen.append((pairs, prompt))
        return tokenized(tokenizer, pairs)

    rows = ROWS["pair"]
    PairCollator(TokenizedPairs(tokenize, LIMIT))(source_of(rows, prompts={"anchor": "w1 "}), np.array([2]), WHOLE, seed=1)
    assert seen == [([(rows[2]["anchor"], rows[2]["positive"])], "w1 ")]


def test_a_limit_of_a_role_cuts_its_texts_first(source_of: Callable[..., PreparedSource], collator: PairCollator, tokenizer: Any) -> None:
    rows = [{"anchor": sentence(i) * 6, "positive": sentence(i + 100) * 6} for i in range(3)]
    source = source_of(rows, max_length={"anchor": 4})
    column = collator(source, np.arange(3), WHOLE, seed=0).columns[PAIR]
    for ids, row in zip(torch.split(column.tokens.ids, column.tokens.lengths.tolist()), rows, strict=True):
        anchor = tokenizer(row["anchor"], add_special_tokens=False)["input_ids"][:4]
        positive = tokenizer(row["positive"], add_special_tokens=False)["input_ids"][: LIMIT - 7]
        assert ids.tolist() == [101, *anchor, 102, *positive, 102]


@pytest.mark.parametrize("name", ["pair", "n-tuple"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_sampled_negatives_are_of_other_rows_and_do_not_depend_on_processes(
    name: str, world_size: int, source_of: Callable[..., PreparedSource], collator: PairCollator, tokenizer: Any
) -> None:
    source = source_of(ROWS[name])
    drawing = PairCollator(collator.join, sampled=3)
    rows = np.array([7, 1, 4, 10, 3, 0])
    whole = drawing(source, rows, WHOLE, seed=5).columns[PAIR]
    assert whole.counts is not None
    own = len(source.roles) - 1
    assert whole.counts.tolist() == [own + 3] * 6
    bounds = np.arange(world_size + 1) * 6 // world_size
    parts = [drawing(source, rows, slice(a, b), seed=5).columns[PAIR] for a, b in itertools.pairwise(bounds)]
    assert torch.equal(Tokens.cat([p.tokens for p in parts]).ids, whole.tokens.ids)
    texts = {i: [tuple(ids) for ids in expected(tokenizer, ROWS[name][i])] for i in rows}
    for row, pairs in zip(rows, lists(whole.tokens, whole.counts), strict=True):
        assert [tuple(p) for p in pairs[:own]] == texts[row]
        negatives = [tuple(p) for p in pairs[own:]]
        assert len(set(negatives)) == 3
        others = [v for i in rows if i != row for k, v in ROWS[name][i].items() if k != "anchor"]
        cut = [tuple(tokenizer(ROWS[name][row]["anchor"], o, truncation=True, max_length=LIMIT)["input_ids"]) for o in others]
        assert set(negatives) <= set(cut)
    assert not torch.equal(drawing(source, rows, WHOLE, seed=6).columns[PAIR].tokens.ids, whole.tokens.ids)


def test_no_text_that_answers_the_query_is_drawn() -> None:
    query = np.array([1, 1, 2, 3])
    text = np.array([10, 11, 12, 10])  # row 3 has the text of row 0
    draw = Draw(text, query, owner=np.arange(4), seed=0)
    assert sorted(draw.negatives(0, 0, ALL_NEGATIVES).tolist()) == [2]
    assert sorted(draw.negatives(2, 2, ALL_NEGATIVES).tolist()) in ([0, 1], [1, 3])
    assert draw.negatives(2, 2, 1).size == 1


def test_a_list_without_documents_is_named(source_of: Callable[..., PreparedSource], collator: PairCollator) -> None:
    rows = [{"query": "red", "documents": ["a b", "c"], "label": [1.0, 0.0]}, {"query": "blue", "documents": [], "label": []}]
    source = source_of(rows, checks=CheckSection(empty="warn"))
    with pytest.raises(DataError, match="row 1: the query has no document"):
        collator(source, np.array([0, 1]), WHOLE, seed=0)


def test_texts_without_a_query_are_refused(source_of: Callable[..., PreparedSource], collator: PairCollator) -> None:
    source = source_of([{"anchor": sentence(i)} for i in range(4)])
    with pytest.raises(DataError, match="a cross-encoder scores pairs"):
        collator(source, np.arange(2), WHOLE, seed=0)


@pytest.mark.parametrize("name", list(ROWS))
def test_row_tokens_are_those_of_the_pairs(name: str, source_of: Callable[..., PreparedSource], collator: PairCollator) -> None:
    source = source_of(ROWS[name])
    counted = collator.row_tokens(source)
    for i in range(len(source)):
        assert counted[i] == collator(source, np.array([i]), WHOLE, seed=0).num_tokens
    assert PairCollator(collator.join, sampled=2).row_tokens(source).min() > counted.min()


def test_a_stream_of_pairs_is_the_same_by_number_and_in_a_worker(source_of: Callable[..., PreparedSource], collator: PairCollator) -> None:
    source = source_of(ROWS["pair"])
    keys: dict[str, Any] = {
        "sampler": RandomSampler(),
        "batch_size": 4,
        "seed": 3,
        "collators": {"default": PairCollator(collator.join, 2)},
    }
    stream = BatchStream({"default": source}, **keys)
    again = pickle.loads(pickle.dumps(BatchStream({"default": source}, **keys)))
    for i in (5, 0, 2):
        assert torch.equal(stream[i].columns[PAIR].tokens.ids, again[i].columns[PAIR].tokens.ids)
    assert not torch.equal(stream[0].columns[PAIR].tokens.ids, stream[3].columns[PAIR].tokens.ids)
    assert stream.worst_case().num_tokens >= max(stream[i].num_tokens for i in range(len(stream)))
