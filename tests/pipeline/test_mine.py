"""`stpipe mine`, and mining as a stage of training: the real command on few rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stpipe.cli.main import main
from stpipe.config.errors import ConfigError
from stpipe.config.load import Loaded
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.static import StaticModel
from stpipe.pipeline.mining import parquet_texts
from stpipe.pipeline.rounds import run_rounds
from stpipe.util.mining.mine import Mining
from tests.pipeline.conftest import QUICK, Command, word
from tests.util.mining_case import save_reranker

TRAIN = ("trainer.max_steps=3", "trainer.save_steps=1", "trainer.log_steps=1")


@pytest.fixture(autouse=True)
def _cache(fresh_cache: Path) -> None:
    """What one test mined must not be found by another."""


def rows(path: Path | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def files(folder: Path | str) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def own_positives(pairs: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in pairs.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["anchor"], set()).add(row["positive"])
    return found


def test_the_verb_writes_data_and_a_report(stpipe: Command, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("mine", "mine.output=mined", "mine.num_negatives=2", "mine.output_format=n-tuple") == 0
    assert sorted(files("mined")) == ["eval.parquet", "mine.html", "mine.json", "train.parquet"]
    own = own_positives(pairs)
    train, held_out = rows("mined/train.parquet"), rows("mined/eval.parquet")
    assert len(train) == 48 and len(held_out) == 8
    assert list(train[0]) == ["anchor", "positive", "negative_1", "negative_2"] and list(held_out[0]) == ["anchor", "positive"]
    pool = {r["positive"] for r in train}
    for r in train:
        assert r["positive"] in own[r["anchor"]] and {r["negative_1"], r["negative_2"]} <= pool - own[r["anchor"]]
    report = json.loads(Path("mined/mine.json").read_text())
    assert report["parts"]["train"]["negatives"] == 2 * len({r["anchor"] for r in train}) and list(report["parts"]) == ["train"]
    assert report["setting"]["num_negatives"] == 2
    page = Path("mined/mine.html").read_text()
    assert "<svg" in page and "96 negatives" in page
    assert capsys.readouterr().out == "mined\n"


def test_the_nearest_are_those_of_the_model(stpipe: Command, tiny_model: Path) -> None:
    assert stpipe("mine", "mine.output=mined", "mine.num_negatives=1", "dataset.eval_rows=0") == 0
    train = rows("mined/train.parquet")
    assert not Path("mined/eval.parquet").exists() and len(train) == 56
    model = SentenceTransformer(str(tiny_model), device="cpu")
    texts = list(dict.fromkeys(r["positive"] for r in train))
    scores = model.similarity(model.encode([r["anchor"] for r in train]), model.encode(texts)).double().numpy()
    for r, line in zip(train, scores, strict=True):
        best = max(score for text, score in zip(texts, line, strict=True) if text != r["positive"])
        assert line[texts.index(r["negative"])] > best - 1e-6


def test_a_static_embedding_of_the_model_finds_them(stpipe: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("mine.num_negatives=1", "dataset.eval_rows=0", f"mine.model={tiny_model}", "mine.static=true")
    assert stpipe("mine", "mine.output=mined", *options) == 0
    train = rows("mined/train.parquet")
    model = StaticModel(name_or_path=str(tiny_model)).build()
    texts = list(dict.fromkeys(r["positive"] for r in train))
    scores = model.similarity(model.encode([r["anchor"] for r in train]), model.encode(texts)).double().numpy()
    assert len(train) == 56
    for r, line in zip(train, scores, strict=True):
        best = max(score for text, score in zip(texts, line, strict=True) if text != r["positive"])
        assert line[texts.index(r["negative"])] > best - 1e-6
    monkeypatch.setattr("stpipe.pipeline.mining.distil_static", lambda *a: pytest.fail("distilled again"))
    assert stpipe("mine", "mine.output=other", *options, "mine.range_min=1") == 0
    assert rows("mined/train.parquet") != rows("other/train.parquet")


def test_a_static_embedding_is_made_of_a_dense_model(stpipe: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reranker = save_reranker(tmp_path / "reranker")
    assert stpipe("mine", "mine.output=mined", f"mine.model={reranker}", "mine.static=true") == 2
    assert "mine.static: a static embedding is made from a dense model, and mine.model is a CrossEncoder" in capsys.readouterr().err
    assert not Path("mined").exists()


def test_a_second_time_gives_the_same_bytes_and_asks_no_model(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("mine.relative_margin=0.01", "mine.sampling_strategy=random", "mine.output_scores=true")
    assert stpipe("mine", "mine.output=one", *options) == 0
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *a, **k: pytest.fail("encoded again"))
    assert stpipe("mine", "mine.output=two", *options) == 0
    one, two = files("one"), files("two")
    assert one["train.parquet"] == two["train.parquet"] and one["mine.json"] == two["mine.json"] and len(one) == 4
    assert stpipe("mine", "mine.output=two", *options) == 0, "its own result may be replaced"


def test_an_interrupted_mining_ends_with_the_same_bytes(
    stpipe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    options = ("mine.output=mined", f"mine.cross_encoder={save_reranker(tmp_path / 'reranker')}", "mine.max_score=0.12", "run.name=x")
    monkeypatch.setattr("stpipe.util.mining.mine.BLOCK_RESCORED", 10)
    monkeypatch.setattr("stpipe.search.embedding_cache.SHARD", 16)
    assert stpipe("mine", *options, "mine.cache_dir=whole") == 0
    whole = files("mined")
    original, calls = Mining._block, []

    def counted(self: Mining, *args: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Mining, "_block", counted)
        assert stpipe("mine", *options, "mine.cache_dir=cut") == 130
    assert files("mined") == whole, "what stood there stands until it is replaced"
    left = len(calls)
    with monkeypatch.context() as patch:
        patch.setattr(Mining, "_block", lambda self, *args: (calls.append(args[0]), original(self, *args))[1])
        assert stpipe("mine", *options, "mine.cache_dir=cut") == 0
    assert files("mined") == whole and len(calls) - left == 3  # of five blocks two were there
    assert list(Path("cut/mining").glob("*/0*")) == [], "unfinished work is removed when it is finished"


@pytest.mark.slow
def test_kill_9_in_the_middle(stpipe: Command, tiny_model: Path, tmp_path: Path) -> None:
    """The real command, killed without warning in the middle of the corpus, then continued."""
    big = tmp_path / "big.jsonl"
    lines = [{"anchor": f"{word(i)} {word(i // 90)}", "positive": f"{word(i * 7)} {word(i // 80)} {word(i // 3)}"} for i in range(6000)]
    big.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = (f"dataset.train={big}", "mine.num_negatives=3", "dataset.checks.duplicate_rows=drop", "run.name=x")
    assert stpipe("mine", *options, "mine.output=whole", "mine.cache_dir=a") == 0
    given = (f"model.name_or_path={tiny_model}", "model=dense", *QUICK)
    command = [sys.executable, "-m", "stpipe", "mine", *given, *options, "mine.output=cut", "mine.cache_dir=b"]
    process = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(Path("b").glob("embeddings/*/0*/manifest.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, env=os.environ, check=False).returncode == 0
    assert files("cut") == files("whole") and len(rows("cut/train.parquet")) > 10_000


def test_training_mines_first(stpipe: Command, pairs: Path) -> None:
    options = ("mine.num_negatives=2", "mine.output_format=n-tuple", "loss=mnrl", "+evaluator.dev.name=information_retrieval")
    assert stpipe("train", "run.dir=run", *TRAIN, *options) == 0
    plan, data = (json.loads(Path(f"run/{name}.json").read_text()) for name in ("plan", "data"))
    assert plan["sources"]["default"]["roles"] == ["anchor", "positive", "negative_1", "negative_2"]
    assert data["sources"]["default"]["eval"]["format"] == "pair" and data["sources"]["default"]["eval"]["rows"] == 8
    assert json.loads(Path("run/mining/mine.json").read_text())["parts"]["train"]["negatives"] > 80
    environment = json.loads(Path("run/environment.json").read_text())
    assert environment["data"]["default"]["source"] == str(pairs), "the card names where the data came from"
    assert main(["evaluate", "run"]) == 0


def test_training_continues_with_what_was_mined(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipeline.test_resume import stop_after, weights

    options = ("mine.num_negatives=1", "trainer.max_steps=6", "trainer.save_steps=2", "trainer.log_steps=1", "loss=mnrl")
    assert stpipe("train", "run.dir=whole", *options) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert stpipe("train", "run.dir=cut", *options) == 130
    assert stpipe("train", "run.dir=cut", *options, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")


def test_a_reranker_gets_labelled_pairs_and_lists_to_reorder(stpipe: Command, tiny_model: Path) -> None:
    reranker = (
        "model=cross_encoder",
        f"mine.model={tiny_model}",
        "mine.output_format=labeled-pair",
        "mine.num_negatives=3",
        "mine.held_out_documents=5",
        "dataset.max_length={positive: 20}",
        "loss=binary_cross_entropy",
        "+evaluator.dev.name=cross_encoder_reranking",
    )
    assert stpipe("train", "run.dir=run", *TRAIN, *reranker) == 0
    data = json.loads(Path("run/data.json").read_text())["sources"]["default"]
    assert data["train"]["format"] == "query-document" and data["eval"]["format"] == "query-documents"
    assert data["train"]["roles"]["document"]["max_length"] == data["eval"]["roles"]["documents"]["max_length"] == 20
    assert data["eval"]["groups"]["min"] in (5, 6) and data["eval"]["groups"]["max"] == 6  # a positive that was not found stands behind
    assert data["train"]["rows"] == 48 * 4
    assert json.loads(Path("run/evaluation/dev/metrics.json").read_text())
    assert main(["evaluate", "run"]) == 0


def test_lists_keep_the_order_of_the_retriever(stpipe: Command, tiny_model: Path, pairs: Path) -> None:
    assert stpipe("mine", "mine.output=mined", "mine.held_out=lists", "mine.held_out_documents=4") == 0
    held_out, own = rows("mined/eval.parquet"), own_positives(pairs)
    model = SentenceTransformer(str(tiny_model), device="cpu")
    behind = 0
    for row in held_out:
        found = row["documents"][:4]
        scores = model.similarity(model.encode([row["query"]]), model.encode(found))[0].tolist()
        assert scores == sorted(scores, reverse=True)
        assert row["labels"] == [int(text in own[row["query"]]) for text in row["documents"]] and 1 in row["labels"]
        behind += len(row["documents"]) - 4
    assert len(held_out) == 8 and 0 < behind < 8


def test_held_out_queries_can_be_asked_among_all_documents(stpipe: Command) -> None:
    options = ("mine.held_out=lists", "mine.held_out_documents=6")
    assert stpipe("mine", "mine.output=few", *options) == 0
    assert stpipe("mine", "mine.output=all", *options, "mine.held_out_corpus=all") == 0
    few, many = ({d for r in rows(f"{name}/eval.parquet") for d in r["documents"]} for name in ("few", "all"))
    assert len(few) <= 8 < len(many)


def test_a_corpus_of_further_documents(stpipe: Command, tmp_path: Path) -> None:
    texts = [f"{word(i)} {word(i + 1)} {word(i + 2)}" for i in range(40)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)))
    assert stpipe("mine", "mine.output=mined", "mine.corpus=corpus.jsonl", "mine.num_negatives=8") == 0
    used = {r["negative"] for r in rows("mined/train.parquet")}
    assert used & set(texts) and json.loads(Path("mined/mine.json").read_text())["parts"]["train"]["corpus"] > 80


def test_several_data_sets(stpipe: Command, pairs: Path, tmp_path: Path) -> None:
    scored = tmp_path / "scored.jsonl"
    scored.write_text("".join(json.dumps({"sentence1": word(i), "sentence2": word(i + 1), "score": i / 40}) + "\n" for i in range(40)))
    both = (
        "dataset.train=null",
        f"dataset.sources={{one: {{train: {pairs}, max_length: {{positive: 9}}}}, two: {{train: {scored}, loss: {{name: cosent}}}}}}",
        "mine.num_negatives=2",
    )
    assert stpipe("mine", *both, "mine.output=mined") == 0
    assert sorted(files("mined")) == ["eval.parquet", "mine.html", "mine.json", "train.parquet"], "one was mined, two are no pairs"
    assert stpipe("train", "run.dir=run", *TRAIN, *both, "loss=mnrl", "trainer.batch_size=4") == 0
    data = json.loads(Path("run/data.json").read_text())["sources"]
    assert data["one"]["train"]["format"] == "triplet" and data["two"]["train"]["format"] == "pair-score"
    assert data["one"]["train"]["roles"]["negative_1"]["max_length"] == 9, "negatives are cut as positives are"


@pytest.mark.slow
def test_rounds_mine_with_the_newest_weights(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipeline.test_resume import stop_after, weights

    options = ("mine.num_negatives=1", "mine.rounds=3", "trainer.max_steps=7", "trainer.save_steps=1", "loss=mnrl", "optimizer.lr=0.01")
    assert stpipe("train", "run.dir=whole", *options) == 0
    steps = [json.loads(Path(f"whole/{place}status.json").read_text())["num_steps"] for place in ("rounds/1/", "rounds/2/", "")]
    assert steps == [2, 2, 3]
    mined = [Path(f"whole/{place}mining/mine.json").read_text() for place in ("rounds/1/", "rounds/2/", "")]
    means = [json.loads(text)["parts"]["train"]["scores"]["negatives"]["mean"] for text in mined]
    assert len(set(means)) == 3, "each round has other weights, so other scores"
    assert stpipe("train", "run.dir=whole", *options) == 2, "a directory that holds a run is refused"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert stpipe("train", "run.dir=cut", *options) == 130
    assert not Path("cut/status.json").exists()
    assert stpipe("train", "run.dir=cut", *options) == 2
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # in the third round, the only one with three steps
        assert stpipe("train", "run.dir=cut", *options, "trainer.resume=auto") == 130
    assert json.loads(Path("cut/status.json").read_text())["state"] == "interrupted"
    assert stpipe("train", "run.dir=cut", *options, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")
    assert stpipe("train", "run.dir=cut", *options, "trainer.resume=auto") == 0, "finished"
    assert stpipe("train", "run.dir=cut", *options, "run.overwrite=true") == 0
    assert weights("cut") == weights("whole")


def test_rounds_are_for_one_process() -> None:
    loaded = Loaded({"mine": {"rounds": 2}})
    with pytest.raises(ConfigError, match="2 processes cannot yet train in rounds"):
        run_rounds(loaded, lambda *given: pytest.fail("trained"), processes=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("trainer.max_steps=1", "trainer.max_steps: found 1, expected at least one for each of 2 rounds"),
        ("trainer.resume=./here", "continues with trainer.resume=auto"),
    ],
)
def test_what_cannot_be_cut_into_rounds(stpipe: Command, capsys: pytest.CaptureFixture[str], changes: str, message: str) -> None:
    assert stpipe("train", "run.dir=run", "mine.rounds=2", "loss=mnrl", changes) == 2
    assert message in capsys.readouterr().err and not Path("run").exists()


def test_a_new_layer_is_added_once(stpipe: Command) -> None:
    options = ("mine.rounds=2", "mine.num_negatives=1", "trainer.max_steps=2", "loss=mnrl", "model.dense=[{out_features: 8}]")
    assert stpipe("train", "run.dir=run", *options) == 0
    modules = json.loads(Path("run/model/modules.json").read_text())
    assert [m["type"].split(".")[-1] for m in modules].count("Dense") == 1
    assert SentenceTransformer("run/model", device="cpu").get_embedding_dimension() == 8


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (("mine.output=full",), 2, "mine.output: full holds files, but no mined data"),
        (("mine.model=./nowhere",), 2, "mine.model: there is no file or directory"),
        (("mine.corpus=./nowhere.jsonl",), 2, "mine.corpus: there is no file or directory"),
        (("mine.cross_encoder=./nowhere", "mine.max_score=1"), 2, "mine.cross_encoder: there is no file or directory"),
        (("mine.num_negative=3",), 2, "Did you mean 'num_negatives'"),
        (("mine.range_max=2",), 2, "mine.range_max: leaves 2 candidates after range_min=0, but num_negatives is 3"),
        (("model=cross_encoder",), 2, "mine.model: required with a cross-encoder"),
        (("dataset.format=pair-score",), 2, "negatives are mined for pair, triplet, n-tuple data"),
        (("dataset.train=scored.jsonl",), 3, "negatives are mined for pair, triplet, n-tuple data, but data set 'default' is pair-score"),
        (("mine.use_faiss=true", "model.similarity=manhattan"), 2, "FAISS searches by cosine, dot"),
    ],
)
def test_mistakes(
    stpipe: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "scored.jsonl").write_text(
        "".join(json.dumps({"anchor": "w1", "positive": word(i), "score": 0.5}) + "\n" for i in range(20))
    )
    mine = () if any(o.startswith("mine.") for o in overrides) else ("mine.num_negatives=3",)
    assert stpipe("mine", *overrides, *mine) == code
    assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "thesis.txt").exists() and not (tmp_path / "outputs").exists()


def test_help_and_a_model_without_a_recipe(stpipe: Command, tiny_model: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", "--help"]) == 0 and "stpipe mine model=minilm" in capsys.readouterr().out
    assert main(["mine", f"mine.model={tiny_model}", f"dataset.train={pairs}", "mine.output=mined", "offline=true"]) == 0
    assert len(rows("mined/train.parquet")) > 50


def test_texts_of_rows_are_read_by_row_group(tmp_path: Path) -> None:
    import pyarrow as pa

    from stpipe.pipeline.mining import write_parquet

    parts = [
        pa.table({"query": [f"q{i}" for i in range(a, b)], "documents": [["x", str(i)] for i in range(a, b)]})
        for a, b in ((0, 3), (3, 3), (3, 9))
    ]
    assert write_parquet(tmp_path / "x.parquet", parts) == 9
    assert parquet_texts(tmp_path / "x.parquet", [1, 3, 8]) == [["q1", "x", "1"], ["q3", "x", "3"], ["q8", "x", "8"]]
