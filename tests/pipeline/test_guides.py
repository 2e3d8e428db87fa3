"""Guide models in whole runs: encoded once, looked up by text, the same loss as the documented one."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sentence_transformers import SentenceTransformer as Peer
from sentence_transformers.sentence_transformer import losses as ST

from stpipe.config.errors import ConfigError
from stpipe.config.sections import DatasetSection, RootConfig, TrainerSection
from stpipe.core.context import StepContext
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import prepare
from stpipe.data.prepared import PreparedSource
from stpipe.engine.strategies import Plain
from stpipe.engine.train_module import TrainModule
from stpipe.losses import GISTEmbedLoss, Guide, MatryoshkaLoss, MultipleNegativesRankingLoss, SumLoss, Term
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.tokenizer import load_tokenizer
from stpipe.pipeline import frozen
from stpipe.pipeline.frozen import FrozenModel
from stpipe.pipeline.guides import guide_of, guided_collators
from tests.pipeline.conftest import Command
from tests.pipeline.teachers import cross_teacher, dense_teacher, rows_of, student, text, write_rows

pytestmark = pytest.mark.usefixtures("fresh_cache")
OUT = Console(quiet=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("guides")
    prompts = {"query": "red blue ", "document": "old "}
    return {
        "student": student(root / "student"),
        "guide": dense_teacher(root / "guide"),
        "prompted": dense_teacher(root / "prompted", prompts=prompts),
        "cross": cross_teacher(root / "cross", tiny_model),
    }


def different(count: int, *, negatives: int = 0) -> list[dict[str, Any]]:
    """Rows in which no text occurs twice."""
    roles = ["anchor", "positive", *(f"negative_{k + 1}" for k in range(negatives))]
    return [
        {role: text(i * len(roles) + k, 2 + (i + k) % 5) + f" {'a' * (i % 3 + 1)}" for k, role in enumerate(roles)} for i in range(count)
    ]


def prepared(rows: list[dict[str, Any]], folder: Path, models: dict[str, Path]) -> PreparedSource:
    tokenizer = load_tokenizer(models["student"])
    section = DatasetSection(train=write_rows(folder / "rows.jsonl", rows), eval_rows=0)
    return prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer)).train["default"]


def collators(loss: Any, source: PreparedSource) -> dict[str, Any]:
    root = RootConfig(model=None, trainer=TrainerSection(device="cpu"))
    return guided_collators(root, {"default": loss}, {"default": source}, {}, OUT)


# --- what batches hold ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["guide", "prompted"])
def test_batches_have_the_vectors_of_their_texts(models: dict[str, Path], tmp_path: Path, guide: str) -> None:
    rows = rows_of(20, negatives=2)
    source = prepared(rows, tmp_path, models)
    collate = collators(GISTEmbedLoss(guide=Guide(str(models[guide]))), source)["default"]
    chosen = np.array([3, 19, 0, 7, 11])
    batch = pickle.loads(pickle.dumps(collate))(source, chosen, slice(1, 4), 0)
    assert list(batch.teacher) == ["guide"] and list(batch.teacher["guide"]) == list(source.roles)
    peer = Peer(str(models[guide]), device="cpu")
    for role, found in batch.teacher["guide"].items():
        encode = peer.encode_query if role == "anchor" else peer.encode_document
        expected = encode([rows[i][role] for i in (19, 0, 7)])
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    part = batch.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(part.teacher["guide"]["anchor"], batch.teacher["guide"]["anchor"][[2, 0]])


def test_each_text_is_encoded_once_and_kept(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked, encoded = rows_of(20, negatives=1), [], FrozenModel._encoded

    def count(model: FrozenModel, texts: list[str], side: Any) -> Any:
        asked.extend((side, text) for text in texts)
        return encoded(model, texts, side)

    monkeypatch.setattr(FrozenModel, "_encoded", count)
    source = prepared(rows, tmp_path, models)
    loss = GISTEmbedLoss(guide=Guide(str(models["guide"])))
    first = collators(loss, source)["default"](source, np.arange(20), slice(None), 0)
    assert len(asked) == len(set(asked)) == len({("query" if role == "anchor" else "document", row[role]) for row in rows for role in row})
    monkeypatch.setattr(frozen, "load_model", lambda *a, **k: pytest.fail("loaded again"))
    again = collators(loss, source)["default"](source, np.arange(20), slice(None), 0)
    for role, values in first.teacher["guide"].items():
        torch.testing.assert_close(again.teacher["guide"][role], values, rtol=0, atol=0)


def test_a_stopped_guide_goes_on_where_it_was(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "SHARD", 4)
    asked: list[str] = []
    encoded = FrozenModel._encoded

    def stop(model: FrozenModel, texts: list[str], side: Any) -> Any:
        if len(asked) == 12 and not (tmp_path / "go on").exists():
            raise KeyboardInterrupt
        asked.extend(texts)
        return encoded(model, texts, side)

    monkeypatch.setattr(FrozenModel, "_encoded", stop)
    rows = different(12)
    source, loss = prepared(rows, tmp_path, models), GISTEmbedLoss(guide=Guide(str(models["guide"])))
    with pytest.raises(KeyboardInterrupt):
        collators(loss, source)
    (tmp_path / "go on").touch()
    collators(loss, source)
    assert len(asked) == len(set(asked)) == 24


# --- the documented loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"margin": 0.05, "margin_strategy": "absolute"}, {"margin": 0.1, "margin_strategy": "relative", "contrast_anchors": False}],
    ids=["default", "absolute", "relative"],
)
@pytest.mark.parametrize("negatives", [0, 1])
def test_loss_and_gradients_are_those_of_sentence_transformers(
    models: dict[str, Path], tmp_path: Path, options: dict[str, Any], negatives: int
) -> None:
    """A real guide and a real student, from texts to the gradients of every weight."""
    rows = different(12, negatives=negatives)
    source = prepared(rows, tmp_path, models)
    loss = GISTEmbedLoss(guide=Guide(str(models["guide"])), temperature=0.1, **options)
    batch = collators(loss, source)["default"](source, np.arange(12), slice(None), 0)
    module = TrainModule(SentenceTransformer(str(models["student"]), device="cpu").encoder, {"default": loss}, Plain()).train()
    out = module(batch, StepContext())
    out.mean.backward()

    peer = Peer(str(models["student"]), device="cpu").train()
    documented = ST.GISTEmbedLoss(peer, Peer(str(models["guide"]), device="cpu").eval(), temperature=0.1, **options)
    value = documented([peer.preprocess([row[role] for row in rows]) for role in source.roles], None)
    value.backward()
    assert 0.05 < float(out.metrics["false_negatives"]) < 0.9
    assert float(out.mean.detach()) == pytest.approx(float(value.detach()), rel=1e-5)
    assert float(value.detach()) > 0.1
    theirs = {name.partition("model.")[2]: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    ours = {name.partition("model.")[2]: p.grad for name, p in module.encoder.named_parameters() if p.grad is not None}
    shared = [name for name in theirs if name in ours and name]
    assert len(shared) > 20
    largest = max(float(theirs[name].abs().max()) for name in shared)
    assert largest > 1e-3
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in shared) <= 1e-5 * max(1.0, largest)


# --- runs -------------------------------------------------------------------------------------------------------------------------

SHORT = ("run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1", "evaluator={}")


def values(name: str) -> list[float]:
    records = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    return [r["value"] for r in records if r["name"] == name]


LOSSES = {
    "plain": ("{name: gist_embed, temperature: 0.1, guide: {model: GUIDE}}", "auto"),
    "two_pass": ("{name: cached_gist_embed, temperature: 0.1, guide: {model: GUIDE}}", "two_pass"),
    "matryoshka": ("{name: matryoshka, dims: [32, 8], loss: {name: gist_embed, temperature: 0.1, guide: {model: GUIDE}}}", "recompute"),
}


@pytest.mark.parametrize("case", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("two_pass", "matryoshka"))])
def test_a_guided_run(stpipe: Command, models: dict[str, Path], case: str) -> None:
    loss, strategy = LOSSES[case]
    overrides = (*SHORT, "dataset.format=pair", f"+loss={loss.replace('GUIDE', str(models['guide']))}", f"strategy={strategy}")
    assert stpipe("prepare", *overrides) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "load_model", lambda *a, **k: pytest.fail("loaded again"))
        assert stpipe("train", *overrides) == 0
    losses = values("loss")
    assert len(losses) == 3 and len(set(losses)) == 3
    assert all(0 < share < 1 for share in values("false_negatives"))


def test_what_cannot_guide(models: dict[str, Path], tmp_path: Path) -> None:
    source = prepared(rows_of(6), tmp_path, models)
    with pytest.raises(ConfigError, match=r"loss.guide.model: .*is a cross_encoder model"):
        collators(GISTEmbedLoss(guide=Guide(str(models["cross"]))), source)
    with pytest.raises(ConfigError, match=r"loss.guide.model: .*nowhere"):
        collators(GISTEmbedLoss(guide=Guide(str(tmp_path / "nowhere"))), source)


def test_one_guide_a_data_set() -> None:
    a, b = (GISTEmbedLoss(guide=Guide(name)) for name in "ab")
    inside = MatryoshkaLoss(loss=a, dims=(2,))
    assert guide_of("x", SumLoss(terms={"p": Term(inside), "q": Term(replace(a, margin=0.1))})) == Guide("a")
    assert guide_of("x", MultipleNegativesRankingLoss()) is None
    with pytest.raises(ConfigError, match="2 guides"):
        guide_of("x", SumLoss(terms={"p": Term(inside), "q": Term(b)}))
    with pytest.raises(ConfigError, match=r"loss.guide.model: required"):
        guide_of("x", MatryoshkaLoss(loss=GISTEmbedLoss(), dims=(2,)))
