"""NanoBEIR reranked: where BM25's order comes from, names, means and files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.metrics import configured_metrics
from stpipe.evaluation import CrossEncoderNanoBEIREvaluator
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.nano_files import NANO_SETS, read_bm25, read_set
from stpipe.evaluation.ranking import NO_DOC
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.nano import bm25_orders, write_hub_copy, write_local_copy, write_rows
from tests.evaluation.toy import ToyScorer, pairs

TWO = ("msmarco", "touche2020")


def evaluator(root: Path, **changes: Any) -> CrossEncoderNanoBEIREvaluator:
    return CrossEncoderNanoBEIREvaluator(**{"dataset_id": str(root), "datasets": TWO, "rerank_k": 8, **changes})


@pytest.mark.parametrize("layout", [".jsonl", ".parquet", "hub"])
def test_every_layout_gives_the_same_order(tmp_path: Path, layout: str) -> None:
    for bm25 in (True, False):
        root = tmp_path / f"copy-{bm25}"
        made = write_hub_copy(root, TWO, bm25=bm25) if layout == "hub" else write_local_copy(root, TWO, suffix=layout, bm25=bm25)
        wanted = {row["query-id"]: row["corpus-ids"] for row in bm25_orders("msmarco")}
        assert read_bm25(str(made), "msmarco") == (wanted if bm25 else None)


def test_the_order_of_the_collection_is_the_base(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path, TWO, bm25=True)
    base = evaluator(root, always_rerank_positives=False).baselines({}, similarity="")["base"]
    for name in TWO:
        orders = {row["query-id"]: row["corpus-ids"][:8] for row in bm25_orders(name)}
        assert {query: list(docs) for query, docs in (base.parts[f"Nano{NANO_SETS[name]}_R8"].run or {}).items()} == orders
    assert 0 < base.primary_value < 1


def test_without_it_the_base_is_our_bm25(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path, TWO)
    base = evaluator(root, always_rerank_positives=False).baselines({}, similarity="")["base"]
    collection = read_set(str(root), "msmarco")
    ranking = BM25("identifiers").search(collection, depth=8)
    wanted = [[collection.doc_ids[doc] for doc in docs if doc != NO_DOC] for docs in ranking.docs]
    assert [list(docs) for docs in (base.parts["NanoMSMARCO_R8"].run or {}).values()] == wanted and wanted[0]


@pytest.mark.parametrize("always", [True, False])
def test_what_is_reranked(tmp_path: Path, always: bool) -> None:
    root = write_local_copy(tmp_path, TWO, bm25=True)
    found = evaluator(root, always_rerank_positives=always)(ToyScorer(), pairs(), batch_size=8)
    part = found.parts["NanoMSMARCO_R8"]
    relevant = {query: {doc for doc, grade in docs.items() if grade > 0} for query, docs in (part.qrels or {}).items()}
    for row in bm25_orders("msmarco"):
        more = relevant[row["query-id"]] if always else set()
        assert set((part.run or {})[row["query-id"]]) == {*row["corpus-ids"][:8], *more}
    assert any(relevant[row["query-id"]] - set(row["corpus-ids"][:8]) for row in bm25_orders("msmarco")), "some are not found"


def test_names_means_and_files(tmp_path: Path) -> None:
    root = write_local_copy(tmp_path / "copy", TWO, bm25=True)
    chosen = evaluator(root)
    found = chosen(ToyScorer(), pairs(), batch_size=8)
    systems = chosen.baselines({}, similarity="")
    assert found.primary == "NanoBEIR_R8_mean_ndcg@10" == chosen.primary(similarity="")
    assert sorted(found.metrics) == sorted(chosen.metric_names(similarity="", kind="cross_encoder"))
    sets = [found.metrics[f"Nano{name}_R8_ndcg@10"] for name in ("MSMARCO", "Touche2020")]
    assert found.primary_value == pytest.approx(np.mean(sets)) and sets[0] != sets[1] and found.num_queries == 20
    assert found.metrics["NanoBEIR_R8_mean_base_map"] == systems["base"].metrics["NanoBEIR_R8_mean_map"] > 0
    write_evaluation(tmp_path / "out", {"after": found, **systems})
    inner = json.loads((tmp_path / "out" / "NanoMSMARCO_R8" / "metrics.json").read_text())
    assert inner["primary"] == "ndcg@10" and inner["evaluator"] == "cross_encoder_reranking" and set(inner["differences"]) == {"after-base"}
    assert (tmp_path / "out" / "NanoTouche2020_R8" / "run_base.trec").is_file()


def test_eleven_sets_and_a_hundred_documents_by_default() -> None:
    facts = json.loads(json.dumps(CrossEncoderNanoBEIREvaluator.metrics))
    fields = {f.name: f.default for f in dataclasses.fields(CrossEncoderNanoBEIREvaluator) if f.default is not dataclasses.MISSING}
    values = json.loads(json.dumps({**fields, "name": "cross_encoder_nano_beir"}))
    found = configured_metrics(values, lambda name: facts, similarity="cosine", kind="cross_encoder")
    assert found == CrossEncoderNanoBEIREvaluator().metric_set(similarity="", kind="cross_encoder")
    sets = {name for name in found.names if name.endswith("_R100_ndcg@10")}
    assert sets == {f"Nano{label}_R100_ndcg@10" for key, label in NANO_SETS.items() if key not in ("arguana", "touche2020")}
    assert found.primary == "NanoBEIR_R100_mean_ndcg@10" and found.better["NanoBEIR_R100_mean_base_ndcg@10"] is None
    every = CrossEncoderNanoBEIREvaluator(datasets=None, at_k=5, rerank_k=20).metric_set(similarity="")
    assert every.primary == "NanoBEIR_R20_mean_ndcg@5" and "NanoArguAna_R20_map" in every.names


def test_prompts_of_a_set(tmp_path: Path) -> None:
    model = ToyScorer()
    root = write_local_copy(tmp_path, TWO, bm25=True)
    evaluator(root, query_prompts={"msmarco": "q: "}, corpus_prompts={"touche2020": "d: "})(model, pairs(), batch_size=8)
    assert [prompt for prompt, _ in model.calls] == ["q: ", None]
    assert [all(doc.startswith("d: ") for _, doc in asked) for _, asked in model.calls] == [False, True]


def test_odd_orders(tmp_path: Path) -> None:
    """Unknown and repeated documents are left out, and so are queries without an order; none at all is an error."""
    root = write_local_copy(tmp_path, ("nq",), bm25=True)
    file = root / "NanoNQ" / "bm25.jsonl"
    write_rows(file, [{"query-id": "q0", "corpus-ids": ["d5", "nowhere", "d5", "d0"]}, {"query-id": "q1", "corpus-ids": []}])
    chosen = evaluator(root, datasets=("nq",), always_rerank_positives=False)
    found = chosen(ToyScorer(), pairs(), batch_size=8)
    assert {q: sorted(docs) for q, docs in (found.parts["NanoNQ_R8"].run or {}).items()} == {"q0": ["d0", "d5"], "q1": []}
    assert found.num_queries == 2 and 0 < found.primary_value < 1
    write_rows(file, [{"query-id": "other", "corpus-ids": ["d5"]}])
    with pytest.raises(DataError, match="`bm25` of set 'nq' in .* ranks documents for none of the judged queries"):
        chosen(ToyScorer(), pairs(), batch_size=8)
    write_rows(file, [{"query-id": "q0", "docs": ["d5"]}])
    with pytest.raises(DataError, match="bm25 of set 'nq' in .* has columns query-id, docs; expected query-id, corpus-ids"):
        chosen(ToyScorer(), pairs(), batch_size=8)


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="cross_encoder_nano_beir: datasets: unknown name 'msmarko'. Did you mean 'msmarco'"):
        CrossEncoderNanoBEIREvaluator(datasets=("msmarko",))
