"""Streams: every row once a pass, the same batches from any place and on any number of processes, mixtures by weight."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.sections import CheckSection, SourceSection
from stpipe.core.pairs import PairTemplate
from stpipe.data.mixture import CHUNK, Turns
from stpipe.data.pairs import JoinedTokens, PairCollator
from stpipe.data.prepare import PreparedData
from stpipe.data.samplers import GroupByLabelSampler, NoDuplicatesSampler, RandomSampler
from stpipe.data.streaming import StreamBatches
from tests.data.conftest import pairs


@pytest.fixture
def files(tmp_path: Any) -> str:
    """103 rows in three files."""
    rows = pairs(103)
    for k, part in enumerate((rows[:40], rows[40:47], rows[47:])):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"train-{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return str(tmp_path / "data")


@pytest.fixture
def streamed(run_prepare: Callable[..., PreparedData], files: str) -> PreparedData:
    return run_prepare(train=files, streaming=True, shuffle_buffer=20)


def batches(data: PreparedData, mixing: Any = "weighted", **keys: Any) -> StreamBatches:
    sizes = dict.fromkeys(data.train, keys.pop("size", 4))
    defaults = {"sampler": RandomSampler(mixing=mixing), "seed": 5, "num_batches": 500, "weights": {}}
    return StreamBatches(data.train, batch_size=sizes, **{**defaults, **keys})


def texts(batch: Any) -> list[int]:
    return batch.columns["anchor"].text_id.tolist()


def test_each_pass_uses_every_row_once_in_another_order(streamed: PreparedData) -> None:
    s = batches(streamed)
    passes = [[s[i] for i in range(26 * k, 26 * k + 26)] for k in range(3)]  # 25 batches of 4 rows, one of 3
    orders = []
    for one in passes:
        found = [t for b in one for t in texts(b)]
        assert len(found) == len(set(found)) == 103
        assert sorted(r for b in one for r in b.row.tolist()) == list(range(103))
        orders.append(found)
    assert set(orders[0]) == set(orders[1]) and len({tuple(o) for o in orders}) == 3
    assert sorted(Counter(len(b) for b in passes[1]).items()) == [(3, 1), (4, 25)]


def test_batches_are_those_of_prepared_rows(streamed: PreparedData, run_prepare: Any, files: str) -> None:
    """Tokens, text ids and labels of a row are the same, streamed or prepared."""
    prepared = run_prepare(train=files).train["default"]
    whole = prepared.batch(np.arange(len(prepared)))
    by_text = {t: k for k, t in enumerate(whole.columns["anchor"].text_id.tolist())}
    s = batches(streamed)
    for i in range(26):
        expected = whole.rows(torch.tensor([by_text[t] for t in texts(s[i])]))
        for role in ("anchor", "positive"):
            found = s[i].columns[role]
            assert torch.equal(found.tokens.ids, expected.columns[role].tokens.ids) and found.tokens.ids.numel()
            assert torch.equal(found.text_id, expected.columns[role].text_id)


def test_any_batch_from_any_place(streamed: PreparedData) -> None:
    s = batches(streamed)
    in_order = [texts(s[i]) for i in range(60)]
    for i in (59, 3, 40, 0, 22):
        assert texts(s[i]) == in_order[i]
    again = pickle.loads(pickle.dumps(s))
    assert texts(again[41]) == in_order[41]
    with pytest.raises(IndexError):
        s[-1]


@pytest.mark.parametrize("sampler", [RandomSampler(mixing="weighted"), NoDuplicatesSampler(mixing="weighted")])
def test_workers_and_a_continued_run_see_the_same(streamed: PreparedData, sampler: Any) -> None:
    s = batches(streamed, sampler=sampler)
    in_order = [texts(s[i]) for i in range(60)]
    states = []
    taken = batches(streamed, sampler=sampler)
    for i, item in enumerate(DataLoader(taken.fetched(), batch_size=None, sampler=range(60), num_workers=2)):  # type: ignore[arg-type]
        assert texts(taken.received(item)) == in_order[i]
        states.append(json.loads(json.dumps(taken.state_dict())))
    assert len(json.dumps(states[50])) < 400, "the state does not hold rows"
    for done in (1, 5, 6, 26, 27, 53):
        later = batches(streamed, sampler=sampler)
        later.load_state_dict(states[done - 1])
        opened: list[Any] = []
        reader = later.feeds["default"].reader  # type: ignore[attr-defined]
        original = reader.read
        reader.read = lambda mark, original=original, opened=opened: opened.append(mark) or original(mark)
        assert texts(later[done]) == in_order[done]
        assert len(opened) <= 2, "a continued run reads the window that it was in, or also the next one"
        assert [texts(later[i]) for i in range(done, done + 7)] == in_order[done : done + 7]


def test_loading_processes_share_no_open_file(run_prepare: Any, write_jsonl: Any) -> None:
    """A plan reads the first batches in the process that starts the others; rows are longer than what one read of a file takes."""
    rows = [{"anchor": f"a {i}", "positive": f"p {i}", "more": "x" * 3000} for i in range(200)]
    data = run_prepare(train=write_jsonl(rows), streaming=True, shuffle_buffer=8)
    s = batches(data)
    in_order = [texts(s[i]) for i in range(40)]
    started = batches(data)
    assert [texts(started[i]) for i in range(10)] == in_order[:10]
    loader = DataLoader(started.fetched(), batch_size=None, sampler=range(10, 40), num_workers=2)  # type: ignore[arg-type]
    assert [texts(started.received(item)) for item in loader] == in_order[10:]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_each_batch(run_prepare: Any, files: str, world: int) -> None:
    data = run_prepare(train=files, streaming=True, shuffle_buffer=20, max_rows=102)
    one = batches(data, size=6)
    ranks = [batches(data, size=6 // world, rank=r, world_size=world) for r in range(world)]
    for i in range(20):
        assert [t for s in ranks for t in texts(s[i])] == texts(one[i])


def test_changed_buffers_are_refused(streamed: PreparedData) -> None:
    s = batches(streamed)
    s.received(s.fetch(3))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"had \{'default': 20\} rows, and have \{'default': 21\} now"):
        batches(streamed, size=7).load_state_dict(s.state_dict())


def test_mixture_of_streams_and_prepared_data(run_prepare: Any, files: str, write_jsonl: Any) -> None:
    several = {
        "streamed": SourceSection(train=files, streaming=True, shuffle_buffer=20),
        "prepared": SourceSection(train=write_jsonl(pairs(150)[103:], "p.jsonl")),
    }
    data = run_prepare(sources=several)
    weights = {"streamed": 3.0, "prepared": 1.0}
    ranks = [batches(data, weights=weights, size=2, rank=r, world_size=2) for r in range(2)]
    one = batches(data, weights=weights)
    names = [one[i].source for i in range(400)]
    assert abs(names.count("streamed") - 300) <= 2
    assert [s[7].source for s in ranks] == [names[7]] * 2
    for name, rows, passes in (("streamed", 103, 26), ("prepared", 47, 12)):
        own = [texts(one[i]) for i in range(400) if names[i] == name][: 2 * passes]
        assert all(len({t for b in part for t in b}) == rows == sum(map(len, part)) for part in (own[:passes], own[passes:]))
    state = {}
    for i in range(90):
        one.received(one.fetch(i))
        state = one.state_dict()
    later = batches(data, weights=weights)
    later.load_state_dict(json.loads(json.dumps(state)))
    assert [texts(later[i]) for i in range(90, 130)] == [texts(one[i]) for i in range(90, 130)]
    turn = batches(data, mixing="round_robin")
    assert [turn[i].source for i in range(4)] == ["streamed", "prepared"] * 2


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 2.0, 7.0], [0.97, 0.02, 0.01], [5.0]])
def test_shares_are_those_of_the_weights_at_any_time(weights: list[float]) -> None:
    turns = Turns("weighted", weights, seed=3)
    counts = [0] * len(weights)
    for i in range(1500):
        which, number = turns.at(i)
        assert number == counts[which]
        counts[which] += 1
        assert max(abs(c - (i + 1) * w / sum(weights)) for c, w in zip(counts, weights, strict=True)) < 4
    assert turns.at(CHUNK + 3)[1] == pytest.approx((CHUNK + 3) * weights[turns.at(CHUNK + 3)[0]] / sum(weights), abs=5)
    before = Turns("weighted", weights, seed=3).at(2 * CHUNK - 1)
    assert turns.at(2 * CHUNK - 1) == before, "the same, however one gets there"
    assert len(weights) == 1 or [Turns("weighted", weights, seed=4).at(i)[0] for i in range(99)] != [turns.at(i)[0] for i in range(99)]


def test_no_text_twice_in_a_batch(run_prepare: Any, write_jsonl: Any) -> None:
    rows = [{"anchor": f"query {i % 30}", "positive": f"text {i}"} for i in range(120)]
    data = run_prepare(train=write_jsonl(rows), streaming=True, shuffle_buffer=40)
    s = batches(data, sampler=NoDuplicatesSampler(mixing="weighted"), size=8)
    seen = Counter()
    for i in range(15):
        assert len(set(texts(s[i]))) == len(texts(s[i]))
        seen.update(s[i].row.tolist())
    assert seen == Counter(range(120))


def test_labels_are_grouped_within_the_buffer(run_prepare: Any, write_jsonl: Any) -> None:
    rows = [{"text": f"text {i}", "label": f"class {i % 5}"} for i in range(100)] + [{"text": "alone", "label": "class 4"}]
    data = run_prepare(train=write_jsonl(rows), format="labelled-text", streaming=True, shuffle_buffer=50)
    s = batches(data, sampler=GroupByLabelSampler(mixing="weighted"), size=10)
    found = Counter(t for i in range(10) for t in texts(s[i]))
    assert len(found) == 100 and set(found.values()) == {1}, "the row at the end has no other one beside it"
    for i in range(20):
        labels = Counter(s[i].targets.label.tolist())
        assert len(labels) > 1 and min(labels.values()) > 1


def test_rows_of_lists_and_pairs_of_a_cross_encoder(run_prepare: Any, write_jsonl: Any, tokenizer: Any) -> None:
    rows = [
        {"query": f"query {i}", "docs": [f"text {i} {k}" for k in range(1 + i % 3)], "labels": [1.0] + [0.0] * (i % 3)} for i in range(30)
    ]
    prepared = run_prepare(train=write_jsonl(rows), special_tokens=False).train["default"]
    data = run_prepare(train=write_jsonl(rows), special_tokens=False, streaming=True, shuffle_buffer=12)
    collator = PairCollator(JoinedTokens(PairTemplate.of(tokenizer), 32))
    s = batches(data, collators={"default": collator}, size=5)
    of = {t: k for k, t in enumerate(collator(prepared, np.arange(30), slice(None), 0).columns["pair"].text_id.tolist())}
    whole = collator(prepared, np.arange(30), slice(None), 0)
    first = (whole.columns["pair"].counts.cumsum(0) - whole.columns["pair"].counts).tolist()
    for i in range(6):
        found = s[i]
        starts = (found.columns["pair"].counts.cumsum(0) - found.columns["pair"].counts).tolist()
        numbers = [first.index(of[found.columns["pair"].text_id[k].item()]) for k in starts]
        expected = whole.rows(torch.tensor(numbers))
        assert torch.equal(found.columns["pair"].tokens.ids, expected.columns["pair"].tokens.ids)
        assert torch.equal(found.targets.scores.nan_to_num(-1), expected.targets.scores.nan_to_num(-1))


def test_held_out_rows_come_first_and_are_never_trained_on(run_prepare: Any, files: str) -> None:
    data = run_prepare(train=files, streaming=True, shuffle_buffer=20, eval_rows=43)  # all of the first file and three of the second
    held = set(data.eval["default"].text_ids("anchor").tolist())
    assert len(held) == 43
    s = batches(data)
    seen = [t for i in range(15) for t in texts(s[i])]
    assert len(seen) == len(set(seen)) == 60 and not held & set(seen)
    some = run_prepare(train=files, streaming=True, shuffle_buffer=20, eval_rows=1000)
    assert len(some.eval["default"]) == 51, "never more than half"


def test_max_rows_are_the_first_ones(run_prepare: Any, files: str) -> None:
    s = batches(run_prepare(train=files, streaming=True, shuffle_buffer=20, max_rows=42))
    first, second = ({t for i in range(k, k + 11) for t in texts(s[i])} for k in (0, 11))
    assert len(first) == 42 and first == second


def test_prompts_lengths_and_batch_sizes_of_each_stream(run_prepare: Any, files: str) -> None:
    keys = {"train": files, "streaming": True, "shuffle_buffer": 20}
    several = {"a": SourceSection(**keys, prompts={"anchor": "find: "}, max_length={"positive": 5}), "b": SourceSection(**keys)}
    data = run_prepare(sources=several)
    s = StreamBatches(
        data.train, sampler=RandomSampler(mixing="round_robin"), batch_size={"a": 4, "b": 6}, seed=1, num_batches=9, weights={}
    )
    assert (len(s[0]), len(s[1])) == (4, 6)
    assert s[0].columns["anchor"].tokens.prompt_lengths.tolist() == [3] * 4 and s[1].columns["anchor"].tokens.prompt_lengths is None
    assert s[0].columns["positive"].tokens.lengths.max() == 5 < s[1].columns["positive"].tokens.lengths.max()


def far(rows: list[dict[str, Any]], **keys: Any) -> list[dict[str, Any]]:
    """100 good rows and then another."""
    return [*rows, keys]


SCORED = [{"anchor": f"a {i}", "positive": f"p {i}", "label": 0.5} for i in range(100)]
NAMED = [{"anchor": f"a {i}", "positive": f"p {i}", "label": "yes" if i % 2 else "no"} for i in range(100)]
LATE = [
    (far(pairs(100), anchor="a", positive="  "), {}, r"line 101.*positive='  '"),
    (far(pairs(100), anchor="a"), {}, r"line 101.*positive=None"),
    (far(pairs(100), anchor="a", positive=7), {}, r"line 101, column 'positive': found 7"),
    (far(SCORED, anchor="a", positive="p", label="high"), {}, r"line 101, column 'label': found 'high'"),
    (far(SCORED, anchor="a", positive="p", label=3.0), {"label_ranges": {"default": (0.0, 1.0)}}, r"line 101: label=3.0"),
    (far(SCORED, anchor="a", positive="p", label=None), {}, r"line 101: label=None"),
    (
        far(NAMED, anchor="a", positive="p", label="perhaps"),
        {},
        r"line 101, column 'label': found 'perhaps'.*classes of the first 20 rows \(no, yes\)",
    ),
]


@pytest.mark.parametrize(("rows", "keys", "expected"), LATE)
def test_a_bad_row_is_found_when_it_is_reached(run_prepare: Any, write_jsonl: Any, rows: Any, keys: Any, expected: str) -> None:
    s = batches(run_prepare(train=write_jsonl(rows), streaming=True, shuffle_buffer=20, **keys))
    for i in range(25):
        s.received(s.fetch(i))
    with pytest.raises(DataError, match=expected) as caught:
        s.received(s.fetch(25))
    assert "train.jsonl" in str(caught.value) and "checkpoints from before are intact" in str(caught.value)


def test_rules_that_drop_rows_drop_them_in_each_window(run_prepare: Any, write_jsonl: Any) -> None:
    rows = pairs(100)
    rows[57]["positive"] = ""
    rows[61] = rows[60]
    rules = CheckSection(empty="drop", duplicate_rows="drop", overlap="drop")
    rows[70] = rows[3]  # held out
    data = run_prepare(train=write_jsonl(rows), streaming=True, shuffle_buffer=20, checks=rules, eval_rows=10)
    s = batches(data)
    seen = Counter(t for i in range(23) for t in texts(s[i]))  # 5, 5, 5 (18 rows), 5 (19 rows), 3
    assert len(seen) == 87 and set(seen.values()) == {1}
    assert Counter(len(s[i]) for i in range(23)) == {4: 20, 3: 1, 2: 2}


def test_nothing_to_train_on_is_said(run_prepare: Any, write_jsonl: Any) -> None:
    with pytest.raises(DataError, match="found no rows in 1 file"):
        run_prepare(train=write_jsonl([]), streaming=True)
    lonely = [{"text": f"t {i}", "label": i} for i in range(30)]
    data = run_prepare(train=write_jsonl(lonely), format="labelled-text", streaming=True, shuffle_buffer=100)
    with pytest.raises(DataError, match="a whole pass over its rows made no batch of 4 rows.*group_by_label"):
        batches(data, sampler=GroupByLabelSampler(mixing="weighted"))[0]


def test_changed_files_have_another_fingerprint(run_prepare: Any, write_jsonl: Any) -> None:
    def fingerprint(last: str) -> str:
        rows = [*pairs(60), {"anchor": last, "positive": "x"}]
        return run_prepare(train=write_jsonl(rows), streaming=True, shuffle_buffer=20).train["default"].fingerprint

    assert fingerprint("one") != fingerprint("two") and fingerprint("one") == fingerprint("one")


def test_saved_tables_can_be_streamed(run_prepare: Any, tmp_path: Any) -> None:
    datasets.Dataset.from_list(pairs(72)).save_to_disk(str(tmp_path / "saved"))
    data = run_prepare(train=str(tmp_path / "saved"), streaming=True, shuffle_buffer=32, eval_rows=8)
    s = pickle.loads(pickle.dumps(batches(data, size=16)))
    first, second = ([t for i in range(k, k + 4) for t in texts(s[i])] for k in (0, 4))
    assert len(data.eval["default"]) == 8 and len(first) == 64 and sorted(first) == sorted(second) and first != second
