from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from stpipe.models.sentence_transformer import SentenceTransformer
from tests.pipeline.conftest import Command

EVALUATOR = "+evaluator.dev.name=information_retrieval"


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_the_contract_names(stpipe: Command) -> None:
    assert stpipe("train", "run.dir=out", "trainer.max_steps=4", "trainer.log_steps=1", "trainer.eval_steps=2", EVALUATOR) == 0
    run = Path("out")
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"], status["num_steps"]) == ("finished", 0, 4, 4)
    assert [name for name, stage in status["stages"].items() if stage["state"] == "finished"] == [
        "evaluate_before",
        "train",
        "save",
        "evaluate",
        "card",
        "report",
    ]
    assert json.loads((run / "report.json").read_text())["schema_version"] == 1
    losses = [r["value"] for r in records(run) if r["name"] == "loss"]
    assert len(losses) == 4 and all(0 < v < 10 for v in losses)
    evaluated = {(r["split"], r["step"]) for r in records(run) if r["name"] == "dev_cosine_ndcg@10"}
    assert evaluated == {("eval", 0), ("eval", 2), ("final", 4)}
    systems = json.loads((run / "evaluation" / "dev" / "metrics.json").read_text())["systems"]
    assert set(systems) == {"before", "after", "bm25"}
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    assert {"README.md", "modules.json", "model.safetensors"} <= {p.name for p in (run / "model").iterdir()}
    for name in ("environment.json", "plan.json", "data.json", "report.json", "report.html"):
        assert (run / name).stat().st_size > 50, name
    assert not [p for p in run.rglob("*") if p.name.startswith(".")], "something unfinished was left behind"


def test_training_changes_the_weights_and_the_saved_model_is_the_trained_one(stpipe: Command, tiny_model: Path) -> None:
    assert stpipe("train", "run.dir=out", "trainer.max_steps=3") == 0
    texts = ["w1 w2", "w3"]
    trained, start = SentenceTransformer("out/model").encode(texts), SentenceTransformer(str(tiny_model)).encode(texts)
    assert np.abs(trained - start).max() > 1e-3


def test_a_directory_that_holds_a_run_is_refused_until_told_what_to_do(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    first = ("train", "run.dir=out", "trainer.max_steps=2")
    assert stpipe(*first) == 0
    weights = (Path("out") / "model" / "model.safetensors").read_bytes()
    assert stpipe(*first) == 2
    message = capsys.readouterr().err
    assert "trainer.resume=auto" in message and "run.overwrite=true" in message
    assert stpipe(*first, "trainer.resume=auto") == 0
    assert stpipe("train", "run.dir=out", "trainer.max_steps=3", "trainer.resume=auto") == 2
    assert "trainer.max_steps: 2 in the run, 3 now" in capsys.readouterr().err
    assert (Path("out") / "model" / "model.safetensors").read_bytes() == weights
    assert stpipe("train", "run.dir=out", "trainer.max_steps=3", "run.overwrite=true") == 0
    assert json.loads((Path("out") / "status.json").read_text())["step"] == 3


def test_other_files_are_never_replaced_unasked(stpipe: Command) -> None:
    Path("out").mkdir()
    (Path("out") / "thesis.txt").write_text("years of work")
    assert stpipe("train", "run.dir=out", "trainer.max_steps=1") == 2
    assert (Path("out") / "thesis.txt").read_text() == "years of work"


def test_best_model_is_kept_and_evaluates_to_the_same_metrics(stpipe: Command) -> None:
    code = stpipe(
        "train", "run.dir=out", "trainer.max_steps=8", "trainer.eval_steps=2", "optimizer.lr=0.05", EVALUATOR, "trainer.best_metric=dev_cosine_mrr@10"
    )  # fmt: skip
    assert code == 0
    values = {(r["split"], r["step"]): r["value"] for r in records(Path("out")) if r["name"] == "dev_cosine_mrr@10"}
    during = {step: value for (split, step), value in values.items() if split == "eval" and step > 0}
    assert set(during) == {2, 4, 6, 8}
    assert values[("final", 8)] == max(during.values())


def test_early_stopping_says_so(stpipe: Command) -> None:
    code = stpipe(
        "train", "run.dir=out", "trainer.max_steps=40", "trainer.eval_steps=1", "optimizer.lr=0", EVALUATOR,
        "trainer.best_metric=dev_cosine_mrr@10", "trainer.early_stopping_patience=2",
    )  # fmt: skip
    assert code == 0
    assert json.loads((Path("out") / "status.json").read_text())["step"] == 3


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_keeps_full_weights(stpipe: Command, precision: str) -> None:
    from safetensors.torch import load_file

    assert stpipe("train", "run.dir=out", "trainer.max_steps=2", f"trainer.precision={precision}") == 0
    assert {str(t.dtype) for t in load_file("out/model/model.safetensors").values()} == {"torch.float32"}


def test_accumulated_batches_make_the_gradient_of_all_rows(stpipe: Command) -> None:
    """A row-coupled loss on 4 x 4 rows steps exactly like 16 rows, dropout off, whatever the cut."""
    score = Path("scored.jsonl")
    rows = [{"anchor": f"w{i} w{i + 1}", "positive": f"w{i + 2}", "label": (i % 5) / 4} for i in range(40)]
    score.write_text("".join(json.dumps(r) + "\n" for r in rows))
    shared = (
        f"dataset.train={score.resolve()}", "loss=cosine_similarity", "model.hidden_dropout=0", "model.attention_dropout=0",
        "sampler=random", "trainer.max_steps=2", "scheduler=constant", "scheduler.warmup=0",
    )  # fmt: skip
    assert stpipe("train", "run.dir=whole", "trainer.batch_size=16", *shared) == 0
    assert stpipe("train", "run.dir=parts", "trainer.batch_size=4", "trainer.accumulation_steps=4", *shared) == 0
    whole, parts = (SentenceTransformer(f"{name}/model").encode(["w1 w2", "w9"]) for name in ("whole", "parts"))
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_a_failing_stage_after_saving_leaves_the_model_and_says_so(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.pipeline import later

    def broken(*args: object) -> None:
        raise OSError("no room for a card")

    monkeypatch.setattr(later, "write_card", broken)
    assert stpipe("train", "run.dir=out", "trainer.max_steps=1") == 5
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("partial", 5)
    assert "card: OSError: no room for a card" in status["error"]
    assert SentenceTransformer("out/model").encode(["w1"]).shape == (1, 32)
    monkeypatch.undo()


def test_nan_ends_the_run_with_exit_1(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code = stpipe("train", "run.dir=out", "trainer.max_steps=20", "trainer.log_steps=1", "optimizer.lr=1e30", "trainer.max_grad_norm=null")
    assert code == 1
    assert json.loads(Path("out/status.json").read_text())["state"] == "failed"
    assert "optimizer.lr" in capsys.readouterr().err


def test_interruption_is_recorded(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.engine.loop import Trainer

    def interrupt(self: Trainer, *, leave: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_evaluate_and_save", interrupt)
    assert stpipe("train", "run.dir=out", "trainer.max_steps=5") == 130
    assert json.loads(Path("out/status.json").read_text())["state"] == "interrupted"


def test_evaluate_verb_gives_the_metrics_of_the_run(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    from stpipe.cli.main import main

    assert stpipe("train", "run.dir=out", "trainer.max_steps=2", EVALUATOR) == 0
    assert main(["evaluate", "out"]) == 0
    again = json.loads(Path("out/evaluate/dev/metrics.json").read_text())["systems"]["after"]
    first = json.loads(Path("out/evaluation/dev/metrics.json").read_text())["systems"]["after"]
    assert again == pytest.approx(first, abs=1e-9)
    assert "dev_cosine_ndcg@10" in capsys.readouterr().out


def test_prepare_fills_the_cache_that_train_reads(stpipe: Command, fresh_cache: Path) -> None:
    assert stpipe("prepare") == 0
    before = {p: p.stat().st_mtime_ns for p in fresh_cache.rglob("*") if p.suffix == ".arrow"}
    assert before
    assert stpipe("train", "run.dir=out", "trainer.max_steps=1") == 0
    assert {p: p.stat().st_mtime_ns for p in fresh_cache.rglob("*") if p.suffix == ".arrow"} == before
