"""Labels of teachers, from the configuration to the batch: the values, what is kept, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from sentence_transformers import SentenceTransformer as Peer
from sentence_transformers import SparseEncoder as PeerSparse

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.sections import DatasetSection, RootConfig, SourceSection, TeacherSection, TrainerSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import PreparedData, prepare
from stpipe.models.tokenizer import load_tokenizer
from stpipe.pipeline import frozen
from stpipe.pipeline.frozen import FrozenModel, pair_key, pair_of, shard_size
from stpipe.pipeline.teaching import Teaching
from tests.pipeline.conftest import Command
from tests.pipeline.teachers import cross_teacher, dense_teacher, rows_of, sparse_teacher, text, write_rows

pytestmark = pytest.mark.usefixtures("fresh_cache")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    prompts = {"query": "red blue ", "document": "old "}
    return {
        "dense": dense_teacher(root / "dense"),
        "prompted": dense_teacher(root / "prompted", prompts=prompts, similarity_fn_name="dot"),
        "wide": dense_teacher(root / "wide", width=20),
        "sparse": sparse_teacher(root / "sparse"),
        "cross": cross_teacher(root / "cross", tiny_model),
        "classes": cross_teacher(root / "classes", tiny_model, num_labels=3),
        "student": tiny_model,
    }


Prepare = Callable[..., PreparedData]


@pytest.fixture
def taught(models: dict[str, Path], tmp_path: Path) -> Prepare:
    """Rows with the labels of a teacher: taught(rows, "dense", output="scores"); other keywords belong to the data set, `ranges` to prepare."""

    def run(rows: list[dict[str, Any]], teacher: str, *, ranges: Any = None, **keys: Any) -> PreparedData:
        names = set(TeacherSection.__dataclass_fields__)
        section = TeacherSection(str(models[teacher]), **{k: v for k, v in keys.items() if k in names})
        dataset = DatasetSection(
            **{"eval_rows": 0, **{k: v for k, v in keys.items() if k not in names}},
            train=write_rows(tmp_path / "rows.jsonl", rows),
            teacher=section,
        )
        tokenizer = load_tokenizer(models["student"])
        root = RootConfig(model=None, dataset=dataset, trainer=TrainerSection(device="cpu"))
        teach = Teaching(root, Console(quiet=True))
        return prepare(dataset, tokenizers=lambda role, routes: RoleTokenizer(tokenizer), teach=teach, label_ranges=ranges)

    return run


def cosine(a: Any, b: Any) -> float:
    a, b = a.astype(float).tolist(), b.astype(float).tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


# --- values ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[{"anchor": text(i, 2 + i % 4)} for i in range(9)], rows_of(9)], ids=["text", "pair"])
def test_embeddings_are_those_of_the_anchors(taught: Prepare, models: dict[str, Path], rows: list[dict[str, Any]]) -> None:
    source = taught(rows, "dense", output="embeddings").train["default"]
    assert source.format.name == ("text-vector" if len(rows[0]) == 1 else "pair-vector")
    expected = Peer(str(models["dense"]), device="cpu").encode([row["anchor"] for row in rows])
    found = source.batch(np.arange(9)).targets.vectors["*"].numpy()
    assert np.abs(expected).max() > 0.1 and len(np.unique(expected.round(4), axis=0)) > 5
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_of_pairs_are_similarities(taught: Prepare, models: dict[str, Path]) -> None:
    rows = rows_of(9)
    source = taught(rows, "dense", output="scores").train["default"]
    assert source.format.name == "pair-score"
    peer = Peer(str(models["dense"]), device="cpu")
    a, b = (peer.encode([row[role] for row in rows]) for role in ("anchor", "positive"))
    found = source.labels()
    assert found is not None and found.std() > 1e-3
    np.testing.assert_allclose(found, peer.similarity_pairwise(a, b).numpy(), atol=1e-5)
    np.testing.assert_allclose(found, [cosine(x, y) for x, y in zip(a, b, strict=True)], atol=1e-5)


@pytest.mark.parametrize(("negatives", "output"), [(1, "margins"), (3, "margins"), (1, "scores"), (3, "scores")])
def test_margins_and_scores_of_several_texts(taught: Prepare, models: dict[str, Path], negatives: int, output: str) -> None:
    """In formats for retrieval, anchors are encoded as queries and all others as documents, and compared as the teacher compares."""
    rows = rows_of(8, negatives=negatives)
    source = taught(rows, "prompted", output=output).train["default"]
    assert source.format.name == ("triplet-score" if (negatives, output) == (1, "margins") else "n-tuple-scores")
    peer = Peer(str(models["prompted"]), device="cpu")
    queries = peer.encode_query([row["anchor"] for row in rows]).astype(np.float64)
    expected = []
    for query, row in zip(queries, rows, strict=True):
        texts = peer.encode_document([row[r] for r in row if r != "anchor"]).astype(np.float64)
        scores = [float((query * x).sum()) for x in texts]
        expected.append([scores[0] - s for s in scores[1:]] if output == "margins" else scores)
    targets = source.batch(np.arange(8)).targets
    found = targets.score[:, None] if targets.score is not None else targets.scores
    assert found is not None and np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_prompts_and_a_similarity_of_ones_own(taught: Prepare, models: dict[str, Path]) -> None:
    rows = rows_of(7)
    own = {"query_prompt": "small ", "document_prompt": "", "similarity": "euclidean"}
    found = taught(rows, "prompted", output="scores", **own).train["default"].labels()
    peer = Peer(str(models["prompted"]), device="cpu", similarity_fn_name="euclidean")
    a, b = peer.encode([r["anchor"] for r in rows], prompt="small "), peer.encode([r["positive"] for r in rows], prompt="")
    np.testing.assert_allclose(found, peer.similarity_pairwise(a, b).numpy(), atol=1e-4)
    other = taught(rows, "prompted", output="scores").train["default"].labels()
    assert other is not None and found is not None and np.abs(found - other).min() > 0.1


def test_a_sparse_teacher(taught: Prepare, models: dict[str, Path]) -> None:
    rows = rows_of(7, negatives=1)
    source = taught(rows, "sparse", output="scores").train["default"]
    peer = PeerSparse(str(models["sparse"]), device="cpu")
    a, b, c = (peer.encode([row[r] for row in rows]) for r in ("anchor", "positive", "negative_1"))
    expected = np.stack([peer.similarity_pairwise(a, x).numpy() for x in (b, c)], axis=1)
    found = source.batch(np.arange(7)).targets.scores
    assert found is not None and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    vectors = taught([{"anchor": row["anchor"]} for row in rows], "sparse", output="embeddings").train["default"].labels()
    np.testing.assert_allclose(vectors, a.to_dense().numpy(), atol=1e-4)


@pytest.mark.parametrize("activation", [None, "Identity"])
def test_a_cross_encoder(taught: Prepare, models: dict[str, Path], activation: str | None) -> None:
    rows = rows_of(8, negatives=2)
    source = taught(rows, "cross", output="margins", activation=activation).train["default"]
    peer = PeerCrossEncoder(str(models["cross"]), device="cpu")
    options = {"activation_fn": __import__("torch").nn.Identity()} if activation else {}
    columns = [peer.predict([(row["anchor"], row[r]) for row in rows], **options) for r in ("positive", "negative_1", "negative_2")]
    expected = np.stack([columns[0] - columns[1], columns[0] - columns[2]], axis=1)
    found = source.batch(np.arange(8)).targets.scores
    assert found is not None and np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_lists_need_no_label_and_one_that_is_there_is_left_out(taught: Prepare, models: dict[str, Path]) -> None:
    rows = [
        {"query": text(i, 3), "documents": [text(i * 5 + k, 4) for k in range(2 + i % 3)], "label": [0.0] * (2 + i % 3)} for i in range(6)
    ]
    data = taught(rows, "cross", output="scores")
    assert data.train["default"].format.name == "query-documents"
    assert data.scan.sources["default"]["train"].unused_columns == ("label",)
    peer = PeerCrossEncoder(str(models["cross"]), device="cpu")
    labels = data.train["default"].labels()
    assert labels is not None
    for row, found in zip(rows, labels, strict=True):
        np.testing.assert_allclose(found, peer.predict([(row["query"], d) for d in row["documents"]]), atol=1e-5)
    bare = taught([{k: v for k, v in row.items() if k != "label"} for row in rows], "cross", output="scores")
    assert bare.train["default"].fingerprint == data.train["default"].fingerprint


def test_held_out_rows_are_taught_unless_they_have_a_format_of_their_own(taught: Prepare, tmp_path: Path) -> None:
    held_out = write_rows(tmp_path / "held.jsonl", [{**row, "label": 0.25} for row in rows_of(30)[20:]])
    data = taught(rows_of(20), "dense", output="scores", eval=held_out, eval_rows=10)
    assert data.eval["default"].format.name == "pair-score" and (data.eval["default"].labels() != 0.25).all()
    own = taught(rows_of(20), "dense", output="embeddings", eval=held_out, eval_rows=10, eval_format="pair-score")
    assert own.train["default"].format.name == "pair-vector"
    assert own.eval["default"].format.name == "pair-score" and (own.eval["default"].labels() == 0.25).all()
    split = taught(rows_of(20), "dense", output="embeddings", eval_rows=5, max_rows=7)
    assert (len(split.train["default"]), len(split.eval["default"])) == (7, 5)
    assert split.eval["default"].labels().shape == (5, 32)


# --- what is kept -----------------------------------------------------------------------------------------------------------------


class Counted:
    """Counts what models are asked for, and stops them after so many calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.pairs = 0
        self.stop_after: int | None = None
        encoded, scored = FrozenModel._encoded, FrozenModel._scored

        def encode(model: FrozenModel, texts: list[str], side: Any) -> Any:
            self._count()
            self.texts += texts
            return encoded(model, texts, side)

        def score(model: FrozenModel, keys: list[str]) -> Any:
            self._count()
            self.pairs += len(keys)
            return scored(model, keys)

        self.calls = 0
        monkeypatch.setattr(FrozenModel, "_encoded", encode)
        monkeypatch.setattr(FrozenModel, "_scored", score)

    def _count(self) -> None:
        if self.stop_after is not None and self.calls >= self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1


@pytest.mark.parametrize(("teacher", "output"), [("dense", "embeddings"), ("dense", "scores"), ("cross", "margins")])
def test_nothing_is_computed_twice(taught: Prepare, monkeypatch: pytest.MonkeyPatch, teacher: str, output: str) -> None:
    rows, counted = rows_of(12, negatives=1 if output == "margins" else 0), Counted(monkeypatch)
    first = taught(rows, teacher, output=output).train["default"]
    assert counted.texts or counted.pairs
    assert len(set(counted.texts)) == len(counted.texts)
    monkeypatch.setattr(frozen, "load_model", lambda *a, **k: pytest.fail("loaded again"))
    again = taught(rows[::-1], teacher, output=output).train["default"]
    np.testing.assert_array_equal(np.array(again.labels())[::-1], np.array(first.labels()))


def test_only_new_texts_are_computed(taught: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    taught(rows_of(6), "dense", output="embeddings")
    before, counted.texts = set(counted.texts), []
    taught(rows_of(9), "dense", output="embeddings")
    assert set(counted.texts) == {row["anchor"] for row in rows_of(9)} - before and counted.texts


def test_a_stopped_prepare_goes_on_where_it_was(taught: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "SHARD", 4)
    rows, counted = rows_of(20), Counted(monkeypatch)
    counted.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        taught(rows, "dense", output="embeddings")
    assert len(counted.texts) == 8
    counted.stop_after = None
    after = taught(rows, "dense", output="embeddings").train["default"]
    assert sorted(counted.texts) == sorted({row["anchor"] for row in rows})
    monkeypatch.setenv("STPIPE_CACHE", str(Path(after.folder).parents[1] / "other"))
    np.testing.assert_array_equal(after.labels(), taught(rows, "dense", output="embeddings").train["default"].labels())


def test_other_weights_are_another_teacher(taught: Prepare, models: dict[str, Path], tmp_path: Path) -> None:
    first = taught(rows_of(5), "dense", output="embeddings").train["default"]
    models = {**models, "dense": dense_teacher(tmp_path / "other", seed=6)}
    other = FrozenModel(str(models["dense"]), "k", tmp_path / "cache").embed([r["anchor"] for r in rows_of(5)], "text")[:]
    assert np.abs(other - first.labels()).max() > 0.05


def test_keys_of_pairs_are_their_own() -> None:
    pairs = [("", ""), ("a", ""), ("", "a"), ("a:b", "c"), ("a", ":bc"), ("1:a", "\n")]
    assert [pair_of(pair_key(*pair)) for pair in pairs] == pairs and len({pair_key(*pair) for pair in pairs}) == len(pairs)


def test_shards_grow_so_that_few_files_are_open() -> None:
    assert shard_size(10) == shard_size(500_000) == 2048
    assert all(count / shard_size(count) <= 256 for count in (10, 10**6, 10**8))


# --- what is refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "teacher", "keys", "error", "message"),
    [
        (rows_of(6), "dense", {"output": "margins"}, ConfigError, r"no margins for rows of anchor, positive .*: embeddings, scores"),
        (rows_of(6, negatives=1), "dense", {"output": "embeddings"}, ConfigError, r"no embeddings .*: scores, margins"),
        (rows_of(6), "cross", {"output": "embeddings"}, ConfigError, "cross-encoder, which gives scores of pairs and no embeddings"),
        (rows_of(6), "classes", {"output": "scores"}, ConfigError, "gives 3 values a pair"),
        (
            rows_of(6),
            "dense",
            {"output": "scores", "format": "triplet"},
            DataError,
            "format triplet has the texts .* found anchor, positive",
        ),
        (
            rows_of(6),
            "dense",
            {"output": "scores", "similarity": "euclidean", "ranges": {"default": (0.0, 1.0)}},
            DataError,
            r"labels outside \[0, 1\].*rows.jsonl line 1.*loss without bounds",
        ),
    ],
    ids=["margins-of-pairs", "embeddings-of-triplets", "embeddings-of-pairs", "classes", "format", "range"],
)
def test_what_a_teacher_cannot_do(taught: Prepare, rows: Any, teacher: str, keys: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        taught(rows, teacher, **keys)


def test_labels_are_not_made_where_nobody_can_be_asked(models: dict[str, Path], tmp_path: Path) -> None:
    section = DatasetSection(
        train=write_rows(tmp_path / "rows.jsonl", rows_of(6)), teacher=TeacherSection("nowhere", "scores"), eval_rows=0
    )
    with pytest.raises(ConfigError, match="not made here"):
        prepare(section, tokenizers=lambda role, routes: RoleTokenizer(None))


def test_a_source_takes_the_teacher_at_the_top() -> None:
    from stpipe.data.prepare import data_sets

    teacher, own = TeacherSection("a", "scores"), TeacherSection("b", "margins")
    found = data_sets(DatasetSection(teacher=teacher, sources={"x": SourceSection(train="x"), "y": SourceSection(train="y", teacher=own)}))
    assert (found["x"].teacher, found["y"].teacher) == (teacher, own)


# --- whole commands ---------------------------------------------------------------------------------------------------------------

SHORT = ("run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1", "trainer.num_workers=0")


def values(name: str) -> list[float]:
    records = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    return [r["value"] for r in records if r["name"] == name and r["split"] == "train"]


def test_a_student_learns_the_vectors(stpipe: Command, models: dict[str, Path]) -> None:
    """The default loss of vectors, the evaluator that reads them, and `train` finding what `prepare` computed."""
    options = (f"+dataset.teacher={{model: {models['dense']}, output: embeddings}}", "dataset.format=pair", "evaluator.dev.name=mse")
    options = tuple(o.replace("evaluator.dev.name", "+evaluator.dev.name") for o in options)
    assert stpipe("prepare", *options) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "load_model", lambda *a, **k: pytest.fail("loaded again"))
        assert stpipe("train", *SHORT, *options) == 0
    losses = values("loss")
    assert len(losses) == 3 and losses[2] < losses[0]
    plan = json.loads(Path("out/plan.json").read_text())["sources"]["default"]
    assert (plan["format"], plan["loss"]) == ("pair-vector", "MSELoss")
    assert json.loads(Path("out/evaluation/dev/metrics.json").read_text())


def test_a_map_into_a_wider_space_is_learned(stpipe: Command, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    teacher = f"+dataset.teacher={{model: {models['wide']}, output: embeddings}}"
    assert stpipe("train", *SHORT, teacher, "evaluator={}") == 3
    message = capsys.readouterr().err
    assert "20 dimensions" in message and "32" in message and "projection_dim: 20" in message and not Path("out").exists()
    assert stpipe("train", *SHORT, teacher, "evaluator={}", "loss=embed_distill", "loss.projection_dim=20") == 0
    assert len(values("loss")) == 3


def test_a_reranker_learns_the_margins_of_another(stpipe: Command, models: dict[str, Path], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "triplets.jsonl", rows_of(24, negatives=1))
    teacher = f"+dataset.teacher={{model: {models['cross']}, output: margins, activation: Identity}}"
    options = (f"dataset.train={data}", teacher, "model=cross_encoder", "evaluator={}", "dataset.format=triplet")
    assert stpipe("train", *SHORT, *options) == 0
    assert json.loads(Path("out/plan.json").read_text())["sources"]["default"]["loss"] == "RerankerMarginMSELoss"


def test_a_teacher_that_is_not_there(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("prepare", "+dataset.teacher={model: nobody/nothing, output: scores}") == 2
    assert "dataset.teacher.model" in capsys.readouterr().err
