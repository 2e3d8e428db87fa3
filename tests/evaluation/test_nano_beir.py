"""NanoBEIR from local copies in both layouts, its means, and what is said when it is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation.nano_beir import DATASET_NAME_TO_HUMAN_READABLE

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.metrics import configured_metrics
from stpipe.evaluation import NanoBEIREvaluator
from stpipe.evaluation.nano_files import NANO_SETS, read_set
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.nano import nano_set, write_hub_copy, write_local_copy, write_rows
from tests.evaluation.toy import SparseToy, ToyModel, pairs

TWO = ("msmarco", "touche2020")


def test_the_sets_are_those_of_the_documentation() -> None:
    assert dict(NANO_SETS) == DATASET_NAME_TO_HUMAN_READABLE and len(NANO_SETS) == 13


@pytest.mark.parametrize("layout", [".jsonl", ".parquet", "hub"])
def test_every_layout_gives_the_same_collection(tmp_path: Path, layout: str) -> None:
    root = write_hub_copy(tmp_path / "copy", TWO) if layout == "hub" else write_local_copy(tmp_path / "copy", TWO, suffix=layout)
    for name in TWO:
        wanted = nano_set(name)
        found = read_set(str(root), name)
        assert list(found.doc_ids) == [row["_id"] for row in wanted["corpus"]]
        assert list(found.docs) == [row["text"] for row in wanted["corpus"]]
        assert list(found.queries) == [row["text"] for row in wanted["queries"]]
        graded = {(found.query_ids[q], found.doc_ids[d]): grade for q, grades in enumerate(found.grades) for d, grade in grades.items()}
        assert graded == {(row["query-id"], row["corpus-id"]): 1.0 for row in wanted["qrels"]}


@pytest.mark.parametrize("model", [ToyModel(noise=1.5), SparseToy(noise=24)])
def test_means_are_over_sets_and_widths_over_texts(tmp_path: Path, model: ToyModel | SparseToy) -> None:
    root = write_local_copy(tmp_path, ("nq",))
    for part, rows in nano_set("msmarco", num_docs=25, num_queries=5).items():
        write_rows(root / "NanoMSMARCO" / f"{part}.jsonl", rows)
    curve = (4,) if model.kind == "sparse" else ()
    evaluator = NanoBEIREvaluator(dataset_id=str(root), datasets=("nq", "msmarco"), active_dims_curve=curve)
    found = evaluator(model, pairs(), batch_size=8)
    fn = model.similarity_fn_name
    sets = [found.metrics[f"Nano{name}_{fn}_ndcg@10"] for name in ("NQ", "MSMARCO")]
    assert found.primary == f"NanoBEIR_mean_{fn}_ndcg@10" and sets[0] != sets[1]
    assert found.primary_value == pytest.approx(np.mean(sets)) and 0 < found.primary_value < 1
    assert found.num_queries == 15 and sorted(found.parts) == ["NanoMSMARCO", "NanoNQ"]
    assert sorted(found.metrics) == sorted(evaluator.metric_names(similarity=fn, kind=model.kind))
    if model.kind == "sparse":
        docs = [found.metrics[f"Nano{name}_corpus_active_dims"] for name in ("NQ", "MSMARCO")]
        assert found.metrics["NanoBEIR_mean_corpus_active_dims"] == pytest.approx((40 * docs[0] + 25 * docs[1]) / 65)
        assert found.metrics["NanoBEIR_mean_posting_list_max"] == pytest.approx(
            np.mean([found.metrics[f"Nano{name}_posting_list_max"] for name in ("NQ", "MSMARCO")])
        )
        assert found.metrics["NanoBEIR_mean_dot_ndcg@10_at_4_dims"] != found.primary_value


def test_files_of_each_set(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path / "copy", TWO)
    evaluator = NanoBEIREvaluator(dataset_id=str(root), datasets=TWO)
    baseline = evaluator.baselines({}, similarity="cosine")["bm25"]
    assert baseline.primary_value > 0
    write_evaluation(tmp_path / "out", {"after": evaluator(ToyModel(), pairs(), batch_size=8), "bm25": baseline})
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["primary"] in summary["systems"]["bm25"]
    inner = json.loads((tmp_path / "out" / "NanoMSMARCO" / "metrics.json").read_text())
    assert inner["primary"] == "cosine_ndcg@10" and "after-bm25" in inner["differences"]
    assert (tmp_path / "out" / "NanoTouche2020" / "run.trec").is_file()
    assert dataclasses.replace(evaluator, bm25=None).baselines({}, similarity="cosine") == {}


def test_prompts_of_a_set(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path, TWO)
    model = ToyModel(query_prompt="model: ")
    NanoBEIREvaluator(dataset_id=str(root), datasets=TWO, query_prompts={"msmarco": "q: "}, corpus_prompts={"touche2020": "d: "})(
        model, pairs(), batch_size=8
    )
    assert [(kind, prompt) for kind, prompt, _ in model.calls] == [
        ("query", "q: "),
        ("document", None),
        ("query", None),
        ("document", "d: "),
    ]


def test_names_of_all_sets_are_known_without_data() -> None:
    facts = json.loads(json.dumps(NanoBEIREvaluator.metrics))
    values = {f.name: f.default for f in dataclasses.fields(NanoBEIREvaluator) if f.default is not dataclasses.MISSING}
    found = configured_metrics({**values, "name": "nano_beir"}, lambda name: facts, similarity="dot", kind="sparse")
    assert {f"Nano{name}_dot_ndcg@10" for name in NANO_SETS.values()} < set(found.names)
    assert "NanoBEIR_mean_avg_flops" in found.names and found.primary == "NanoBEIR_mean_dot_ndcg@10"
    with pytest.raises(ConfigError, match="datasets is empty"):
        configured_metrics({**values, "name": "nano_beir", "datasets": []}, lambda name: facts, similarity="dot")


def test_a_missing_collection_is_named() -> None:
    """The tests run without a network, as many clusters do."""
    with pytest.raises(
        ConfigError, match=r"subset 'corpus', split 'NanoNQ' of the data set 'sentence-transformers/NanoBEIR-en'.*local copy"
    ):
        NanoBEIREvaluator(datasets=("nq",))(ToyModel(), pairs(), batch_size=8)


def test_what_a_copy_lacks_is_named(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path, ("nq",))
    with pytest.raises(ConfigError, match=r"no folder for set 'fever' \(expected NanoFEVER\). It has: nq"):
        read_set(str(root), "fever")
    write_rows(root / "NanoNQ" / "queries.jsonl", [{"id": "q0", "text": "w1"}])
    with pytest.raises(DataError, match=r"queries of set 'nq' in .*queries.jsonl has columns id, text; expected _id, text"):
        read_set(str(root), "nq")
    write_rows(root / "NanoNQ" / "queries.jsonl", [{"_id": "other", "text": "w1"}])
    with pytest.raises(DataError, match="judges no query with a document of its corpus"):
        read_set(str(root), "nq")
    (root / "NanoNQ" / "queries.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="queries.jsonl cannot be read"):
        read_set(str(root), "nq")
    (root / "NanoNQ" / "queries.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no queries.jsonl or queries.parquet; a set needs corpus, queries, qrels"):
        read_set(str(root), "nq")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": ("msmarko",)}, "nano_beir: datasets: unknown name 'msmarko'. Did you mean 'msmarco'"),
        ({"datasets": ()}, "datasets is empty; name at least one of climatefever"),
        ({"query_prompts": {"nqq": "x"}}, "query_prompts: unknown name 'nqq'"),
    ],
)
def test_unknown_sets_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NanoBEIREvaluator(**settings)


def test_grades_lists_and_empty_texts(tmp_path: Path) -> None:
    folder = tmp_path / "scifact"
    write_rows(folder / "corpus.jsonl", [{"_id": 1, "text": "a"}, {"_id": 2, "text": ""}, {"_id": 3, "text": "b", "title": "t"}])
    write_rows(folder / "queries.jsonl", [{"_id": "x", "text": "q"}, {"_id": "y", "text": "r"}])
    qrels = [{"query-id": "x", "corpus-id": ["1", "2"], "score": 2}, {"query-id": "x", "corpus-id": ["3"], "score": 0}]
    write_rows(folder / "qrels.jsonl", qrels)
    found = read_set(str(tmp_path), "scifact")
    assert found.doc_ids == ["1", "3"] and found.docs == ["a", "t b"]
    assert found.query_ids == ["x"] and found.grades == [{0: 2.0, 1: 0.0}]
