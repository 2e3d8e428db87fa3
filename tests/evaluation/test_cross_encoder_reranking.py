"""Reranking by a cross-encoder against the order that was there before."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from stpipe.config.errors import DataError
from stpipe.core.rows import Rows
from stpipe.evaluation import CrossEncoderRerankingEvaluator, RerankingEvaluator, SequentialEvaluator
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.test_information_retrieval import recomputed
from tests.evaluation.toy import EqualScorer, ToyScorer, labelled, lists, tuples

FORMATS: dict[str, Rows] = {
    "triplet": tuples(negatives=1),
    "n-tuple": tuples(negatives=3),
    "query-document": labelled(),
    "query-documents": lists(),
    "n-tuple-scores": dataclasses.replace(tuples(negatives=3), format="n-tuple-scores", labels=[[1.0] * 4] * 40),
}


def naive(rows: Rows, scores: dict[tuple[str, str], float], k: int, *, cut: int | None = None, always: bool = True) -> dict[str, float]:
    """nDCG@k, MRR@k and MAP of lists by the definitions, a query at a time; documents in falling order of `scores`.

    cut: only so many of each list count as found; always: relevant documents are ranked even where they were not found.
    """
    sums = {"ndcg": 0.0, "mrr": 0.0, "map": 0.0}
    for query, docs, labels in zip(rows.columns["query"], rows.columns["documents"], rows.labels or (), strict=True):
        grades = dict(zip(docs, labels, strict=True))
        kept = [d for i, d in enumerate(docs) if cut is None or i < cut or (always and grades[d] > 0)]
        order = sorted(kept, key=lambda d: -scores[query, d])
        gains = [grades[d] for d in order]
        ideal = sorted(grades.values(), reverse=True)
        discounted = [sum(g / math.log2(i + 2) for i, g in enumerate(gs[:k])) for gs in (gains, ideal)]
        hits = [i for i, g in enumerate(gains) if g > 0]
        sums["ndcg"] += discounted[0] / discounted[1]
        sums["mrr"] += 1 / (hits[0] + 1) if hits and hits[0] < k else 0
        sums["map"] += sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / sum(g > 0 for g in labels)
    return {f"{name}@{k}" if name != "map" else name: value / len(rows) for name, value in sums.items()}


def by_model(rows: Rows, model: ToyScorer) -> dict[tuple[str, str], float]:
    pairs = [(q, d) for q, docs in zip(rows.columns["query"], rows.columns["documents"], strict=True) for d in docs]
    return dict(zip(pairs, model.logits(pairs)[:, 0].tolist(), strict=True))


def by_place(rows: Rows) -> dict[tuple[str, str], float]:
    listed = zip(rows.columns["query"], rows.columns["documents"], strict=True)
    return {(q, d): -i for q, docs in listed for i, d in enumerate(docs)}


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize(("cut", "always"), [(None, True), (None, False), (2, True), (2, False)])
def test_both_orders_are_measured_by_the_definitions(k: int, cut: int | None, always: bool) -> None:
    rows, model = lists(), ToyScorer(noise=2.0)
    found = CrossEncoderRerankingEvaluator(at_k=k, rerank_k=cut, always_rerank_positives=always)(model, rows, batch_size=8)
    wanted = naive(rows, by_model(rows, model), k, cut=cut, always=always)
    assert {name: found.metrics[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert 0 < wanted[f"ndcg@{k}"] < 1 and found.num_queries == 30
    if cut is None or not always:
        base = naive(rows, by_place(rows), k, cut=cut, always=False)
        assert {name: found.metrics[f"base_{name}"] for name in base} == pytest.approx(base, abs=1e-12)
        assert base[f"ndcg@{k}"] != pytest.approx(wanted[f"ndcg@{k}"])
    sizes = {(None, True): {4, 5, 6}, (None, False): {4, 5, 6}, (2, True): {2, 3, 4}, (2, False): {2}}
    assert {len(docs) for docs in (found.run or {}).values()} == sizes[cut, always]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_base_and_its_systems(name: str, tmp_path: Path) -> None:
    evaluator, rows, model = CrossEncoderRerankingEvaluator(), FORMATS[name], ToyScorer(noise=2.0)
    found = evaluator(model, rows, batch_size=8)
    systems = evaluator.baselines({"x": rows}, similarity="")
    listed = name == "query-documents"
    assert list(systems) == (["base", "bm25"] if listed else ["bm25"])
    base = systems["base" if listed else "bm25"].metrics
    assert {f"base_{metric}": value for metric, value in base.items()} == {m: v for m, v in found.metrics.items() if m.startswith("base")}
    assert 0 < found.primary_value < 1 and found.primary == "ndcg@10"
    write_evaluation(tmp_path / "dev", {"after": found, **systems})
    written = json.loads((tmp_path / "dev" / "metrics.json").read_text())
    assert set(written["differences"]) == {f"after-{system}" for system in systems}
    assert (tmp_path / "dev" / "qrels.trec").is_file() and (tmp_path / "dev" / f"run_{next(iter(systems))}.trec").is_file()


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("scorer", [ToyScorer(noise=2.0), EqualScorer()], ids=["good", "all scores equal"])
def test_an_independent_tool_recomputes_every_system_from_the_files(tmp_path: Path, always: bool, scorer: ToyScorer) -> None:
    evaluator = CrossEncoderRerankingEvaluator(at_k=3, rerank_k=2, always_rerank_positives=always)
    after, systems = evaluator(scorer, lists(), batch_size=8), evaluator.baselines({"x": lists()}, similarity="")
    write_evaluation(tmp_path / "dev", {"after": after, **systems})
    for result, run in ((after, "run.trec"), (systems["base"], "run_base.trec"), (systems["bm25"], "run_bm25.trec")):
        theirs = recomputed(tmp_path / "dev", run, {"ndcg@3": "nDCG@3", "mrr@3": "RR@3", "map": "AP"})
        assert {name: result.metrics[name] for name in theirs} == pytest.approx(theirs, abs=1e-9) and 0 < theirs["map"] < 1


def test_bm25_is_the_base_of_rows_without_an_order() -> None:
    rows = labelled()
    found = CrossEncoderRerankingEvaluator(bm25="words")(ToyScorer(), rows, batch_size=8)
    bm25 = RerankingEvaluator().rank_with(BM25("words"), rows)
    assert found.metrics["base_ndcg@10"] == bm25.primary_value
    positives_first = [[1.0 - (i > 1) for i in range(len(docs))] for docs in lists().columns["documents"]]
    mined = dataclasses.replace(lists(), labels=positives_first)
    assert CrossEncoderRerankingEvaluator()(ToyScorer(), mined, batch_size=8).metrics["base_ndcg@10"] < 1
    without = CrossEncoderRerankingEvaluator(bm25=None)
    assert without.baselines({"x": rows}, similarity="") == {} and list(without.baselines({"x": lists()}, similarity="")) == ["base"]


def test_the_same_order_as_the_base_gains_nothing() -> None:
    """Also where relevant documents were not found, and count as such on both sides."""

    class Echo(ToyScorer):
        def predict(self, inputs: Any, **options: Any) -> Any:
            place = by_place(lists())
            return [place[first, second] for first, second in inputs]

    for cut in (None, 2):
        found = CrossEncoderRerankingEvaluator(rerank_k=cut, always_rerank_positives=False)(Echo(), lists(), batch_size=8)
        for metric in ("ndcg@10", "mrr@10", "map"):
            assert found.metrics[metric] == found.metrics[f"base_{metric}"] < 1


def test_a_model_that_tells_nothing_apart_scores_low() -> None:
    assert 0.3 < CrossEncoderRerankingEvaluator()(EqualScorer(), tuples(negatives=2), batch_size=8).metrics["mrr@10"] < 0.8


def test_queries_that_say_nothing_about_order_are_left_out() -> None:
    rows = lists()
    labels = [
        [0.0] * len(docs) if i == 0 else [1.0] * len(docs) if i == 1 else list(rows.labels[i])
        for i, docs in enumerate(rows.columns["documents"])
    ]
    found = CrossEncoderRerankingEvaluator()(ToyScorer(), dataclasses.replace(rows, labels=labels), batch_size=8)
    assert found.num_queries == 28
    none = dataclasses.replace(rows, labels=[[0.0] * len(docs) for docs in rows.columns["documents"]])
    with pytest.raises(DataError, match="cross_encoder_reranking: no query of data set 'default' has both"):
        CrossEncoderRerankingEvaluator()(ToyScorer(), none, batch_size=8)


def test_inside_a_sequence_each_system_keeps_its_parts() -> None:
    evaluators = {"lists": CrossEncoderRerankingEvaluator(source="l"), "rows": CrossEncoderRerankingEvaluator(source="r")}
    sources = {"l": lists(), "r": labelled()}
    evaluator = SequentialEvaluator(evaluators=evaluators)
    systems = evaluator.baselines(sources, similarity="")
    assert {name: list(found.parts) for name, found in systems.items()} == {"base": ["lists"], "bm25": ["lists", "rows"]}
    found = evaluator.evaluate(ToyScorer(), sources, batch_size=8)
    assert found.primary_value == found.metrics["rows_ndcg@10"] and math.isnan(systems["base"].primary_value)
