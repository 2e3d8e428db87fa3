"""Mining against loops over plain numbers, its promises about chance and interruption, and its messages."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError, DataError
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.util import mine_hard_negatives
from stpipe.util.mining import mine as mining_module
from stpipe.util.mining.formats import Names, tables
from stpipe.util.mining.mine import Mining
from stpipe.util.mining.pairs import Pairs, pair_up
from stpipe.util.mining.report import ReportBuilder, cost_of, summary
from stpipe.util.mining.retriever import Retriever, Scorer, weights_identity
from stpipe.util.mining.rules import NAMES, Candidates, judge
from stpipe.util.mining.settings import Rules
from tests.models.tiny import make_encoder
from tests.util.mining_case import by_loop, grouped, pairs, retriever, save_reranker

QUIET = {"verbose": False}
PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "range": {"range_min": 3, "range_max": 12, "num_negatives": 5},
    "relative": {"relative_margin": 0.02, "num_negatives": 4},
    "absolute": {"absolute_margin": 0.01, "num_negatives": 2},
    "scores": {"max_score": 0.9, "min_score": 0.6},
    "all": {"absolute_margin": 0.005, "relative_margin": 0.03, "max_score": 0.93, "min_score": 0.5, "range_min": 1, "num_negatives": 6},
}


def problem() -> tuple[Pairs, np.ndarray, list[list[int]]]:
    """Pairs, scores of all documents as a loop sees them, positives of each query."""
    data = pairs()
    found = pair_up(data["question"], data["answer"])
    model = retriever()
    a, b = (model.encode(list(texts)).astype(np.float64) for texts in (found.queries, found.corpus))
    rows = [[float(np.float32(sum(x * y for x, y in zip(q, d, strict=True)))) for d in b.tolist()] for q in a.tolist()]
    own = [found.positives[found.offsets[i] : found.offsets[i + 1]].tolist() for i in range(len(found))]
    return found, np.array(rows), own


def mining(folder: Path, rules: Rules, *, data: Pairs | None = None, **options: Any) -> Mining:
    model = retriever()
    found = data or problem()[0]
    made = Retriever(model, "tiny", folder / "embeddings")
    return Mining(found, made, rules.resolved(found.most_rows, rescored=options.get("scorer") is not None), folder / "mined", **options)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_negatives_are_those_of_a_loop(name: str, tmp_path: Path) -> None:
    _, scores, own = problem()
    task = mining(tmp_path, Rules(**PARAMETERS[name]))
    chosen, taken = by_loop(scores, own, task.rules, depth=task.depth)
    blocks = list(task.blocks())
    negatives = [[doc for doc in row if doc != -1] for block in blocks for row in block.negatives.tolist()]
    assert negatives == chosen and sum(map(len, chosen)) > 25
    counts = {rule: sum(int((b.verdicts == NAMES.index(rule)).sum()) for b in blocks) for rule in taken}
    assert counts == taken
    assert bool(taken) == task.rules.uses_scores


def test_no_positive_is_ever_a_negative() -> None:
    data = pairs()
    own = {q: set(docs) for q, docs in grouped(data, "question", "answer").items()}
    assert max(map(len, own.values())) == 3
    for kind in ("triplet", "labeled-pair"):
        mined = mine_hard_negatives(data, retriever(), num_negatives=8, output_format=kind, **QUIET)
        column = "negative" if kind == "triplet" else "answer"
        rows = [r for r in mined if kind == "triplet" or r["label"] == 0]
        assert len(rows) > 300
        assert not any(r[column] in own[r["question"]] for r in rows)


def test_a_document_that_answers_two_queries_is_a_negative_of_the_others_only() -> None:
    data = pairs()
    shared = data["answer"][30]
    mined = mine_hard_negatives(data, retriever(), num_negatives=40, output_format="triplet", **QUIET)
    asked = {r["question"] for r in mined if r["negative"] == shared}
    assert asked and not asked & {data["question"][30], data["question"][31]}


def test_margins_look_at_the_lowest_positive() -> None:
    """Two positives of very different score: a negative must stay below the lower one."""
    scores = np.array([[0.9, 0.8, 0.5, 0.45, 0.2]], np.float32)
    positive = np.array([[True, False, True, False, False]])
    found = Candidates(np.arange(5)[None], scores, positive, np.array([0.5], np.float32))
    rules = Rules(absolute_margin=0.0, range_max=5)
    assert [NAMES[v] for v in judge(found, rules)[0]] == ["positive", "absolute_margin", "positive", "eligible", "eligible"]
    rules = Rules(relative_margin=0.1, range_max=5)  # 0.5 - 0.05 = 0.45 is not exceeded
    assert [NAMES[v] for v in judge(found, rules)[0]][3] == "eligible"


def test_the_relative_margin_keeps_its_sense_below_zero() -> None:
    scores = np.array([[-1.0, -1.05, -1.2]], np.float32)
    found = Candidates(np.arange(3)[None], scores, np.array([[True, False, False]]), np.array([-1.0], np.float32))
    assert [NAMES[v] for v in judge(found, Rules(relative_margin=0.1, range_max=3))[0]] == ["positive", "relative_margin", "eligible"]


def test_a_corpus_of_its_own_comes_first_and_keeps_the_positives() -> None:
    data = pairs(10)
    corpus = [f"w{i} w{i + 1}" for i in range(30)] + [data["answer"][0]]
    mined = mine_hard_negatives(data, retriever(), corpus=corpus, num_negatives=10, output_format="n-tuple", **QUIET)
    used = {r[f"negative_{i}"] for r in mined for i in range(1, 11)}
    assert used & set(corpus) and used <= set(corpus) | set(data["answer"])
    assert pair_up(data["question"], data["answer"], corpus).corpus[:31] == corpus


def test_random_draws_are_by_seed_and_by_query() -> None:
    data, options = pairs(), {"sampling_strategy": "random", "num_negatives": 3, "range_max": 30, **QUIET}

    def drawn(rows: datasets.Dataset, **changes: Any) -> dict[str, list[str]]:
        return grouped(mine_hard_negatives(rows, retriever(), output_format="triplet", **{**options, **changes}), "question", "negative")

    one, two, other = drawn(data), drawn(data), drawn(data, seed=13)
    assert one == two and one != other
    assert one != drawn(data, sampling_strategy="top")
    pool = grouped(mine_hard_negatives(data, retriever(), num_negatives=30, range_max=30, **QUIET), "question", "negative")
    assert all(set(docs) <= set(pool[q]) for q, docs in one.items())


def test_random_draws_reach_every_candidate_alike(tmp_path: Path) -> None:
    from stpipe.util.mining.choose import random_of

    verdicts = np.zeros((3000, 8), np.uint8)
    verdicts[:, 2] = 3  # a positive
    counts = np.bincount(random_of(verdicts, 3, seed=1, first_query=0).reshape(-1), minlength=8)
    assert counts[2] == 0 and abs(counts[[0, 1, 3, 4, 5, 6, 7]] - 3000 * 3 / 7).max() < 150
    parts = [random_of(verdicts[a:b], 3, seed=1, first_query=a) for a, b in ((0, 700), (700, 3000))]
    assert np.array_equal(np.concatenate(parts), random_of(verdicts, 3, seed=1, first_query=0))


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_mining_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    monkeypatch.setattr(mining_module, "BLOCK", 10)
    rules = Rules(relative_margin=0.02, sampling_strategy="random")
    whole = list(mining(tmp_path / "whole", rules).blocks())
    original, done = Mining._block, []

    def counted(self: Mining, *args: Any) -> Any:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(args[0].start)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Mining, "_block", counted)
        with pytest.raises(KeyboardInterrupt):
            list(mining(tmp_path / "cut", rules).blocks())
    assert done == [0, 10, 20][:stop]
    again = list(mining(tmp_path / "cut", rules).blocks())
    assert len(again) == len(whole) == 6
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*.npy")} for root in (tmp_path / "whole", tmp_path / "cut")]
    assert files[0] == files[1] and len(files[0]) > 30


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = Rules(num_negatives=4, absolute_margin=0.01, sampling_strategy="random")
    found: list[list[dict[str, Any]]] = []
    for size in (1000, 7):
        monkeypatch.setattr(mining_module, "BLOCK", size)
        task = mining(tmp_path / str(size), rules)
        rows = [
            row for t in tables(task.blocks(), task.pairs, output_format="triplet", scores=True, names=Names()) for row in t.to_pylist()
        ]
        found.append(rows)
    assert found[0] == found[1] and len(found[0]) > 100


def test_a_second_call_encodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mine_hard_negatives(pairs(), retriever(), cache_folder=tmp_path, **QUIET)
    for name in ("encode_query", "encode_document"):
        monkeypatch.setattr(SentenceTransformer, name, lambda self, *a, **k: pytest.fail("encoded again"))
    again = mine_hard_negatives(pairs(), retriever(), cache_folder=tmp_path, num_negatives=5, output_format="n-tuple", **QUIET)
    assert len(first) > 100 and len(again) > 50


def test_other_weights_do_not_share_a_cache(tmp_path: Path) -> None:
    other = SentenceTransformer(modules=list(make_encoder("bert", seed=9).stack), device="cpu")
    assert weights_identity(other) != weights_identity(retriever())
    with torch.no_grad():
        same = SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu")
        assert weights_identity(same) == weights_identity(retriever())
        next(same.parameters()).view(-1)[0] += 1e-3
        assert weights_identity(same) != weights_identity(retriever())
    one = mine_hard_negatives(pairs(), retriever(), cache_folder=tmp_path, **QUIET)
    two = mine_hard_negatives(pairs(), other, cache_folder=tmp_path, **QUIET)
    assert one["negative"][:] != two["negative"][:]


def test_a_cross_encoder_scores_candidates_and_positives(tmp_path: Path) -> None:
    found, scores, own = problem()
    model = CrossEncoder(str(save_reranker(tmp_path / "reranker")), device="cpu")
    asked = [(q, d) for q in found.queries for d in found.corpus]
    exact = model.predict(asked).astype(np.float32).reshape(len(found), -1)
    assert exact.std() > 0.01
    rules = Rules(max_score=float(np.quantile(exact, 0.6)), num_negatives=4)
    task = mining(tmp_path, rules, scorer=Scorer(model, "reranker"))
    chosen, taken = by_loop(exact, own, task.rules, depth=task.depth, order=scores)
    blocks = list(task.blocks())
    assert len(blocks) == 1 and taken["max_score"] > 50
    close = [[doc for doc in row if doc != -1] for row in blocks[0].negatives.tolist()]
    # Batches of another make-up round differently: orders may differ where scores do not.
    same = sum(a == b for a, b in zip(close, chosen, strict=True))
    assert same > 0.9 * len(chosen)
    np.testing.assert_allclose(blocks[0].positive_scores, [exact[q, d] for q, docs in enumerate(own) for d in docs], atol=1e-5)


def test_a_cross_encoder_without_limits_has_no_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CrossEncoder(str(save_reranker(tmp_path / "reranker")), device="cpu")
    with caplog.at_level(logging.WARNING, logger="stpipe"):
        mined = mine_hard_negatives(pairs(), retriever(), cross_encoder=model, **QUIET)
    assert "the cross-encoder is not used" in caplog.text
    assert mined[:] == mine_hard_negatives(pairs(), retriever(), **QUIET)[:]


def test_a_classifier_is_no_cross_encoder_for_mining(tmp_path: Path) -> None:
    model = CrossEncoder(str(save_reranker(tmp_path / "classes", num_labels=3)), device="cpu")
    with pytest.raises(ConfigError, match="gives 3 values a pair; mining needs a model with one output"):
        mine_hard_negatives(pairs(), retriever(), cross_encoder=model, max_score=1.0, **QUIET)


def test_a_sparse_model_mines_by_its_inverted_index(tmp_path: Path) -> None:
    from tests.models.tiny_splade import splade_model

    model = splade_model()
    data = pairs(20)
    mined = mine_hard_negatives(data, model, num_negatives=2, output_format="n-tuple", output_scores=True, **QUIET)
    queries, docs = (model.encode(list(mined[c]), convert_to_sparse_tensor=False).double() for c in ("question", "negative_1"))
    np.testing.assert_allclose([s[1] for s in mined["scores"]], (queries * docs).sum(1).numpy(), rtol=1e-5)
    assert len(mined) > 10
    with pytest.raises(ConfigError, match="FAISS holds dense vectors"):
        mine_hard_negatives(data, model, use_faiss=True, **QUIET)


def test_faiss_gives_the_same_rows() -> None:
    pytest.importorskip("faiss")
    options = {"relative_margin": 0.02, "num_negatives": 5, "output_scores": True, **QUIET}
    assert (
        mine_hard_negatives(pairs(), retriever(), **options)[:] == mine_hard_negatives(pairs(), retriever(), use_faiss=True, **options)[:]
    )


def test_prompts_reach_the_model() -> None:
    plain = mine_hard_negatives(pairs(), retriever(), output_scores=True, **QUIET)
    asked = mine_hard_negatives(pairs(), retriever(), query_prompt="query : ", output_scores=True, **QUIET)
    assert plain["scores"][0] != asked["scores"][0]
    model = SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu", prompts={"ask": "query : "})
    named = mine_hard_negatives(pairs(), model, query_prompt_name="ask", output_scores=True, **QUIET)
    np.testing.assert_allclose(np.array(named["scores"][:]), np.array(asked["scores"][:]), atol=1e-6)
    assert named["negative"][:] == asked["negative"][:]


def test_the_report_counts_what_happened(tmp_path: Path) -> None:
    found, scores, own = problem()
    task = mining(tmp_path, Rules(relative_margin=0.02, max_score=0.97, num_negatives=3))
    chosen, taken = by_loop(scores, own, task.rules, depth=task.depth)
    builder = ReportBuilder(found, task.rules)
    for block in task.blocks():
        builder.add(block)
    report = builder.report(task.blocks(), settings=task.rules.as_dict(), pool=task.depth, cost=cost_of(0, lambda rows: [], None))
    assert report.negatives == sum(map(len, chosen)) and report.rows == 60
    assert report.short == sum(len(docs) < 3 for docs in chosen) and report.none == sum(not docs for docs in chosen)
    assert {r.rule: r.dropped for r in report.rules if r.dropped} == taken
    pooled = [sorted(range(scores.shape[1]), key=lambda d: (-row[d], d))[: task.depth] for row in scores]
    candidates = sum(len(set(pool) - set(docs)) for pool, docs in zip(pooled, own, strict=True))
    assert report.candidates == candidates
    assert report.rules[0].share == pytest.approx(taken["relative_margin"] / candidates)
    assert report.first == pytest.approx(sum(pool[0] in docs for pool, docs in zip(pooled, own, strict=True)) / len(found))
    assert report.found == pytest.approx(
        sum(len(set(pool) & set(docs)) for pool, docs in zip(pooled, own, strict=True)) / len(found.positives)
    )
    kept = [scores[q, d] for q, docs in enumerate(chosen) for d in docs]
    assert report.scores["negatives"]["mean"] == pytest.approx(np.mean(kept), abs=1e-6)
    assert report.scores["negatives"]["median"] == pytest.approx(np.median(kept), abs=1e-6)
    assert sum(report.histogram["negatives"]) == len(kept) and sum(report.histogram["dropped"]) == sum(taken.values())
    gaps = [s.score - s.positive_score for s in report.suspects]
    assert len(gaps) == 20 and gaps == sorted(gaps, reverse=True)
    worst = max(
        scores[q, d] - min(scores[q, p] for p in docs)
        for q, (pool, docs) in enumerate(zip(pooled, own, strict=True))
        for d in set(pool) - set(docs)
    )
    assert gaps[0] == pytest.approx(worst, abs=1e-6) and report.suspects[0].verdict == "relative_margin"
    assert report.above == 0
    text = "\n".join(report.lines())
    assert f"{report.negatives:,} negatives" in text and "relative_margin=0.02 took out" in text


def test_negatives_above_their_positive_are_counted(tmp_path: Path) -> None:
    found, scores, own = problem()
    task = mining(tmp_path, Rules(num_negatives=3))
    chosen, _ = by_loop(scores, own, task.rules, depth=task.depth)
    builder = ReportBuilder(found, task.rules)
    for block in task.blocks():
        builder.add(block)
    above = sum(scores[q, d] > min(scores[q, p] for p in own[q]) for q, docs in enumerate(chosen) for d in docs)
    assert builder.above == above > 0


def test_the_cost_is_estimated_from_a_sample() -> None:
    rows = [["query", "doc"] + ["more"] * (i % 2) for i in range(3000)]
    cost = cost_of(3000, lambda numbers: [rows[i] for i in numbers], lambda texts: [len(t) for t in texts])
    assert (cost.rows, cost.sampled) == (3000, cost.sampled) and 1000 < cost.sampled < 1600
    assert cost.pairs == pytest.approx(4500, rel=0.02) and cost.texts == cost.pairs + 3000
    assert cost.tokens == pytest.approx(sum(len(t) for row in rows for t in row), rel=0.02)
    assert cost_of(0, lambda numbers: [], None).pairs == 0 and summary(np.zeros(0, np.float32)) == {}


def test_verbose_prints_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    mine_hard_negatives(pairs(), retriever())
    text = capsys.readouterr().out
    assert "encode document: " in text and "negatives for 57 queries (60 rows)" in text and "one pass over the output" in text
    mine_hard_negatives(pairs(), retriever(), **QUIET)
    assert capsys.readouterr().out == ""


def test_a_model_without_a_pool_says_that_it_computes_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stpipe"):
        mine_hard_negatives(pairs(5), retriever(), num_negatives=1, use_multi_process=True, **QUIET)
    assert "use_multi_process: SentenceTransformer has no pool" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives: found 0, expected at least 1"),
        ({"range_min": -1}, "range_min: found -1, expected at least 0"),
        ({"range_max": 4, "range_min": 2}, r"3 negatives are wanted, but ranks 2 \(range_min\) to 4 \(range_max\) are 2"),
        ({"sampling_strategy": "rand"}, "Did you mean 'random'"),
        ({"output_format": "triplets"}, "Did you mean 'triplet'"),
        ({"anchor_column_name": "questoin"}, "Did you mean 'question'"),
        ({"faiss_batch_size": 0}, "faiss_batch_size: found 0"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mine_hard_negatives(pairs(5), retriever(), **{**QUIET, **options})


def test_data_that_cannot_be_mined() -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        mine_hard_negatives(datasets.Dataset.from_dict({"a": [], "b": []}), retriever(), **QUIET)
    with pytest.raises(DataError, match=r"row 1: found None as the positive"):
        mine_hard_negatives(datasets.Dataset.from_dict({"a": ["w1", "w2"], "b": ["w3", None]}), retriever(), **QUIET)
    with pytest.raises(ConfigError, match="expected one of anchors and one of positives"):
        mine_hard_negatives(datasets.Dataset.from_dict({"a": ["w1"]}), retriever(), **QUIET)


def test_columns_are_found_by_name_or_place() -> None:
    data = pairs(12).add_column("id", list(range(12))).select_columns(["id", "answer", "question"])
    mined = mine_hard_negatives(data, retriever(), anchor_column_name="question", positive_column_name="answer", num_negatives=1, **QUIET)
    assert mined.column_names == ["question", "answer", "negative"]
    other = pairs(12).select_columns(["answer", "question"])
    assert mine_hard_negatives(other, retriever(), anchor_column_name="question", num_negatives=1, **QUIET)[:] == mined[:]


def test_old_parameters(caplog: pytest.LogCaptureFixture) -> None:
    data = pairs()
    with caplog.at_level(logging.WARNING, logger="stpipe"):
        old = mine_hard_negatives(data, retriever(), as_triplets=False, margin=0.01, **QUIET)
        scored = mine_hard_negatives(data, retriever(), output_format="n-tuple-scores", **QUIET)
    assert old[:] == mine_hard_negatives(data, retriever(), output_format="n-tuple", absolute_margin=0.01, **QUIET)[:]
    assert scored.column_names[-1] == "scores"
    for text in ("as_triplets is old", "margin is old", "'n-tuple-scores' is old"):
        assert text in caplog.text


def test_positives_stay_among_the_candidates_where_that_is_asked_for() -> None:
    data = pairs()
    mined = mine_hard_negatives(data, retriever(), include_positives=True, num_negatives=20, output_format="triplet", **QUIET)
    own = {q: set(docs) for q, docs in grouped(data, "question", "answer").items()}
    listed = [{r[f"negative_{i}"] for i in range(1, 21)} & own[r["question"]] for r in mined]
    assert sum(map(bool, listed)) > 15
