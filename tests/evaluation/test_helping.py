"""Every evaluator in one process and in several: the same metrics, rankings and scores of each query, to the last bit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.config.errors import DataError
from stpipe.config.registry import EVALUATORS
from stpipe.core.peers import ConnectedPeers, PeerError, Peers
from stpipe.core.rows import Rows
from stpipe.evaluation import Evaluation, Evaluator, InformationRetrievalEvaluator, RerankingEvaluator, TripletEvaluator
from stpipe.evaluation.helping import with_all
from stpipe.evaluation.scan import Sweep
from stpipe.evaluation.spaces import space_of
from stpipe.models import SentenceTransformer
from tests.core.test_peers import together
from tests.evaluation.nano import write_local_copy
from tests.evaluation.toy import ToyModel, classed, classes_of_pairs, lists, pairs, scored, tuples
from tests.models.tiny import make_encoder
from tests.models.tiny_scores import make_cross_encoder
from tests.models.tiny_splade import splade_model

VECTORS = np.random.default_rng(0).normal(size=(40, 32)).tolist()
VECTOR_ROWS = Rows({"anchor": [f"w{i} b w{2 * i}" for i in range(40)]}, VECTORS, "text-vector", {})
#: In chunks of 8 documents there are some for each process alone, and some that all of them share.
IR: dict[str, Any] = {"corpus_chunk_size": 8, "query_chunk_size": 7, "bm25": None}
NANO: dict[str, Any] = {"datasets": ("msmarco", "nq")}

#: Registered name -> kind of model, settings, rows. OTHER stands for a model on disk.
CASES: dict[str, tuple[str, dict[str, Any], Rows]] = {
    "information_retrieval": ("dense", {**IR, "similarities": ("cosine", "euclidean")}, pairs()),
    "compressed_retrieval": ("dense", {**IR, "dims": (8,)}, pairs()),
    "embedding_similarity": ("dense", {"similarities": ("cosine", "manhattan")}, scored()),
    "reranking": ("dense", {"corpus_chunk_size": 30}, lists()),
    "triplet": ("dense", {}, tuples()),
    "binary_classification": ("dense", {}, classed()),
    "mse": ("dense", {}, VECTOR_ROWS),
    "translation": ("dense", {}, pairs()),
    "nano_beir": ("sparse", {**NANO, "corpus_chunk_size": 15}, pairs()),
    "reciprocal_rank_fusion": ("dense", {"other": "OTHER", "corpus_chunk_size": 9}, pairs()),
    "hybrid": ("sparse", {"other": "bm25", "depth": 12}, pairs()),
    "cross_encoder_reranking": ("cross_encoder", {}, lists()),
    "cross_encoder_correlation": ("cross_encoder", {}, scored()),
    "cross_encoder_classification": ("classes", {}, classes_of_pairs()),
    "cross_encoder_nano_beir": ("cross_encoder", {**NANO, "rerank_k": 6}, pairs()),
    "sequential": ("sparse", {"evaluators": {"a": TripletEvaluator(), "b": RerankingEvaluator()}}, tuples()),
}
#: Further settings of the same evaluators.
MORE: dict[str, tuple[str, dict[str, Any], Rows]] = {
    "information_retrieval sparse": ("sparse", {**IR, "active_dims_curve": (2, 8), "similarities": ("dot", "euclidean")}, pairs()),
    "information_retrieval one chunk": ("dense", {"bm25": None}, tuples()),
    "information_retrieval prompts": ("dense", {**IR, "query_prompt": "query : ", "corpus_prompt": "document : "}, pairs()),
    "triplet short": ("dense", {"truncate_dim": 7}, tuples(negatives=1)),
    "embedding_similarity sparse": ("sparse", {"max_active_dims": 5}, scored()),
}
ALL = {**CASES, **MORE}


def model_of(kind: str) -> Any:
    if kind in ("cross_encoder", "classes"):
        found: Any = make_cross_encoder("bert", num_labels=3 if kind == "classes" else 1)
    else:
        found = splade_model() if kind == "sparse" else SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu")
    found.max_seq_length = 16
    found.encoder.choose_layout()
    return found


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: model_of(kind) for kind in ("dense", "sparse", "cross_encoder", "classes")}


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Any]) -> dict[str, str]:
    """Collections, and another model."""
    folder = tmp_path_factory.mktemp("files")
    models["dense"].save_pretrained(folder / "other")
    return {"dataset_id": str(write_local_copy(folder / "nano", NANO["datasets"], bm25=True)), "other": str(folder / "other")}


def counted(model: Any) -> list[int]:
    """Grows by one with each forward."""
    forwards: list[int] = []
    model.encoder.stack[0].register_forward_hook(lambda *_: forwards.append(1))
    return forwards


def evaluated(size: int, model: Any, evaluator: Evaluator, rows: Rows) -> tuple[Evaluation, list[int]]:
    """What the evaluator finds in so many processes, and the forwards of each."""

    def part(peers: Peers) -> tuple[Evaluation | None, int]:
        own = copy.deepcopy(model)
        forwards = counted(own)
        found = with_all(peers, own, "evaluation", lambda: evaluator.evaluate(own, {"data": rows}, batch_size=1))
        return found, len(forwards)

    found = [part(Peers())] if size == 1 else together(*[part] * size)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    assert found[0][0] is not None and all(result is None for result, _ in found[1:])
    return found[0][0], [count for _, count in found]


def parts_of(found: Evaluation) -> list[Evaluation]:
    return [found, *(inner for part in found.parts.values() for inner in parts_of(part))]


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    for a, b in zip(parts_of(found), parts_of(expected), strict=True):
        np.testing.assert_equal(a.metrics, b.metrics)
        assert list(a.metrics) == list(b.metrics)
        assert a.per_query == b.per_query and a.run == b.run and a.qrels == b.qrels


def test_every_evaluator_is_tried() -> None:
    assert set(CASES) == set(EVALUATORS)


@pytest.mark.parametrize("name", list(ALL))
def test_several_processes_find_what_one_finds(name: str, models: dict[str, Any], on_disk: dict[str, str]) -> None:
    kind, settings, rows = ALL[name]
    settings = {key: on_disk["other"] if value == "OTHER" else value for key, value in settings.items()}
    if "datasets" in settings:
        settings["dataset_id"] = on_disk["dataset_id"]
    evaluator = EVALUATORS.get(name.split()[0])(**settings)
    expected, (alone,) = evaluated(1, models[kind], evaluator, rows)
    assert alone >= 8 and len(expected.metrics) > 0
    size = 3 if "corpus_chunk_size" in settings else 2
    found, counts = evaluated(size, models[kind], evaluator, rows)
    assert_equal(found, expected)
    assert sum(counts) == alone and min(counts) > alone / size / 3, counts


def test_four_processes(models: dict[str, Any]) -> None:
    evaluator = InformationRetrievalEvaluator(**IR)
    expected, (alone,) = evaluated(1, models["dense"], evaluator, pairs())
    found, counts = evaluated(4, models["dense"], evaluator, pairs())
    assert_equal(found, expected)
    assert expected.run is not None and len({doc for docs in expected.run.values() for doc in docs}) > 30
    assert sum(counts) == alone and min(counts) > 0


def test_equal_scores_are_merged_by_document_number() -> None:
    space = space_of(ToyModel())
    queries, docs = torch.ones(3, 4).double(), torch.ones(10, 4).double()
    numbers = np.random.default_rng(0).permutation(10)
    one, first, second = (Sweep(space, queries, ("cosine",), 6) for _ in range(3))
    one.take_in(docs, np.arange(10), 2)
    first.take_in(docs[:7], np.sort(numbers[:7]), 3)
    second.take_in(docs[7:], np.sort(numbers[7:]), 1)
    second.merge(first.as_tensors())
    found = second.found().rankings["cosine"]
    assert found.docs.tolist() == one.found().rankings["cosine"].docs.tolist() == [list(range(6))] * 3


def test_an_error_of_rank_0_ends_the_others(models: dict[str, Any]) -> None:
    def part(peers: ConnectedPeers) -> None:
        def work() -> None:
            models["dense"].encode(["w1"] * 9)
            raise DataError("no labels")

        with_all(peers, models["dense"], "evaluation", work)

    found = together(part, part)
    assert isinstance(found[0], DataError)
    assert isinstance(found[1], PeerError) and found[1].failure.message == "no labels"


def test_an_error_of_another_rank_ends_rank_0(models: dict[str, Any]) -> None:
    def breaks(*_: Any) -> None:
        raise DataError("out of memory here")

    def part(peers: ConnectedPeers) -> None:
        own = copy.deepcopy(models["sparse"])
        if peers.rank == 2:
            own.encoder.stack[0].register_forward_hook(breaks)
        with_all(peers, own, "evaluation", lambda: InformationRetrievalEvaluator(**IR)(own, pairs(), batch_size=1))

    found = together(part, part, part)
    assert isinstance(found[0], PeerError) and (found[0].failure.rank, found[0].exit_code) == (2, 3)
    assert "out of memory here" in str(found[0]) and isinstance(found[1], PeerError) and isinstance(found[2], DataError)
