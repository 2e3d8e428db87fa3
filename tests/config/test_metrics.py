"""Names of metrics from facts and values, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.metrics import configured_metrics, expand, metric, metric_facts

RETRIEVAL = metric_facts(metric("{similarity}_ndcg@{k}", ks="ndcg_at_k"), metric("{similarity}_mrr@{k}", ks="mrr_at_k"))
SIMILAR = metric_facts(metric("spearman_{similarity}"), metric("cut_{similarity}", better=None), maximum=True)
LOSS = metric_facts(metric("loss", better="lower"))
FACTS = {"retrieval": RETRIEVAL, "similar": SIMILAR, "all": metric_facts(metric("score"), children="parts")}


def test_templates_expand_over_functions_and_cutoffs() -> None:
    found = expand(RETRIEVAL, {"ndcg_at_k": [10, 3, 10], "mrr_at_k": 5, "similarities": ["cosine", "dot"]}, similarity="euclidean")
    assert found.names == ("cosine_ndcg@10", "cosine_ndcg@3", "cosine_mrr@5", "dot_ndcg@10", "dot_ndcg@3", "dot_mrr@5")
    assert found.primary == "cosine_ndcg@10"


def test_the_models_similarity_is_used_when_none_is_named() -> None:
    assert expand(SIMILAR, {}, similarity="dot").names == ("spearman_dot", "cut_dot")


def test_maximum_exists_for_several_functions_only() -> None:
    found = expand(SIMILAR, {"similarities": ["cosine", "dot"]}, similarity="dot")
    assert found.names == ("spearman_cosine", "cut_cosine", "spearman_dot", "cut_dot", "spearman_max", "cut_max")
    assert found.primary == "spearman_max"
    main = expand(SIMILAR, {"similarities": ["cosine", "dot"], "main_similarity": "dot"}, similarity="cosine")
    assert main.primary == "spearman_dot"


def test_directions() -> None:
    assert expand(SIMILAR, {}, similarity="dot").greater_is_better("spearman_dot")
    assert not expand(LOSS, {}, similarity="dot").greater_is_better("loss")
    with pytest.raises(ConfigError, match="use spearman_dot"):
        expand(SIMILAR, {}, similarity="dot").greater_is_better("cut_dot")
    with pytest.raises(ConfigError, match="Did you mean 'spearman_dot'"):
        expand(SIMILAR, {}, similarity="dot").greater_is_better("spearmen_dot")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ndcg_at_k": [], "mrr_at_k": [1]}, "ndcg_at_k is empty"),
        ({"ndcg_at_k": [10, 0], "mrr_at_k": [1]}, "ndcg_at_k holds 0"),
        ({"ndcg_at_k": [1], "mrr_at_k": [1], "similarities": ["dot"], "main_similarity": "cosine"}, "main_similarity is 'cosine'"),
    ],
)
def test_values_that_give_no_metric_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(RETRIEVAL, values, similarity="cosine")


WIDE = metric_facts(
    metric("{similarity}_ndcg@{k}", ks="ndcg_at_k"),
    metric("active_dims", better=None, kinds=("sparse",)),
    metric("{similarity}_ndcg@{k}_at_{dims}_dims", ks="ndcg_at_k", kinds=("sparse",), over={"dims": "curve"}),
    metric("Nano{set}_score", over={"set": "sets"}),
    labels={"sets": {"nq": "NQ", "fever": "FEVER"}},
)


def test_metrics_of_one_kind_of_model_and_over_further_fields() -> None:
    values = {"ndcg_at_k": [3, 10], "curve": [16, 64, 16], "sets": ["fever"]}
    dense = expand(WIDE, values, similarity="dot")
    sparse = expand(WIDE, values, similarity="dot", kind="sparse")
    assert dense.names == ("dot_ndcg@3", "dot_ndcg@10", "NanoFEVER_score")
    assert set(sparse.names) - set(dense.names) == {
        "active_dims",
        *(f"dot_ndcg@{k}_at_{dims}_dims" for k in (3, 10) for dims in (16, 64)),
    }
    assert sparse.primary == dense.primary == "dot_ndcg@10" and sparse.better["active_dims"] is None
    everything = expand(WIDE, {**values, "sets": None, "curve": []}, similarity="dot", kind="sparse")
    assert "NanoNQ_score" in everything.names and not any("dims_dims" in name or "_at_" in name for name in everything.names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve": [16, 0]}, "curve holds 0"),
        ({"sets": ["nqq"]}, "sets: unknown name 'nqq'. Did you mean 'nq'"),
        ({"sets": []}, "sets is empty; name at least one of nq, fever"),
    ],
)
def test_further_fields_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(WIDE, {"ndcg_at_k": [10], "curve": [4], "sets": None, **changes}, similarity="dot", kind="sparse")


BY_OUTPUTS = metric_facts(
    metric("ap", outputs="one"), metric("f1_macro", outputs="classes"), metric("accuracy"), metric("cut", better=None, outputs="one")
)


def test_metrics_of_one_output_and_of_classes() -> None:
    one, classes = expand(BY_OUTPUTS, {}, similarity=""), expand(BY_OUTPUTS, {}, similarity="", outputs="classes")
    assert (one.names, one.primary) == (("ap", "accuracy", "cut"), "ap")
    assert (classes.names, classes.primary) == (("f1_macro", "accuracy"), "f1_macro")
    inner = {"name": "all", "parts": {"a": {"name": "pairs"}}}
    facts = {**FACTS, "pairs": BY_OUTPUTS}
    found = configured_metrics(inner, facts.__getitem__, similarity="", outputs="classes")
    assert found.names == ("a_f1_macro", "a_accuracy", "score")


def test_the_primary_metric_may_be_over_further_fields() -> None:
    facts = metric_facts(metric("R{depth}_ndcg@{k}", ks="at_k", over={"depth": "rerank_k"}), metric("map"))
    found = expand(facts, {"at_k": [3, 10], "rerank_k": 100}, similarity="")
    assert found.primary == "R100_ndcg@10" and found.names == ("R100_ndcg@3", "R100_ndcg@10", "map")


def test_inner_evaluators_of_a_configuration() -> None:
    values = {
        "name": "all",
        "parts": {
            "a": {"name": "similar", "similarities": None, "main_similarity": None},
            "b": {"name": "retrieval", "ndcg_at_k": [10], "mrr_at_k": []},
        },
    }
    found = configured_metrics(values, FACTS.__getitem__, similarity="cosine")
    assert found.names == ("a_spearman_cosine", "a_cut_cosine", "b_cosine_ndcg@10", "score")
    assert found.primary == "score"
    assert found.prefixed("dev").names[0] == "dev_a_spearman_cosine"


def test_names_need_no_torch() -> None:
    code = "import sys, stpipe.config.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
