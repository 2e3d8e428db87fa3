"""Exports as a stage of a run, and `stpipe export MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stpipe.cards.card import write_card
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.load import Loaded, to_root
from stpipe.export.run import RejectedError, export_all
from stpipe.export.source import Source
from stpipe.export.table import EXPORTS_FOLDER, verification_rows
from stpipe.models.load import load_model
from stpipe.models.paths import resolve_path
from stpipe.pipeline.assemble import load_data
from stpipe.pipeline.console import console
from stpipe.pipeline.evaluate import output_folder
from stpipe.pipeline.mined_data import with_mined_data
from stpipe.pipeline.run import Assembled


def export_run(run: Assembled) -> None:
    """Export the saved model of a run. Where an export is rejected the card is written first, because it shows why, and the stage fails."""
    parts, directory = run.parts, run.directory
    source = Source.of(
        directory.model,
        evaluators=parts.evaluators,
        rows=parts.eval_rows(),
        training={name: data.rows() for name, data in parts.data.train.items()},
        batch_size=run.settings.eval_batch_size,
    )
    try:
        export_all(source, parts.root.export, directory.exports, notify=lambda line: run.out.print(line, markup=False))
    except RejectedError:
        write_card(directory.path, directory.model)
        raise


def run_export(model: str, loaded: Loaded) -> int:
    """Export a model and verify it; returns the exit code.

    Exports of a run go into its own `exports`, those of another model into outputs/export/<model>/exports.

    Args:
        model: as the user gave it.
        loaded: configuration with the exports, the data, and model.name_or_path pointing to the weights.

    Raises:
        ConfigError: no export is named.
        RejectedError: one deviates by more than it may (exit 5).
    """
    out = console(loaded.values["trainer"]["progress"])
    root = to_root(loaded.values)
    if not root.export:
        raise ConfigError(Problem("export", "there is no export. Name one, like export=onnx (`stpipe list export` shows all)"))
    root = with_mined_data(root, out, training=False).root
    directory = resolve_path(root.model.name_or_path, offline=root.offline)
    data = load_data(root, load_model(directory, device="cpu"), out)
    source = Source.of(
        directory,
        evaluators=root.evaluator,
        rows={name: part.rows() for name, part in data.eval.items()},
        training={name: part.rows() for name, part in data.train.items()},
        batch_size=root.trainer.eval_batch_size,
    )
    home = home_of(model)
    try:
        export_all(source, root.export, home / EXPORTS_FOLDER, notify=lambda line: out.print(line, markup=False))
    finally:
        rows = [row for row in verification_rows(home) if row["name"] in root.export]
        if rows:
            Console().print(exports_table(rows))
            out.print(f"Written to {home / EXPORTS_FOLDER}")
    return 0


def home_of(model: str) -> Path:
    """The directory whose `exports` folder the exports of a model go into."""
    path = Path(model)
    if (path / "config.yaml").is_file() and (path / "model").is_dir():
        return path
    return Path("outputs") / "export" / output_folder(model).name


def exports_table(rows: list[dict[str, Any]]) -> Table:
    """What verification found, an export a line, in 80 columns."""
    table = Table(box=SIMPLE, padding=0, caption="ms of a batch; agree: mean cosine of embeddings or rank correlation")
    table.add_column("export", no_wrap=True)
    for title in ("ok", "max diff", "agree", "metric", "1 text", "32 texts", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        agreement = row["mean_cosine"] if row["mean_cosine"] is not None else row["spearman"]
        table.add_row(
            row["name"],
            "yes" if row["passed"] else "NO",
            "" if row["max_abs"] is None else f"{row['max_abs']:.1e}",
            "" if agreement is None else f"{agreement:.4f}",
            "" if row["metric"] is None else f"{row['metric_difference']:+.4f}",
            *("" if row[key] is None else f"{row[key]:.1f}" for key in ("latency_1_ms", "latency_32_ms")),
            f"{row['size_mb']:.1f}",
            style=None if row["passed"] else "red",
        )
    return table
