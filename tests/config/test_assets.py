from __future__ import annotations

import pytest

from stpipe.config.assets import Asset, assets, is_on_hub
from stpipe.config.load import load_config


def test_everything_that_a_run_reads_is_an_asset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("{}")
    loaded = load_config(
        [
            "model={name: dense, name_or_path: org/start, revision: v2}",
            "loss={name: sum, terms: {a: {loss: {name: gist_embed, guide: {model: org/guide}}}}}",
            "dataset={format: pair, revision: r1, sources: {one: {train: org/pairs, subset: big, joins: {positive: 'org/texts?subset=docs'}}, two: {train: mine.jsonl, eval: org/held}}}",
            "mine={model: org/retriever, cross_encoder: org/start, corpus: org/corpus, relative_margin: 0.1}",
            "evaluator={nano: {name: nano_beir, datasets: [nq]}, all: {name: sequential, evaluators: {both: {name: hybrid, other: org/other, source: one}}}}",
        ]
    )
    found = {(a.kind, a.shown, a.revision, a.on_hub): a.keys for a in assets(loaded.values)}
    assert found == {
        ("model", "org/start", "v2", True): ("model.name_or_path",),
        ("model", "org/guide", None, True): ("loss.terms.a.loss.guide.model",),
        ("model", "org/retriever", None, True): ("mine.model",),
        ("model", "org/start", None, True): ("mine.cross_encoder",),
        ("model", "org/other", None, True): ("evaluator.all.evaluators.both.other",),
        ("data set", "org/pairs (big)", "r1", True): ("dataset.sources.one.train",),
        ("data set", "org/texts (docs)", None, True): ("dataset.sources.one.joins.positive",),
        ("data set", "mine.jsonl", None, False): ("dataset.sources.two.train",),
        ("data set", "org/held", "r1", True): ("dataset.sources.two.eval",),
        ("data set", "org/corpus", None, True): ("mine.corpus",),
        **{
            ("data set", f"sentence-transformers/NanoBEIR-en ({part})", None, True): ("evaluator.nano.dataset_id",)
            for part in ("corpus", "queries", "qrels")
        },
    }


def test_an_asset_that_several_keys_name_comes_once():
    values = {
        "model": {"name_or_path": "org/a"},
        "loss": {"guide": {"model": "org/a"}},
        "dataset": {"train": "x/y", "eval": "x/y", "sources": {}},
    }
    assert assets(values) == [
        Asset("model", "org/a", ("model.name_or_path", "loss.guide.model")),
        Asset("data set", "x/y", ("dataset.train", "dataset.eval")),
    ]


def test_the_offline_profile_names_nothing_on_a_hub():
    found = assets(load_config(["+recipe=mnrl_all_nli", "+profile=offline"]).values)
    assert found and not any(asset.on_hub for asset in found)
    assert any(asset.on_hub for asset in assets(load_config(["+recipe=mnrl_all_nli"]).values))


@pytest.mark.parametrize("address", ["org/name", "name", "hf://org/name", "all-MiniLM-L6-v2"])
def test_what_can_only_be_on_a_hub(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_on_hub(address) and is_on_hub(address, data=True)


@pytest.mark.parametrize(
    "address",
    ["./x", "/x", "~/x", "../x/y", "a/b/c", "package://m/x", "stdlib://docstrings", "https://h/x", "x*", "here", "a\0b", "x" * 5000],
)
def test_what_is_not(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert not is_on_hub(address) or len(address) > 1000
    assert not is_on_hub("rows.jsonl", data=True) and is_on_hub("rows.jsonl")
