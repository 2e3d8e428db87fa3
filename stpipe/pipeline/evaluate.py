"""`stpipe evaluate MODEL`: evaluators on an existing model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.file_names import file_name
from stpipe.config.load import Loaded, to_root
from stpipe.config.sections import RootConfig
from stpipe.core.peers import Peers
from stpipe.engine.backends import choose_device
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.helping import with_all
from stpipe.evaluation.run import all_baselines, evaluate_all
from stpipe.evaluation.write import write_evaluation
from stpipe.models.base_model import BaseModel
from stpipe.models.load import load_model
from stpipe.models.paths import resolve_path
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console
from stpipe.pipeline.mined_data import with_mined_data
from stpipe.reports.text import system_name


def run_evaluate(model: str, loaded: Loaded, *, peers: Peers | None = None) -> int:
    """Evaluate and write `evaluate/NAME/` into the run directory that MODEL is, else into outputs/evaluate/<model>/.

    Only the weights' place is taken from the configuration's model section: what a recipe would add to a base model is in
    the saved one already.

    Args:
        model: as the user gave it.
        loaded: configuration with the evaluators, the held-out data, and model.name_or_path pointing to the weights.
        peers: the processes that compute; None: this one alone.
    """
    peers = peers or Peers()
    out = console(loaded.values["trainer"]["progress"] if peers.is_main else "off")
    root = to_root(loaded.values)
    if not root.evaluator:
        raise ConfigError(Problem("evaluator", "there is no evaluator. Name one (evaluator=retrieval), or a recipe that has some"))
    device = own_device(choose_device(root.trainer.device), peers)
    with peers.main_first("model"):  # which may be downloaded
        encoder = load_model(resolve_path(root.model.name_or_path, offline=root.offline), device=device)
    with_all(peers, encoder, "evaluate", lambda: evaluate_model(model, encoder, root, out))
    return 0


def evaluate_model(model: str, encoder: BaseModel, root: RootConfig, out: Console) -> None:
    """Run the evaluators and the systems without a model, write and show what they found."""
    root = with_mined_data(root, out, training=False).root
    data = load_data(root, encoder, out)
    rows = {name: source.rows() for name, source in data.eval.items()}
    results = evaluate_all(encoder, root.evaluator, rows, batch_size=root.trainer.eval_batch_size)
    baselines = all_baselines(root.evaluator, rows, similarity=encoder.similarity_fn_name)
    folder = output_folder(model)
    for name, result in results.items():
        write_evaluation(folder / file_name(name), {"after": result, **baselines[name]})
    Console().print(results_table(results, baselines))
    out.print(f"Written to {folder}")


def own_device(device: str, peers: Peers) -> str:
    """The device of this process, of a type of which the machine may have several."""
    if peers.size == 1 or device != "cuda":
        return device
    if peers.local_rank >= torch.cuda.device_count():
        text = f"process {peers.local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}"
        raise ConfigError(Problem("backend.num_processes", text))
    return f"{device}:{peers.local_rank}"


def output_folder(model: str) -> Path:
    """Where the results of a model go."""
    path = Path(model)
    if (path / "config.yaml").is_file() and (path / "model").is_dir():
        return path / "evaluate"
    slug = "".join(c if c.isalnum() or c in "-._" else "-" for c in model).strip("-.")
    return Path("outputs") / "evaluate" / file_name(slug)


def results_table(results: Mapping[str, Evaluation], baselines: Mapping[str, Mapping[str, Evaluation]]) -> Table:
    """All metrics, the primary ones marked, the systems without a model beside them where they have them."""
    systems = list(dict.fromkeys(system for found in baselines.values() for system in found))
    table = Table()
    table.add_column("metric")
    for title in ("model", *map(system_name, systems)):
        table.add_column(title, justify="right")
    for name, result in results.items():
        for metric, value in result.metrics.items():
            others = (baselines[name][s].metrics.get(metric) if s in baselines[name] else None for s in systems)
            shown = ["" if other is None else f"{other:.4f}" for other in others]
            table.add_row(f"{name}_{metric}", f"{value:.4f}", *shown, style="bold" if metric == result.primary else None)
    return table
