"""`stpipe evaluate MODEL`: evaluators on an existing model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.load import Loaded, to_root
from stpipe.engine.backend import choose_device
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.run import bm25_baselines, evaluate_all
from stpipe.evaluation.write import write_evaluation
from stpipe.models.load import load_model
from stpipe.models.paths import resolve_path
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console


def run_evaluate(model: str, loaded: Loaded) -> int:
    """Evaluate and write `evaluate/NAME/` into the run directory that MODEL is, else into outputs/evaluate/<model>/.

    Only the weights' place is taken from the configuration's model section: what a recipe would add to a base model is in
    the saved one already.

    Args:
        model: as the user gave it.
        loaded: configuration with the evaluators, the held-out data, and model.name_or_path pointing to the weights.
    """
    out = console(loaded.values["trainer"]["progress"])
    root = to_root(loaded.values)
    if not root.evaluator:
        raise ConfigError(Problem("evaluator", "there is no evaluator. Name one (evaluator=retrieval), or a recipe that has some"))
    encoder = load_model(resolve_path(root.model.name_or_path, offline=root.offline), device=choose_device(root.trainer.device))
    data = load_data(root, encoder, out)
    rows = {name: source.rows() for name, source in data.eval.items()}
    results = evaluate_all(encoder, root.evaluator, rows, batch_size=root.trainer.eval_batch_size)
    baselines = bm25_baselines(root.evaluator, rows, similarity=encoder.similarity_fn_name)
    folder = output_folder(model)
    for name, result in results.items():
        bm25 = {"bm25": baselines[name]} if name in baselines else {}
        write_evaluation(folder / name, {"after": result, **bm25})
    Console().print(results_table(results, baselines))
    out.print(f"Written to {folder}")
    return 0


def output_folder(model: str) -> Path:
    """Where the results of a model go."""
    path = Path(model)
    if (path / "config.yaml").is_file() and (path / "model").is_dir():
        return path / "evaluate"
    slug = "".join(c if c.isalnum() or c in "-._" else "-" for c in model).strip("-.")
    return Path("outputs") / "evaluate" / slug


def results_table(results: Mapping[str, Evaluation], baselines: Mapping[str, Evaluation]) -> Table:
    """All metrics, the primary ones marked, BM25 beside them where it has them."""
    table = Table()
    for title in ("metric", "model", "BM25"):
        table.add_column(title, justify="left" if title == "metric" else "right")
    for name, result in results.items():
        bm25 = baselines[name].metrics if name in baselines else {}
        for metric, value in result.metrics.items():
            style = "bold" if metric == result.primary else None
            table.add_row(f"{name}_{metric}", f"{value:.4f}", f"{bm25[metric]:.4f}" if metric in bm25 else "", style=style)
    return table
