from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

PAIRS = ["model=minilm", "dataset=docstrings", "evaluator=retrieval"]
SCORES = ["model=minilm", "dataset=docstrings", "dataset.format=pair-score", "evaluator=sts"]
TWO = ["model=minilm", "dataset.sources={a: {train: 'stdlib://docstrings'}, b: {train: 'stdlib://docstrings?format=pair-score'}}"]


def problems(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    return {p.key: p.message for p in caught.value.problems}


@pytest.mark.parametrize("overrides", [PAIRS, SCORES, TWO])
def test_the_base_configurations_are_valid(overrides):
    assert load_config(overrides).values


@pytest.mark.parametrize(
    ("overrides", "key", "parts"),
    [
        ([*PAIRS, "loss=cosent"], "loss.name", ["'cosent' trains on pair-score", "is pair", "dataset.format", "mnrl"]),
        ([*PAIRS, "loss=matryoshka", "loss.dims=[8]", "loss.loss={name: cosent}"], "loss.loss.name", ["'cosent'"]),
        (
            [*PAIRS, "loss=sum", "loss.terms={a: {loss: {name: mnrl}}, b: {loss: {name: cosent}}}"],
            "loss.terms.b.loss.name",
            ["'cosent' trains"],
        ),
        ([*TWO, "dataset.sources.b.loss={name: mnrl}"], "dataset.sources.b.loss.name", ["data set 'b' is pair-score"]),
        ([*TWO, "evaluator=retrieval"], "evaluator.dev.source", ["required with several data sets", "a, b"]),
        ([*TWO, "evaluator=retrieval", "evaluator.dev.source=c"], "evaluator.dev.source", ["unknown data set 'c'"]),
        (
            [*TWO, "evaluator=retrieval", "evaluator.dev.source=b"],
            "evaluator.dev.name",
            ["data set 'b' is pair-score", "embedding_similarity"],
        ),
        ([*PAIRS, "evaluator=sts"], "evaluator.dev.name", ["reads pair-score"]),
        ([*PAIRS, "trainer.precision=fp16", "trainer.device=cpu"], "trainer.precision", ["trainer.device is cpu"]),
        ([*PAIRS, "sampler=group_by_label"], "sampler.name", ["needs a class"]),
        (
            [*PAIRS, "trainer.best_metric=dev_cosine_ndcg@1"],
            "trainer.best_metric",
            ["Did you mean 'dev_cosine_ndcg@10'?", "dev_cosine_map@100"],
        ),
        (["model=minilm", "dataset=docstrings", "trainer.best_metric=x"], "trainer.best_metric", ["no evaluator"]),
        (
            [*PAIRS, "trainer.early_stopping_patience=2", "trainer.eval_steps=5"],
            "trainer.early_stopping_patience",
            ["needs trainer.best_metric"],
        ),
        (
            [*PAIRS, "trainer.early_stopping_patience=2", "trainer.best_metric=dev_cosine_mrr@10"],
            "trainer.early_stopping_patience",
            ["eval_steps"],
        ),
        ([*PAIRS, "dataset.columns={anchr: a, positive: b}"], "dataset.columns.anchr", ["unknown role", "'anchor'"]),
        ([*PAIRS, "dataset.max_length={positve: 3}"], "dataset.max_length.positve", ["'positive'"]),
        ([*PAIRS, "dataset.prompts={negative_1: x}"], "dataset.prompts.negative_1", ["no role 'negative_1'", "anchor, positive"]),
        ([*TWO, "dataset.max_length={query: 3}"], "dataset.max_length.query", ["no role 'query'"]),
        ([*PAIRS, "dataset.columns={anchor: a}"], "dataset.columns", ["format pair has the roles anchor, positive"]),
        ([*PAIRS, "dataset.train=null"], "dataset.train", ["required: there is no training data"]),
        ([*TWO, "dataset.train=x"], "dataset.train", ["not both"]),
        ([*PAIRS, "dataset.train=./not/there.jsonl"], "dataset.train", ["there is no file or directory"]),
        (
            [*PAIRS, "model.name_or_path=package://no_such_package/model"],
            "model.name_or_path",
            ["'no_such_package', which is not installed"],
        ),
        ([*PAIRS, "loss=matryoshka", "loss.loss={name: mnrl}", "loss.dims=[8,8]"], "loss.dims", ["twice"]),
        (
            [*PAIRS, "loss=matryoshka", "loss.loss={name: mnrl}", "loss.dims=[8,4]", "loss.weights=[1]"],
            "loss.weights",
            ["1 values for 2 dims"],
        ),
        (
            [*PAIRS, "loss=matryoshka", "loss.loss={name: mnrl}", "loss.dims=[8,4]", "model.dense=[{out_features: 4}]"],
            "loss.dims",
            ["model.dense"],
        ),
        ([*PAIRS, "evaluator.dev.ndcg_at_k=[]"], "evaluator.dev", ["ndcg_at_k is empty"]),
        (
            [*PAIRS, "dataset.train=pairs.jsonl", "dataset.embedded=true", "dataset.format=null"],
            "dataset.format",
            ["required for embedded data"],
        ),
    ],
)
def test_what_cannot_work_is_refused(overrides, key, parts):
    found = problems(*overrides)
    assert key in found
    for part in parts:
        assert part in found[key]


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ([*PAIRS, "trainer.batch_size=4"], "few for a loss with in-batch negatives"),
        ([*PAIRS, "trainer.accumulation_steps=4"], "adds no in-batch negatives"),
        ([*PAIRS, "sampler=random"], "sampler=no_duplicates"),
        ([*SCORES, "loss=cosine_similarity"], "cosent usually gives better results"),
        ([*PAIRS, "model.similarity=dot", "loss=mnrl"], "trained for one and used with the other"),
        ([*TWO, "dataset.sources.a.weight=2"], "unless sampler.mixing=weighted"),
        ([*PAIRS, "trainer.best_metric=dev_cosine_mrr@10"], "one evaluation to choose from"),
        (["model=minilm", "dataset=docstrings"], "there is no evaluator"),
        (["model=minilm", "dataset=docstrings", "trainer.eval_steps=5"], "eval_steps is ignored"),
        ([*PAIRS, "dataset.train=pairs.jsonl", "dataset.format=null"], "the loss follows from the data's format"),
    ],
)
def test_what_is_likely_not_meant_is_a_warning(overrides, part):
    warnings = load_config(overrides).warnings
    assert [w for w in warnings if part in w], warnings


def test_good_practice_is_the_default():
    loaded = load_config([*PAIRS, "trainer.batch_size=64"])
    assert loaded.values["sampler"]["name"] == "no_duplicates"
    assert loaded.values["loss"]["name"] == "mnrl"
    assert not loaded.warnings


def test_every_metric_of_the_report_can_be_chosen_by():
    names = load_config(PAIRS).metrics
    assert "dev_cosine_ndcg@10" in names
    assert len(names) >= 15
    for name in (names[0], names[-1]):
        assert load_config([*PAIRS, f"trainer.best_metric={name}", "trainer.eval_steps=0.5"]).values["trainer"]["best_metric"] == name
