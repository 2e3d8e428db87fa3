"""mine_hard_negatives against that of sentence-transformers: the same rows, in the same order, with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sentence_transformers import CrossEncoder as PeerReranker
from sentence_transformers import SentenceTransformer as PeerModel
from sentence_transformers.util import mine_hard_negatives as theirs

from stpipe.models import CrossEncoder, SentenceTransformer
from stpipe.util import mine_hard_negatives as ours
from tests.models.tiny import make_texts
from tests.util.mining_case import pairs, retriever, save_reranker

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "range": {"range_min": 4, "range_max": 15, "num_negatives": 6},
    "skip nearest": {"range_min": 5, "num_negatives": 2},
    "absolute margin": {"absolute_margin": 0.004, "num_negatives": 2},
    "relative margin": {"relative_margin": 0.02},
    "old margin": {"margin": 0.01},
    "scores": {"max_score": 0.95, "min_score": 0.7},
    "all": {"absolute_margin": 0.002, "relative_margin": 0.01, "max_score": 0.97, "min_score": 0.5, "range_min": 1, "range_max": 40},
    "too many": {"num_negatives": 50},
    "more than the corpus": {"range_max": 100, "num_negatives": 100},
    "corpus": {"corpus": make_texts(90, seed=7, longest=12), "num_negatives": 4},
    "prompts": {"query_prompt": "query : ", "corpus_prompt": "document : "},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceTransformer, PeerModel]:
    """One random model, in both libraries."""
    folder = tmp_path_factory.mktemp("retriever")
    retriever().save_pretrained(folder)
    return retriever(), PeerModel(str(folder), device="cpu")


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> tuple[CrossEncoder, PeerReranker]:
    folder = save_reranker(tmp_path_factory.mktemp("reranker"))
    return CrossEncoder(str(folder), device="cpu"), PeerReranker(str(folder), device="cpu")


def both(models: tuple[Any, Any], data: datasets.Dataset, **options: Any) -> tuple[datasets.Dataset, datasets.Dataset]:
    return ours(data, models[0], verbose=False, **options), theirs(data, models[1], verbose=False, **options)


def same(found: datasets.Dataset, expected: datasets.Dataset, *, at_least: int = 20, tolerance: float = 2e-6) -> None:
    assert found.column_names == expected.column_names and found.features == expected.features
    assert len(found) == len(expected) >= at_least
    for name in found.column_names:
        if name in ("score", "scores"):
            mine, its = (np.concatenate([np.ravel(v) for v in column]) for column in (found[name], expected[name]))
            np.testing.assert_allclose(mine, its, atol=tolerance)
            assert np.std(its) > 1e-3
        else:
            assert found[name][:] == expected[name][:], name


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("name", list(PARAMETERS))
def test_rows_are_theirs(models: tuple[Any, Any], name: str, output_format: str) -> None:
    least = 0 if (name in ("too many", "more than the corpus") and output_format == "n-tuple") else 10
    found, expected = both(models, pairs(), output_format=output_format, output_scores=True, **PARAMETERS[name])
    if len(expected) == 0:  # their columns have no type then
        assert least == 0 and len(found) == 0 and found.column_names == expected.column_names
    else:
        same(found, expected, at_least=least)


@pytest.mark.parametrize("output_format", FORMATS)
def test_rows_without_scores_are_theirs(models: tuple[Any, Any], output_format: str) -> None:
    found, expected = both(models, pairs(), output_format=output_format, **PARAMETERS["all"])
    same(found, expected, at_least=10)


@pytest.mark.parametrize("name", ["plain", "all", "corpus"])
def test_their_model_can_be_given(models: tuple[Any, Any], name: str) -> None:
    found, expected = both((models[1], models[1]), pairs(), output_scores=True, **PARAMETERS[name])
    same(found, expected)


@pytest.mark.parametrize("name", ["plain", "relative margin", "more than the corpus"])
def test_faiss_is_theirs(models: tuple[Any, Any], name: str) -> None:
    pytest.importorskip("faiss")
    found, expected = both(models, pairs(), output_format="labeled-list", output_scores=True, use_faiss=True, **PARAMETERS[name])
    same(found, expected, at_least=10)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    "limits",
    [{"max_score": 0.11}, {"min_score": 0.1, "num_negatives": 2}, {"absolute_margin": 0.005}, {"relative_margin": 0.05, "range_min": 1}],
    ids=lambda limits: next(iter(limits)),
)
def test_a_cross_encoder_scores_as_theirs_does(
    models: tuple[Any, Any], rerankers: tuple[CrossEncoder, PeerReranker], limits: dict[str, Any], output_format: str
) -> None:
    options = {"output_format": output_format, "output_scores": True, "verbose": False, **limits}
    found = ours(pairs(), models[0], cross_encoder=rerankers[0], **options)
    expected = theirs(pairs(), models[1], cross_encoder=rerankers[1], **options)
    same(found, expected, tolerance=1e-5)


def test_positives_among_the_candidates(models: tuple[Any, Any]) -> None:
    found, expected = both(models, pairs(), include_positives=True, num_negatives=12, output_format="n-tuple", output_scores=True)
    same(found, expected)


@pytest.mark.slow
def test_real_text_and_a_real_model(package_model: Path) -> None:
    from stpipe.data.docstrings import docstring_pairs

    chosen = docstring_pairs()["test"][:64]
    data = datasets.Dataset.from_dict({"anchor": [p.query[:80] for p in chosen], "positive": [p.document[:160] for p in chosen]})
    models = SentenceTransformer(str(package_model), device="cpu"), PeerModel(str(package_model), device="cpu")
    options = {"relative_margin": 0.05, "max_score": 0.8, "num_negatives": 5, "range_min": 1, "output_scores": True}
    same(*both(models, data, **options), at_least=100)


def test_random_negatives_come_from_the_same_candidates(models: tuple[Any, Any]) -> None:
    """Their draws are by Python's global generator, ours by a seed; what can be drawn, and how many are, is the same."""
    options = {"range_max": 12, "num_negatives": 4, "relative_margin": 0.01, "sampling_strategy": "random"}
    found, expected = both(models, pairs(), output_format="labeled-list", **options)
    assert [len(d) for d in found["answer"]] == [len(d) for d in expected["answer"]] and found["question"][:] == expected["question"][:]
    pool = ours(
        pairs(), models[0], output_format="labeled-list", **{**options, "num_negatives": 12, "sampling_strategy": "top"}, verbose=False
    )
    may = dict(zip(pool["question"], map(set, pool["answer"]), strict=True))
    for side in (found, expected):
        assert sum(set(docs[1:]) <= may[q] for q, docs in zip(side["question"], side["answer"], strict=True)) == len(side)
