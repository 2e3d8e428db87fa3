"""A run directory whose evaluations are those of real evaluators on toy models, so that every section of the report has something to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    CompressedRetrievalEvaluator,
    CrossEncoderClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.toy import ToyModel, ToyScorer, classed, classes_of_pairs, pairs, scored
from tests.reports import make_run

CUTS = (8, 4)
EVALUATORS: dict[str, Any] = {
    "dev": {"name": "compressed_retrieval", "source": None, "dims": [8, 4]},
    "sts": {"name": "embedding_similarity", "source": None},
    "pairs": {"name": "binary_classification", "source": None},
    "classes": {"name": "cross_encoder_classification", "source": None},
    **{f"cut{dims}": {"name": "information_retrieval", "source": None, "truncate_dim": dims} for dims in CUTS},
}


def make_rich_run(directory: Path) -> Path:
    """A run with retrieval, STS, pairs, classes, evaluators at several widths, lengths, and a recipe that was changed."""
    make_run.make_run(directory)
    config = {**make_run.config(), "evaluator": EVALUATORS}
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    changes = [
        {"key": "optimizer.lr", "value": 2e-5, "recipe": 5e-5, "set_by": "command line"},
        {"key": "offline", "value": True, "recipe": False, "set_by": "configs/profile/offline.yaml:4"},
        {"key": "evaluator.sts", "value": EVALUATORS["sts"], "set_by": ""},
    ]
    make_run.write_json(directory / "recipe.json", {"recipe": "dense_quickstart", "choices": {"loss": "mnrl"}, "changes": changes})
    scan = make_run.data()
    for side, median in (("anchor", 14), ("positive", 75)):
        counts = [round(600 * 0.8 ** abs(i - 9)) for i in range(40)]
        edges = [i * max(median // 10, 1) for i in range(41)]
        scan["sources"]["default"]["train"]["roles"][side]["lengths"] = {"edges": edges, "counts": counts}
    make_run.write_json(directory / "data.json", scan)
    for name, systems in evaluations().items():
        write_evaluation(directory / "evaluation" / name, systems)
    metrics = json.loads((directory / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))
    write_verifications(directory)
    _end_the_curve_at(directory / "metrics.jsonl", metrics["systems"]["after"]["cosine_ndcg@10"])
    return directory


def evaluations() -> dict[str, dict[str, Evaluation]]:
    """Evaluator -> system -> what it found; the trained toy is less noisy."""
    retrieval = CompressedRetrievalEvaluator(dims=(8, 4))
    noises = {"before": 2.6, "after": 1.6}
    found = {
        "dev": {
            **{s: retrieval(ToyModel(noise=n), pairs(120), batch_size=32) for s, n in noises.items()},
            **retrieval.baselines({"x": pairs(120)}, similarity="cosine"),
        },
        "sts": {s: EmbeddingSimilarityEvaluator()(ToyModel(noise=n), scored(240), batch_size=32) for s, n in noises.items()},
        "pairs": {s: BinaryClassificationEvaluator()(ToyModel(noise=n), classed(240), batch_size=32) for s, n in noises.items()},
        "classes": {
            s: CrossEncoderClassificationEvaluator()(ToyScorer(num_labels=3, noise=n), classes_of_pairs(240), batch_size=32)
            for s, n in noises.items()
        },
    }
    for dims in CUTS:
        cut = InformationRetrievalEvaluator(truncate_dim=dims, bm25=None)
        found[f"cut{dims}"] = {s: cut(ToyModel(noise=n), pairs(120), batch_size=32) for s, n in noises.items()}
    return found


def _end_the_curve_at(path: Path, value: float) -> None:
    """Let the evaluations in training rise to what the final one found, at the step whose weights are kept."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    best = max(r["value"] for r in records if r["name"] == "dev_cosine_ndcg@10")
    for record in records:
        if record["split"] == "eval":
            record["value"] *= value / best
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def write_verifications(directory: Path) -> None:
    """Two exports in the format of verification.json, one of them rejected."""
    for place, difference, passed in (("onnx", 0.0, True), ("rejected/int8", -0.08, False)):
        record = {
            "name": place.rpartition("/")[2],
            "export": "onnx",
            "runtime": "onnxruntime",
            "form": "self_contained",
            "precision": "fp32",
            "passed": passed,
            "problems": [] if passed else ["mean cosine 0.81 is below min_cosine 0.95 <b>"],
            "drift": {
                "overall": {
                    "max_abs": 3e-7 if passed else 0.4,
                    "mean_cosine": 1.0 if passed else 0.81,
                    "min_cosine": 0.7,
                    "spearman": None,
                },
                "texts": 64,
                "lengths": [1, 256],
            },
            "metric": {
                "name": "cosine_ndcg@10",
                "model": 0.6,
                "export": 0.6 + difference,
                "difference": difference,
                "low": difference - 0.01,
                "high": difference + 0.01,
            },
            "latency_ms": {"1": {"export": 4.25, "torch": 9.5}, "32": {"export": 101.0, "torch": 140.0}},
            "size": {"export": 23_000_000, "model": 91_000_000},
            "tolerance": {"max_abs": 1e-5},
            "machine": {"processor": "A processor", "threads": 2},
            "runs_with": {"onnxruntime": "1.27.0"},
        }
        make_run.write_json(directory / "exports" / place / "verification.json", record)
