from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.sections import CheckSection, SourceSection
from stpipe.core.tokenize import RoleTokenizer, tokenize
from stpipe.data.prepare import PreparedData
from tests.data.conftest import pairs, sentence

Prepare = Callable[..., PreparedData]
Write = Callable[..., str]


def texts_of(prepared: Any, role: str, tokenizer: Any) -> list[str]:
    tokens = prepared.batch(np.arange(len(prepared))).columns[role].tokens
    return [tokenizer.decode(tokens.rows(torch.tensor([i])).ids, skip_special_tokens=True) for i in range(len(tokens))]


def test_tokens_are_those_of_inference(run_prepare: Prepare, write_jsonl: Write, tokenizer: Any) -> None:
    rows = pairs(30)
    found = run_prepare(train=write_jsonl(rows), prompts={"anchor": "query: "}, max_length={"positive": 6}).train["default"]
    batch = found.batch(np.array([7, 3, 3]))
    assert batch.row.tolist() == [7, 3, 3] and batch.source == "default"
    for role, prompt, limit in (("anchor", "query: ", 32), ("positive", "", 6)):
        expected = tokenize(tokenizer, [rows[i][role] for i in (7, 3, 3)], prompt=prompt, max_length=limit)
        tokens = batch.columns[role].tokens
        assert tokens.ids.dtype == tokens.lengths.dtype == torch.int64
        assert tokens.ids.tolist() == [t for text in expected for t in text]
        assert tokens.lengths.tolist() == [len(t) for t in expected]
    assert batch.columns["anchor"].tokens.prompt_lengths is not None
    assert batch.columns["anchor"].tokens.prompt_lengths.tolist() == [3, 3, 3]  # [CLS] query :
    assert batch.columns["positive"].tokens.prompt_lengths is None
    assert max(batch.columns["positive"].tokens.lengths.tolist()) == 6
    ids = batch.columns["anchor"].text_id.tolist()
    assert ids[1] == ids[2] != ids[0]


def test_equal_texts_have_equal_ids_across_roles_unless_prompts_differ(run_prepare: Prepare, write_jsonl: Write) -> None:
    path = write_jsonl([{"anchor": "same", "positive": "same"}, {"anchor": "other", "positive": "more"}])
    plain = run_prepare(train=path).train["default"]
    assert plain.text_ids("anchor")[0] == plain.text_ids("positive")[0]
    prompted = run_prepare(train=path, prompts={"anchor": "q: "}).train["default"]
    assert prompted.text_ids("anchor")[0] != prompted.text_ids("positive")[0]


def test_column_order_changes_nothing(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = [{**r, "negative_1": sentence(900 + i), "id": i} for i, r in enumerate(pairs(20))]
    first = run_prepare(train=write_jsonl(rows, "a.jsonl"), eval_rows=4)
    second = run_prepare(train=write_jsonl([dict(reversed(list(r.items()))) for r in rows], "b.jsonl"), eval_rows=4)
    for split in ("train", "eval"):
        a, b = getattr(first, split)["default"], getattr(second, split)["default"]
        assert a.fingerprint == b.fingerprint and a.folder == b.folder
        for role in ("anchor", "positive", "negative_1"):
            assert torch.equal(*(s.batch(np.arange(4)).columns[role].tokens.ids for s in (a, b)))
    assert first.scan.sources["default"]["train"].unused_columns == ("id",)


def test_the_fingerprint_is_of_the_content(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = pairs(6)
    fingerprint = run_prepare(train=write_jsonl(rows)).train["default"].fingerprint
    same = run_prepare(train=write_jsonl(rows, "elsewhere/copy.jsonl"), max_length={"default": 9}, prompts={"default": "x: "})
    assert same.train["default"].fingerprint == fingerprint
    swapped = [rows[1], rows[0], *rows[2:]]
    exchanged = [{"anchor": r["positive"], "positive": r["anchor"]} for r in rows]
    moved = [{**rows[0], "anchor": rows[0]["anchor"] + rows[0]["positive"][:1], "positive": rows[0]["positive"][1:]}, *rows[1:]]
    others = [run_prepare(train=write_jsonl(r)).train["default"].fingerprint for r in (swapped, exchanged, moved, rows[:-1])]
    assert len({fingerprint, *others}) == 5


FORMAT_ROWS: dict[str, dict[str, Any]] = {
    "text": {"anchor": "a one"},
    "text-vector": {"anchor": "a one", "label": [0.5, 1.0, 2.0]},
    "pair-vector": {"anchor": "a one", "positive": "b", "label": [0.5, 1.0, 2.0]},
    "labelled-text": {"anchor": "a one", "label": 3},
    "pair": {"anchor": "a one", "positive": "b"},
    "pair-score": {"anchor": "a one", "positive": "b", "label": 0.25},
    "pair-class": {"anchor": "a one", "positive": "b", "label": "yes"},
    "triplet": {"anchor": "a one", "positive": "b", "negative_1": "c"},
    "triplet-score": {"anchor": "a one", "positive": "b", "negative_1": "c", "label": 0.75},
    "n-tuple": {"anchor": "a one", "positive": "b", "negative_1": "c", "negative_2": "d", "negative_3": "e"},
    "n-tuple-scores": {"anchor": "a one", "positive": "b", "negative_1": "c", "negative_2": "d", "label": [0.75, 0.5, -0.25]},
    "query-document": {"query": "a one", "document": "b", "label": 1},
    "query-documents": {"query": "a one", "documents": ["b", "c two"], "label": [1.0, 0.5]},
}


@pytest.mark.parametrize("name", FORMAT_ROWS)
def test_every_format(name: str, run_prepare: Prepare, write_jsonl: Write) -> None:
    row = FORMAT_ROWS[name]
    other = {
        k: (["x y z", "b", "q"] if k == "documents" else [1.0, 0.0, 0.5]) if isinstance(v, list) and name.startswith("query") else v
        for k, v in row.items()
    }
    other[next(iter(row))] = "another one"
    source = run_prepare(train=write_jsonl([row, other])).train["default"]
    assert source.format.name == name
    assert source.roles == tuple(k for k in row if k != "label")
    batch = source.batch(np.array([1, 0]))
    assert set(batch.columns) == set(source.roles)
    rows = source.rows()
    assert len(rows) == len(source) == 2 and rows.format == name
    assert {role: rows.columns[role][0] for role in source.roles} == {role: row[role] for role in source.roles}
    targets = batch.targets
    filled = {"score": targets.score, "class": targets.label, "scores": targets.scores, "vector": targets.vectors.get("*")}
    wanted = source.format.label
    assert [k for k, v in filled.items() if v is not None] == ([] if wanted is None else [wanted])
    if name == "n-tuple-scores":
        assert targets.scores is not None and targets.scores.dtype == torch.float32
        assert targets.scores.tolist() == [[0.75, 0.5, -0.25]] * 2
        assert rows.labels == [[0.75, 0.5, -0.25]] * 2
    elif wanted == "scores":
        assert batch.columns["documents"].counts is not None and batch.columns["documents"].counts.tolist() == [3, 2]
        assert targets.scores is not None and targets.scores.shape == (2, 3)
        assert targets.scores[1, :2].tolist() == [1.0, 0.5] and bool(targets.scores[1, 2].isnan())
        assert rows.labels is not None and rows.labels[0] == [1.0, 0.5]
    elif wanted == "vector":
        assert targets.vectors["*"].shape == (2, 3) and targets.vectors["*"].dtype == torch.float32
    elif wanted is not None:
        value = filled[wanted]
        assert value is not None and value.shape == (2,)
        assert rows.labels is not None and rows.labels[0] == (0 if name == "pair-class" else row["label"])


@pytest.mark.parametrize(
    ("labels", "width"), [([[0.5], [0.25], [-1.0]], 1), ([[0.9, 0.4], [0.5, 0.25], [0.0, 1.0]], 2)], ids=["margins", "scores"]
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "saved"])
def test_teacher_scores_from_every_source(kind: str, labels: list[list[float]], width: int, run_prepare: Prepare, tmp_path: Path) -> None:
    """Declared roles, other names and another order of columns; the labels arrive unchanged in the order of the rows."""
    table = {"s": labels, "n": ["n0", "n1", "n2"], "q": ["q0", "q1", "q2"], "p": ["p0", "p1", "p2"]}
    path = tmp_path / (kind if kind == "saved" else f"train.{kind}")
    if kind == "saved":
        datasets.Dataset.from_dict(table).save_to_disk(path)
    elif kind == "parquet":
        pq.write_table(pa.table(table), path)
    elif kind in ("csv", "tsv"):
        with path.open("w", newline="") as handle:
            writer = csv.writer(handle, delimiter="," if kind == "csv" else "\t")
            writer.writerows([list(table), *zip(map(json.dumps, labels), table["n"], table["q"], table["p"], strict=True)])
    else:
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        path.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(r) + "\n" for r in rows))
    columns = {"anchor": "q", "positive": "p", "negative_1": "n", "label": "s"}
    source = run_prepare(train=str(path), columns=columns).train["default"]
    assert source.format.name == "n-tuple-scores" and source.roles == ("anchor", "positive", "negative_1")
    scores = source.batch(np.array([2, 0, 1])).targets.scores
    assert scores is not None and scores.shape == (3, width)
    np.testing.assert_array_equal(scores.numpy(), np.array([labels[2], labels[0], labels[1]], np.float32))
    assert source.rows().columns["negative_1"][:] == ["n0", "n1", "n2"]


def test_margins_of_triplets_are_scores(run_prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("query,positive,negative,score\na,b,c,1.5\nd,e,f,-2\n")
    source = run_prepare(train=str(tmp_path / "train.csv")).train["default"]
    assert source.format.name == "triplet-score" and source.rows().labels == [1.5, -2.0]
    score = source.batch(np.arange(2)).targets.score
    assert score is not None and score.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1.0, 2.0], [1.0, 2.0], [1.0]], r"line 3, column 'label': found 'a list of 1 numbers', expected 2 \(margins.*or 3 \(teacher"),
        ([[1.0, 2.0], [1.0] * 4, [1.0, 2.0]], "line 2, column 'label': found 'a list of 4 numbers', expected 2"),
        (
            [[1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]],
            "line 2, column 'label': found 'a list of 3 numbers', expected 2 as in the rows before",
        ),
        ([[1.0, 2.0], [], [1.0, 2.0]], "line 2, column 'label': found 'a list of 0 numbers'"),
    ],
)
def test_lists_of_the_wrong_length_are_named(labels: list[list[float]], expected: str, run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = [{**r, "negative_1": "n", "negative_2": "m", "label": label} for r, label in zip(pairs(3), labels, strict=True)]
    with pytest.raises(DataError, match=rf"train.jsonl {expected}"):
        run_prepare(train=write_jsonl(rows))


def test_lists_that_are_missing_are_rows_without_a_label(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = [{**r, "negative_1": "n", "label": [1.0, 2.0] if i != 1 else None} for i, r in enumerate(pairs(3))]
    with pytest.raises(DataError, match=r"1 row without a label.*line 2"):
        run_prepare(train=write_jsonl(rows))
    assert len(run_prepare(train=write_jsonl(rows), checks=CheckSection(empty="drop")).train["default"]) == 2
    none = [{**r, "negative_1": "n", "label": None} for r in pairs(3)]
    with pytest.raises(DataError, match=r"line 1, column 'label': found None, expected a list of numbers"):
        run_prepare(train=write_jsonl(none), format="n-tuple-scores")


def test_the_scores_of_tuples_may_be_left_out(run_prepare: Prepare, write_jsonl: Write) -> None:
    """An explicit format takes the roles that it has and leaves the others."""
    rows = [{**r, "negative_1": "n", "negative_2": "m", "label": [1.0, 2.0]} for r in pairs(3)]
    for name, roles in (("pair", 2), ("triplet", 3), ("n-tuple", 4)):
        found = run_prepare(train=write_jsonl(rows), format=name)
        assert len(found.train["default"].roles) == roles and "label" in found.scan.sources["default"]["train"].unused_columns


def test_roles_may_become_tokens_in_different_ways(run_prepare: Prepare, write_jsonl: Write, tokenizer: Any) -> None:
    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path, do_lower_case=False)
    other.add_tokens(["thing"])
    ways = {"anchor": RoleTokenizer(other, special_tokens=False, max_length=5), "positive": RoleTokenizer(tokenizer, max_length=9)}
    rows = [{"anchor": r["positive"], "positive": r["positive"]} for r in pairs(12)]
    found = run_prepare(train=write_jsonl(rows), tokenizers=lambda role, routes: ways[role], prompts={"default": "say: "}).train["default"]
    assert found.store("anchor") is not found.store("positive")
    batch = found.batch(np.array([3, 7]))
    for role, way in ways.items():
        expected = tokenize(
            way.tokenizer,
            [rows[i][role] for i in (3, 7)],
            prompt="say: ",
            max_length=way.max_length,
            special_tokens=way.special_tokens,
        )
        assert batch.columns[role].tokens.ids.tolist() == [t for text in expected for t in text]
    prompts = {role: batch.columns[role].tokens.prompt_lengths for role in ways}
    assert [None if p is None else p.tolist() for p in prompts.values()] == [[2, 2], [3, 3]]  # say : | [CLS] say :
    np.testing.assert_array_equal(found.text_ids("anchor"), found.text_ids("positive"))
    assert len(set(found.text_ids("anchor").tolist())) == 12
    assert (found.max_lengths["anchor"], found.max_lengths["positive"]) == (5, 9)
    own = run_prepare(train=write_jsonl(rows), tokenizers=lambda role, routes: ways[role], max_length={"anchor": 7}).train["default"]
    assert (own.max_lengths["anchor"], own.max_lengths["positive"]) == (7, 9)


def test_the_routes_of_a_data_set_are_asked_with_its_roles(run_prepare: Prepare, write_jsonl: Write, tokenizer: Any) -> None:
    asked = []

    def way(role: str, routes: dict[str, str]) -> RoleTokenizer:
        asked.append((role, dict(routes)))
        return RoleTokenizer(tokenizer, max_length=3 if routes.get(role) == "short" else 9)

    found = run_prepare(train=write_jsonl(pairs(3)), tokenizers=way, routes={"positive": "short"}).train["default"]
    assert asked == [("anchor", {"positive": "short"}), ("positive", {"positive": "short"})]
    assert (found.max_lengths["anchor"], found.max_lengths["positive"]) == (9, 3)


def test_equal_tokenizers_share_their_texts(run_prepare: Prepare, write_jsonl: Write, tokenizer: Any) -> None:
    twin = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    ways = {"anchor": RoleTokenizer(twin, max_length=9), "positive": RoleTokenizer(tokenizer, max_length=9)}
    path = write_jsonl([{"anchor": "same", "positive": "same"}])
    found = run_prepare(train=path, tokenizers=lambda role, routes: ways[role]).train["default"]
    assert found.store("anchor") is found.store("positive") and len(found.store("anchor")) == 1


def test_an_explicit_format_turns_integers_into_scores(run_prepare: Prepare, write_jsonl: Write) -> None:
    path = write_jsonl([{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i} for i in range(3)])
    assert run_prepare(train=path).train["default"].format.name == "pair-class"
    source = run_prepare(train=path, format="pair-score").train["default"]
    assert source.batch(np.arange(3)).targets.score is not None
    pair = run_prepare(train=path, format="pair")
    assert pair.train["default"].format.name == "pair"
    assert pair.scan.sources["default"]["train"].unused_columns == ("label",)


def test_labels_of_a_csv_are_read_as_numbers(run_prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("score,sentence2,sentence1\n0.5,b,a\n1,d,c\n")
    source = run_prepare(train=str(tmp_path / "a.csv")).train["default"]
    assert source.format.name == "pair-score" and source.rows().labels == [0.5, 1.0]
    assert source.rows().columns["anchor"][:] == ["a", "c"]


def test_held_out_rows_are_split_off_by_anchor(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = [{"query": f"question {i // 5}", "document": sentence(i), "label": i % 2} for i in range(200)]
    found = run_prepare(train=write_jsonl(rows), eval_rows=40)
    train, held_out = found.train["default"], found.eval["default"]
    assert 30 <= len(held_out) <= 40 and len(train) + len(held_out) == 200
    assert set(train.rows().columns["query"]).isdisjoint(held_out.rows().columns["query"])
    again = run_prepare(train=write_jsonl(rows), eval_rows=40, max_rows=50)
    assert again.eval["default"].fingerprint == held_out.fingerprint and len(again.train["default"]) == 50
    other = run_prepare(train=write_jsonl(rows), eval_rows=40, split_seed=13)
    assert other.eval["default"].fingerprint != held_out.fingerprint


def test_held_out_rows_may_come_from_elsewhere(run_prepare: Prepare, tmp_path: Path, write_jsonl: Write) -> None:
    write_jsonl(pairs(20), "data/train.jsonl")
    write_jsonl(pairs(30)[20:], "data/dev.jsonl")
    found = run_prepare(train=str(tmp_path / "data"), eval=str(tmp_path / "data"), eval_rows=6)
    assert len(found.train["default"]) == 20 and len(found.eval["default"]) == 6
    with pytest.raises(ConfigError, match=r"dataset.eval: .*no split 'validatoin'.*dataset.eval_split"):
        run_prepare(train=str(tmp_path / "data"), eval=str(tmp_path / "data"), eval_split="validatoin", eval_rows=6)


def test_held_out_classes_get_the_numbers_of_training(run_prepare: Prepare, write_jsonl: Write) -> None:
    train = write_jsonl([{"text": sentence(i), "label": "xyz"[i % 3]} for i in range(9)])
    held_out = write_jsonl([{"text": sentence(50 + i), "label": "zya"[i % 3]} for i in range(3)], "dev.jsonl")
    found = run_prepare(train=train, eval=held_out, eval_rows=10)
    labels = found.eval["default"].labels()
    assert labels is not None and labels.tolist() == [2, 1, 3]
    assert found.eval["default"].classes == ("x", "y", "z", "a")


def test_overlap_is_found_and_can_be_dropped(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = pairs(20)
    turned = [{"anchor": rows[3]["positive"], "positive": rows[3]["anchor"]}, {"anchor": rows[5]["anchor"], "positive": "something new"}]
    keys = {"train": write_jsonl(rows), "eval": write_jsonl([*turned, *pairs(22)[20:]], "dev.jsonl"), "eval_rows": 10}
    warned = run_prepare(**keys)
    finding = warned.scan.sources["default"]["train"].findings[0]
    assert (finding.rule, finding.rows) == ("overlap", 2) and len(warned.train["default"]) == 20
    assert "line 4" in finding.examples[0] and "line 6" in finding.examples[1]
    assert "2 rows" in warned.scan.warnings[0]
    assert len(run_prepare(**keys, checks=CheckSection(overlap="drop")).train["default"]) == 18
    assert run_prepare(**keys, checks=CheckSection(overlap="off")).scan.warnings == []
    with pytest.raises(DataError, match=r"2 rows \(10.0%\).*dataset.checks.overlap"):
        run_prepare(**keys, checks=CheckSection(overlap="fail"))


def test_several_data_sets_inherit_from_the_top(run_prepare: Prepare, write_jsonl: Write) -> None:
    renamed = [{"q": r["anchor"], "a": r["positive"]} for r in pairs(12)]
    found = run_prepare(
        columns={"anchor": "q", "positive": "a"},
        prompts={"anchor": "q: "},
        max_length={"default": 9},
        sources={
            "one": SourceSection(train=write_jsonl(renamed), max_rows=5),
            "two": SourceSection(
                train=write_jsonl([{"s": f"x{i}", "t": f"y{i}", "v": 0.5} for i in range(7)], "two.jsonl"),
                columns={"anchor": "s", "positive": "t", "label": "v"},
                prompts={"positive": "p: "},
            ),
        },
    )
    assert {n: len(s) for n, s in found.train.items()} == {"one": 5, "two": 7}
    assert found.train["two"].prompts == {"anchor": "q: ", "positive": "p: "}
    assert found.train["two"].max_lengths == {"anchor": 9, "positive": 9}
    assert found.train["two"].batch(np.arange(2)).source == "two"
    with pytest.raises(ConfigError, match=r"dataset.sources.one.train: no data is named"):
        run_prepare(sources={"one": SourceSection()})


def test_prompts_of_the_model_are_used_for_retrieval_formats(run_prepare: Prepare, write_jsonl: Write) -> None:
    prompts = {"query": "Q: ", "document": "D: "}
    pair = run_prepare(train=write_jsonl(pairs(3)), model_prompts=prompts)
    assert pair.train["default"].prompts == {"anchor": "Q: ", "positive": "D: "}
    scored = run_prepare(train=write_jsonl([{**r, "label": 0.5} for r in pairs(3)]), model_prompts=prompts)
    assert scored.train["default"].prompts == {"anchor": "", "positive": ""}
    own = run_prepare(train=write_jsonl(pairs(3)), model_prompts=prompts, prompts={"default": ""})
    assert own.train["default"].prompts == {"anchor": "", "positive": ""}


@pytest.mark.parametrize(("key", "value"), [("prompts", {"ancor": "x"}), ("max_length", {"negative_1": 3})])
def test_a_key_for_a_role_that_is_not_there_is_an_error(key: str, value: Any, run_prepare: Prepare, write_jsonl: Write) -> None:
    with pytest.raises(ConfigError, match=f"dataset.{key}.*the data has no such role. Roles: default, anchor, positive"):
        run_prepare(train=write_jsonl(pairs(3)), **{key: value})


def test_nothing_is_left_behind_by_a_failure(run_prepare: Prepare, write_jsonl: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_prepare(train=write_jsonl([{"anchor": "a", "positive": " "}]))
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    with pytest.raises(DataError, match="found no rows"):
        run_prepare(train=write_jsonl([]))
    with pytest.raises(ConfigError, match="dataset.train: no data is named"):
        run_prepare()


def test_the_report_is_json(run_prepare: Prepare, write_jsonl: Write) -> None:
    rows = [*pairs(10), pairs(1)[0]]
    report = run_prepare(train=write_jsonl(rows), max_length={"positive": 4}).scan
    found = json.loads(json.dumps(report.as_dict()))
    train = found["sources"]["default"]["train"]
    assert train["rows"] == train["rows_read"] == 11 and train["format"] == "pair"
    assert train["roles"]["positive"]["truncated_share"] == 1.0 and train["roles"]["anchor"]["truncated_share"] == 0.0
    assert train["roles"]["positive"]["tokens"]["max"] > 4 and train["roles"]["anchor"]["distinct"] == 10
    assert train["groups"] == {"what": "rows per anchor", "groups": 10, "min": 1, "mean": 1.1, "max": 2}
    assert {f["rule"] for f in train["findings"]} == {"duplicate_rows", "truncated_share"}
    assert len(found["warnings"]) == 2
    text = "\n".join(report.lines())
    assert "11 rows of pair" in text and "1 row that repeat" in text


def test_held_out_rows_are_read_in_the_format_of_training(run_prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sentence1,sentence2,score\na,b,0.5\nc,d,1\n")
    (tmp_path / "dev.csv").write_text("sentence1,sentence2,score\ne,f,0\ng,h,1\n")
    found = run_prepare(train=str(tmp_path / "train.csv"), eval=str(tmp_path / "dev.csv"), eval_rows=5)
    assert found.eval["default"].format.name == "pair-score" and found.eval["default"].rows().labels == [0.0, 1.0]
    (tmp_path / "dev.csv").write_text("sentence1,sentence2\ne,f\n")
    with pytest.raises(DataError, match=r"dev.csv.*needs anchor, positive, label"):
        run_prepare(train=str(tmp_path / "train.csv"), eval=str(tmp_path / "dev.csv"), eval_rows=5)
    (tmp_path / "dev.csv").write_text("anchor,positive,negative_1\ne,f,g\n")
    (tmp_path / "train.csv").write_text("anchor,positive,negative_1,negative_2\na,b,c,d\n")
    with pytest.raises(DataError, match=r"n-tuple"):
        run_prepare(train=str(tmp_path / "train.csv"), eval=str(tmp_path / "dev.csv"), eval_rows=5)


@pytest.mark.parametrize(
    ("uri", "keys", "format_name", "roles"),
    [
        ("stdlib://docstrings", {}, "pair", 2),
        ("stdlib://docstrings?format=triplet&negatives=3", {}, "n-tuple", 5),
        ("stdlib://docstrings?format=triplet", {"format": "triplet"}, "triplet", 3),
        ("stdlib://docstrings?documents=4", {"format": "query-documents"}, "query-documents", 2),
        ("stdlib://docstrings", {"format": "pair-class"}, "pair-class", 2),
    ],
)
def test_the_embedded_data_brings_its_own_held_out_rows(
    uri: str, keys: dict[str, Any], format_name: str, roles: int, run_prepare: Prepare
) -> None:
    found = run_prepare(train=uri, cache_dir=None, eval_rows=50, max_rows=200, **keys)
    train, held_out = found.train["default"], found.eval["default"]
    assert train.format.name == held_out.format.name == format_name and len(train.roles) == roles
    assert (len(train), len(held_out)) == (200, 50)
    assert not [w for w in found.scan.warnings if "held-out" in w]
    if format_name == "query-documents":
        assert set(train.counts("documents").tolist()) == {5}
    if format_name == "pair-class":
        assert train.classes == ("own", "same_module", "unrelated")
        assert train.rows().classes == train.classes


def test_keys_at_the_top_need_a_role_of_one_data_set(run_prepare: Prepare, write_jsonl: Write) -> None:
    triplets = [{**r, "negative_1": "n"} for r in pairs(3)]
    sources = {"a": SourceSection(train=write_jsonl(pairs(3))), "b": SourceSection(train=write_jsonl(triplets, "b.jsonl"))}
    found = run_prepare(sources=sources, prompts={"negative_1": "N: "})
    assert found.train["a"].prompts == {"anchor": "", "positive": ""} and found.train["b"].prompts["negative_1"] == "N: "
    with pytest.raises(ConfigError, match=r"dataset.prompts.negative_2: .*Roles: default, anchor, positive, negative_1"):
        run_prepare(sources=sources, prompts={"negative_2": "N: "})
    own = {**sources, "a": SourceSection(train=write_jsonl(pairs(3)), prompts={"negative_1": "N: "})}
    with pytest.raises(ConfigError, match=r"dataset.sources.a.prompts.negative_1"):
        run_prepare(sources=own)


def test_a_batch_costs_far_less_than_a_step(run_prepare: Prepare, write_jsonl: Write) -> None:
    """Under a millisecond of CPU for 64 rows of two roles (about 0.15 measured)."""
    source = run_prepare(train=write_jsonl(pairs(2000))).train["default"]
    rows = [np.random.default_rng(i).integers(0, 2000, 64) for i in range(200)]
    source.batch(rows[0])
    start = time.process_time()
    for chosen in rows:
        source.batch(chosen)
    assert (time.process_time() - start) / len(rows) < 1e-3
