"""Retrieval end to end: what is a query, what is a document, and numbers that another tool recomputes from the files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from stpipe.config.errors import ConfigError
from stpipe.core.rows import Rows
from stpipe.evaluation import InformationRetrievalEvaluator, RerankingEvaluator
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.toy import Collapsed, ToyModel, lists, pairs, tuples

MEASURES = {
    "ndcg@10": "nDCG@10",
    "accuracy@1": "Success@1",
    "accuracy@10": "Success@10",
    "precision@3": "P@3",
    "precision@10": "P@10",
    "recall@5": "R@5",
    "mrr@10": "RR@10",
    "map@100": "AP@100",
}


def recomputed(folder: Path, run: str, measures: dict[str, str]) -> dict[str, float]:
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.trec")))
    ranking = list(ir_measures.read_trec_run(str(folder / run)))
    values = ir_measures.calc_aggregate([ir_measures.parse_measure(m) for m in measures.values()], qrels, ranking)
    return {name: values[ir_measures.parse_measure(m)] for name, m in measures.items()}


@pytest.mark.parametrize("rows", [pairs(), tuples(), lists()], ids=["pair", "n-tuple", "graded lists"])
@pytest.mark.parametrize("model", [ToyModel(), ToyModel(noise=3.0), Collapsed()], ids=["good", "bad", "all scores equal"])
def test_an_independent_tool_recomputes_the_metrics_from_the_files(tmp_path: Path, rows: Rows, model: ToyModel) -> None:
    evaluator = InformationRetrievalEvaluator()
    found = evaluator(model, rows, batch_size=8)
    bm25 = evaluator.baselines({"x": rows}, similarity="cosine")["bm25"]
    write_evaluation(tmp_path / "dev", {"after": found, "bm25": bm25})
    for result, run in ((found, "run.trec"), (bm25, "run_bm25.trec")):
        theirs = recomputed(tmp_path / "dev", run, MEASURES)
        ours = {name: result.metrics[f"cosine_{name}"] for name in MEASURES}
        assert 0 < ours["map@100"] <= 1
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_reranking_is_recomputed_from_the_files_too(tmp_path: Path) -> None:
    found = RerankingEvaluator(at_k=3)(ToyModel(noise=2.0), lists(), batch_size=8)
    write_evaluation(tmp_path / "dev", {"after": found})
    theirs = recomputed(tmp_path / "dev", "run.trec", {"ndcg@3": "nDCG@3", "mrr@3": "RR@3", "map": "AP"})
    assert found.metrics == pytest.approx(theirs, abs=1e-9)
    assert found.metrics["ndcg@3"] < 1


def test_metrics_do_not_depend_on_chunks_or_row_order() -> None:
    rows = tuples()
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = dataclasses.replace(rows, columns={role: [texts[i] for i in order] for role, texts in rows.columns.items()})
    results = [
        InformationRetrievalEvaluator(corpus_chunk_size=chunk, query_chunk_size=queries)(ToyModel(), given, batch_size=8)
        for given, chunk, queries in ((rows, 10_000, 256), (rows, 7, 3), (shuffled, 10_000, 256))
    ]
    assert results[0] == results[1]
    assert results[0].run == results[2].run and results[0].qrels == results[2].qrels
    assert results[0].metrics == pytest.approx(results[2].metrics, abs=1e-12)


def test_queries_are_distinct_anchors_and_documents_distinct_texts() -> None:
    rows = Rows(
        {"anchor": ["w1 a", "w1 a", "w2 b"], "positive": ["w1 x", "w1 y", "w2 z"], "negative_1": ["w2 z", "w3 n", "w1 x"]},
        None,
        "triplet",
        {},
    )
    found = InformationRetrievalEvaluator()(ToyModel(), rows, batch_size=8)
    assert found.num_queries == 2 and found.run is not None and found.qrels is not None
    assert [len(docs) for docs in found.run.values()] == [4, 4]
    assert sorted(sorted(grades.values()) for grades in found.qrels.values()) == [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0]]


def test_grades_weigh_in_ndcg_only() -> None:
    graded, binary = (InformationRetrievalEvaluator(graded=g)(ToyModel(noise=2.0), lists(), batch_size=8).metrics for g in (True, False))
    assert graded["cosine_ndcg@10"] != binary["cosine_ndcg@10"]
    assert graded["cosine_map@100"] == binary["cosine_map@100"]
    strict = InformationRetrievalEvaluator(relevance_threshold=0.5)(ToyModel(noise=2.0), lists(), batch_size=8).metrics
    assert strict["cosine_ndcg@10"] == graded["cosine_ndcg@10"] and strict["cosine_recall@1"] > graded["cosine_recall@1"]


def test_prompts_of_the_settings_win_over_those_of_the_data() -> None:
    model = ToyModel()
    rows = pairs(prompts={"anchor": "data: ", "positive": "data: "})
    InformationRetrievalEvaluator(query_prompt="mine: ")(model, rows, batch_size=8)
    assert [(kind, prompt) for kind, prompt, _ in model.calls] == [("query", "mine: "), ("document", "data: ")]


def test_the_run_is_that_of_the_main_similarity() -> None:
    both = InformationRetrievalEvaluator(similarities=("cosine", "dot"), main_similarity="dot")(ToyModel(), pairs(), batch_size=8)
    dot = InformationRetrievalEvaluator()(ToyModel(similarity_fn_name="dot"), pairs(), batch_size=8)
    assert both.primary == "dot_ndcg@10" and both.run == dot.run and both.per_query == dot.per_query


def files(folder: Path, rows: Rows) -> dict[str, str]:
    """The rows as a test collection in the layout of BEIR."""
    queries = list(dict.fromkeys(rows.columns["anchor"]))
    docs = list(dict.fromkeys(rows.columns["positive"]))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": f"Q {i}", "text": t}) + "\n" for i, t in enumerate(queries)))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"D{i}", "title": "", "text": t}) + "\n" for i, t in enumerate(docs)))
    judged = {(queries.index(a), docs.index(p)) for a, p in zip(rows.columns["anchor"], rows.columns["positive"], strict=True)}
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"Q {q}\tD{d}\t1\n" for q, d in sorted(judged)))
    return {name: str(folder / f"{name}.{end}") for name, end in (("queries", "jsonl"), ("corpus", "jsonl"), ("qrels", "tsv"))}


def means(result: Evaluation) -> dict[str, float]:
    return {name: round(value, 12) for name, value in result.metrics.items()}


def test_a_collection_of_ones_own_equals_the_same_rows(tmp_path: Path) -> None:
    given = files(tmp_path, pairs())
    own = InformationRetrievalEvaluator(**given, corpus_chunk_size=7).evaluate(ToyModel(), {}, batch_size=8)
    assert means(own) == means(InformationRetrievalEvaluator()(ToyModel(), pairs(), batch_size=8))
    write_evaluation(tmp_path / "dev", {"after": own})
    assert (tmp_path / "dev" / "run.trec").read_text().startswith("Q%200 Q0 D")
    theirs = recomputed(tmp_path / "dev", "run.trec", MEASURES)
    assert {name: own.metrics[f"cosine_{name}"] for name in MEASURES} == pytest.approx(theirs, abs=1e-9)


def test_an_extra_corpus_only_makes_it_harder(tmp_path: Path) -> None:
    known = pairs().columns["positive"][0]
    path = tmp_path / "extra.tsv"
    path.write_text("".join(f"e{i}\tw{i % 40} more {i}\n" for i in range(80)) + f"same\t{known}\n")
    plain = InformationRetrievalEvaluator()(ToyModel(), pairs(), batch_size=8)
    harder = InformationRetrievalEvaluator(corpus=str(path), corpus_chunk_size=16)(ToyModel(), pairs(), batch_size=8)
    assert plain.run is not None and harder.run is not None
    assert harder.metrics["cosine_ndcg@10"] < plain.metrics["cosine_ndcg@10"]
    ids = {doc for docs in harder.run.values() for doc in docs}
    assert "x:e0" in ids and "x:same" not in ids
    assert harder.qrels == plain.qrels


def test_half_a_collection_is_refused() -> None:
    with pytest.raises(ConfigError, match="`queries`, `corpus` and `qrels` together"):
        InformationRetrievalEvaluator(queries="q.jsonl", qrels="r.tsv")
    with pytest.raises(ConfigError, match="together"):
        InformationRetrievalEvaluator(corpus="c.jsonl", qrels="r.tsv")


def test_a_missing_file_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no.jsonl' does not exist"):
        InformationRetrievalEvaluator(corpus=str(tmp_path / "no.jsonl"))(ToyModel(), pairs(), batch_size=8)
