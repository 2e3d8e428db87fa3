"""What a model sets from the data before training sees the texts that go its way, by the routes of each data set."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from stpipe.config.load import load_config, to_root
from stpipe.config.sections import RootConfig
from stpipe.core.tokens import Tokens
from stpipe.models import InferenceFreeSpladeModel, SpladeModel
from stpipe.pipeline.assemble import assemble, load_data, routes_of
from stpipe.pipeline.training_texts import PreparedTexts
from tests.models.tiny import VOCAB
from tests.models.tiny_splade import save_checkpoint

QUIET = Console(file=io.StringIO())
ANCHORS, POSITIVES, OTHER_ANCHORS, OTHER_POSITIVES = (set(range(i, i + 20)) for i in (0, 20, 40, 60))
"""Words of each role of the data sets `a` and `b`. No two share one, so that a text tells where it is from."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start weights without and with a Router, and two data sets."""
    folder = tmp_path_factory.mktemp("texts")
    InferenceFreeSpladeModel(str(save_checkpoint(folder / "plain"))).build().save_pretrained(folder / "routed")
    for name, first in (("a", 0), ("b", 40)):
        rows = [{"anchor": f"w{first + i}", "positive": f"w{first + 20 + i} w{first + 20 + (i + 1) % 20}"} for i in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def configuration(folder: Path, weights: str, *, model: str = "splade", a: str = "", b: str = "") -> RootConfig:
    """a, b: routes of the data sets, as YAML."""
    sources = ", ".join(f"{n}: {{train: '{folder}/{n}.jsonl', routes: {{{own}}}}}" for n, own in (("a", a), ("b", b)))
    given = [
        f"model={model}",
        f"model.name_or_path={folder}/{weights}",
        "dataset.eval_rows=0",
        f"dataset.sources={{{sources}}}",
        "model.check=off",
    ]
    return to_root(load_config([*given, "offline=true", f"dataset.cache_dir={folder}/cache"]).values)


def texts(folder: Path, weights: str, *, a: str = "", b: str = "") -> PreparedTexts:
    root = configuration(folder, weights, a=a, b=b)
    model = root.model.build()
    data = load_data(root, model, QUIET)
    return PreparedTexts(data.train, routes_of(root, data.train), model.encoder.route_of)


def words(*tokens: Tokens) -> set[int]:
    """Numbers of the words w0 ... w89 that stand in the texts."""
    ids = {i for part in tokens for i in part.ids.tolist()}
    return {i for i in range(90) if VOCAB[f"w{i}"] in ids}


@pytest.mark.parametrize("weights", ["plain", "routed"])
def test_without_routes_of_their_own_roles_are_sides(folder: Path, weights: str) -> None:
    found = texts(folder, weights)
    assert found.sides() == ("document", "query")
    assert words(*found.tokens("query", 100)) == ANCHORS | OTHER_ANCHORS
    assert words(*found.tokens("document", 100)) == POSITIVES | OTHER_POSITIVES
    few = found.tokens("document", 8, per_part=3)
    assert [len(part) for part in few] == [3, 1, 3, 1] and words(*few) & POSITIVES and words(*few) & OTHER_POSITIVES
    pairs = found.pairs(5)
    assert pairs is not None
    for query, document in zip(pairs[0].ids.split(pairs[0].lengths.tolist()), pairs[1].ids.split(pairs[1].lengths.tolist()), strict=True):
        first = VOCAB["w20"] - VOCAB["w0"]
        assert {int(i) + first for i in query if int(i) >= VOCAB["w0"]} <= set(document.tolist())


def test_routes_of_a_data_set_decide(folder: Path) -> None:
    found = texts(folder, "routed", a="anchor: document, positive: query")
    assert words(*found.tokens("query", 100)) == POSITIVES | OTHER_ANCHORS
    assert words(*found.tokens("document", 100)) == ANCHORS | OTHER_POSITIVES
    pairs = found.pairs(100)
    assert pairs is not None and (words(pairs[0]), words(pairs[1])) == (POSITIVES, ANCHORS)


def test_pairs_need_a_query_and_a_document(folder: Path) -> None:
    one_way = "anchor: document"
    found = texts(folder, "routed", a=one_way)
    assert words(*found.tokens("query", 100)) == OTHER_ANCHORS
    pairs = found.pairs(100)
    assert pairs is not None and words(pairs[0]) == OTHER_ANCHORS, "the first data set that has both"
    found = texts(folder, "routed", a=one_way, b=one_way)
    assert found.sides() == ("document",) and found.pairs(100) is None and found.tokens("query", 100) == []
    assert words(*found.tokens("document", 100)) == ANCHORS | POSITIVES | OTHER_ANCHORS | OTHER_POSITIVES
    assert texts(folder, "routed", a="positive: query", b="positive: query").pairs(100) is None


def test_query_weights_count_the_texts_that_are_documents(folder: Path) -> None:
    """Words that only queries have are in no document, so their inverse document frequency is the largest."""
    turned = "anchor: document, positive: query"
    root = configuration(folder, "plain", model="splade_inference_free", a=turned, b=turned)
    parts = assemble(root, QUIET)
    assert parts.start[0].startswith("query weights")
    weight = parts.model.encoder.input_of("query").weight.detach()
    rare = {i for i in range(90) if torch.isclose(weight[VOCAB[f"w{i}"]], weight.max())}
    assert rare == set(range(90)) - ANCHORS - OTHER_ANCHORS


def test_a_head_is_calibrated_on_what_goes_through_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up takes the queries, whichever role these have."""
    seen: list[Tokens] = []
    tokens = PreparedTexts.tokens

    def noted(self: PreparedTexts, side: str, limit: int, per_part: int = 32) -> list[Tokens]:
        found = tokens(self, side, limit, per_part)
        seen.extend(found)
        return found

    monkeypatch.setattr(PreparedTexts, "tokens", noted)
    model = SpladeModel(f"{folder}/routed", calibrate=True, check="off")
    for own, expected in (("", POSITIVES | OTHER_POSITIVES), ("anchor: document, positive: query", ANCHORS | OTHER_ANCHORS)):
        seen.clear()
        assert model.adapt(model.build(), texts(folder, "routed", a=own, b=own))[0].startswith("calibrated")
        assert words(*seen) == expected
