"""Evaluation in several processes by the real command: the files of one process, a rank that fails, weights that are cut over processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stpipe.cli.main import main
from stpipe.core.rows import Rows
from stpipe.evaluation import InformationRetrievalEvaluator
from stpipe.evaluation.write import write_evaluation
from stpipe.models import SentenceTransformer
from tests.launch.runs import OWN, TORCHRUN, Runs
from tests.models.tiny_scores import make_cross_encoder
from tests.models.tiny_splade import splade_model
from tests.pipeline.conftest import word

pytestmark = pytest.mark.slow

#: Counts forwards in evaluation mode on the other ranks, and ends one of them in the third.
WATCHED = '''
from dataclasses import dataclass

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.registry import CALLBACKS
from stpipe.engine.callbacks import Callback


@CALLBACKS.register("watched")
@dataclass
class Watched(Callback):
    """Prints how many forwards there were in evaluation."""

    fails: bool = option(False, help="End rank 1 in an evaluation.")

    def on_train_start(self, trainer):
        self.count = 0
        trainer.model.encoder.stack[0].register_forward_hook(lambda module, *_: self.seen(trainer, module))

    def seen(self, trainer, module):
        if module.training or not trainer.runtime.rank:
            return
        self.count += 1
        print("forwards in evaluation:", self.count, flush=True)
        if self.fails and self.count == 3:
            raise DataError("no room for row 7")
'''
BEST = "dev_cosine_mrr@10"
EVALUATED = ("trainer.eval_batch_size=1", "trainer.eval_steps=4", "model.max_seq_length=8")
#: Short forwards, so that there are some for every process.
SHORT = ("trainer.eval_batch_size=1", "trainer.progress=off", "offline=true", "trainer.device=cpu")
DENSE = (
    "+evaluator.ir={name: information_retrieval, source: docs, corpus_chunk_size: 11, similarities: [cosine, dot]}",
    "+evaluator.sts={name: embedding_similarity, source: sts}",
    "+evaluator.triplet={name: triplet, source: docs}",
    "+evaluator.reranking={name: reranking, source: docs}",
)
SPARSE = ("+evaluator.ir={name: information_retrieval, source: docs, corpus_chunk_size: 11, active_dims_curve: [3]}",)
PAIRS = (
    "+evaluator.reranking={name: cross_encoder_reranking, source: docs}",
    "+evaluator.sts={name: cross_encoder_correlation, source: sts}",
)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(i: int, step: int) -> str:
    return " ".join(word(i * step + k) for k in range(1 + (i * step) % 9))


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, ...]:
    """Data sets of triplets and of scored pairs, all of whose rows but one are held out."""
    docs = [{"anchor": texts(i, 5), "positive": texts(i, 3), "negative_1": texts(i + 9, 7)} for i in range(60)]
    sts = [{"anchor": texts(i, 5), "positive": texts(i, 3), "label": (i % 6) / 5} for i in range(60)]
    held_out = {"docs": docs, "sts": sts}
    found = []
    for name, rows in held_out.items():
        train, held = write(tmp_path / f"{name}-train.jsonl", rows[:2]), write(tmp_path / f"{name}-eval.jsonl", rows[2:])
        found.append(f"+dataset.sources.{name}={{train: '{train}', eval: '{held}'}}")
    return tuple(found)


def place_of(folder: Path, model: Path) -> Path:
    """Where the results of a model are, evaluated in a folder."""
    own = model / "evaluate"
    return own if own.exists() else next((folder / "outputs" / "evaluate").iterdir())


def evaluate_here(folder: Path, model: Path, *overrides: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`stpipe evaluate` in this process, which has one thread, too."""
    assert torch.get_num_threads() == 1
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["evaluate", str(model), *overrides]) == 0
    return place_of(folder, model)


def evaluate(folder: Path, model: Path, *overrides: str, start: Sequence[str] = OWN) -> Path:
    """The command itself; returns the folder of the results."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*start, "evaluate", str(model), *overrides],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place_of(folder, model)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


#: Model -> evaluators, what starts the processes.
STARTED: dict[str, tuple[tuple[str, ...], tuple[str, ...], Sequence[str]]] = {
    "dense": (DENSE, ("backend=ddp", "backend.num_processes=4"), OWN),
    "splade": (SPARSE, ("backend=ddp",), TORCHRUN),
    "cross_encoder": (PAIRS, ("backend=ddp", "backend.num_processes=2"), OWN),
}


@pytest.mark.parametrize("kind", list(STARTED))
def test_every_file_is_that_of_one_process(
    kind: str, tiny_model: Path, sources: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluators, how, start = STARTED[kind]
    model = tiny_model if kind == "dense" else tmp_path / "model"
    if kind != "dense":
        (splade_model() if kind == "splade" else make_cross_encoder("bert")).save_pretrained(model)
    given = (f"model={kind}", *sources, *evaluators, *SHORT)
    one = files(evaluate_here(tmp_path / "one", model, *given, monkeypatch=monkeypatch))
    assert len(one) > len(evaluators) and min(map(len, one.values())) > 100
    assert files(evaluate(tmp_path / "several", model, *given, *how, start=start)) == one


@pytest.mark.parametrize("backend", ["fsdp2", "deepspeed_zero3"])
def test_the_trained_weights_are_evaluated_by_all(runs: Runs, backend: str) -> None:
    """Between and after training; the saved model in one process has the same scores of each query."""
    (runs.folder / "watched.py").write_text(WATCHED)
    watched = ("imports=[watched]", "+callbacks.watched.name=watched", f"backend={backend}", "backend.num_processes=2")
    small = ("backend.small_parameters=0",) if backend == "deepspeed_zero3" else ()
    held_out = [json.loads(line) for line in runs.data.read_text().splitlines()[::2]]
    data = (f"dataset.eval={write(runs.folder / 'held-out.jsonl', held_out)}", "dataset.eval_rows=100")
    done = runs.run("run.dir=out", *watched, *small, *data, *EVALUATED, f"trainer.best_metric={BEST}")
    assert done.returncode == 0, done.stderr[-3000:]
    out = runs.folder / "out"
    (count,) = [line.split()[-1] for line in (out / "logs/rank-1.log").read_text().splitlines() if "forwards" in line][-1:]
    assert int(count) >= 9, "three evaluations after the start of the training"
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = {split: {(r["step"], r["name"]): r["value"] for r in records if r["split"] == split} for split in ("eval", "final")}
    best = max((8, 4), key=lambda step: values["eval"][step, BEST])
    final = {name: value for (_, name), value in values["final"].items()}
    assert {name: values["eval"][best, name] for name in final} == final and len(final) > 5
    model = SentenceTransformer(str(out / "model"), device="cpu")
    rows = Rows({role: [row[role] for row in held_out] for role in ("anchor", "positive")}, None, "pair", {})
    alone = InformationRetrievalEvaluator()(model, rows, batch_size=1)
    assert {f"dev_{name}": value for name, value in alone.metrics.items()} == final
    write_evaluation(out / "alone", {"after": alone})
    assert (out / "alone/run.trec").read_bytes() == (out / "evaluation/dev/run.trec").read_bytes()


def test_a_rank_that_fails_in_an_evaluation_ends_all(runs: Runs) -> None:
    (runs.folder / "watched.py").write_text(WATCHED)
    watched = ("imports=[watched]", "+callbacks.watched={name: watched, fails: true}", "backend.num_processes=2")
    done = runs.run("run.dir=out", *watched, *EVALUATED, "dataset.eval_rows=24")
    assert done.returncode == 3, done.stderr[-2000:]
    assert "rank 1" in done.stderr and "no room for row 7" in done.stderr
    status = runs.status("out")
    assert (status["state"], status["exit_code"]) == ("failed", 3) and "no room for row 7" in status["error"]
