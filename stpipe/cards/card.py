"""Entry points of the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stpipe.cards.content import card_text
from stpipe.cards.data import SentenceTransformerModelCardData
from stpipe.cards.model_files import read_model
from stpipe.config.errors import ConfigError
from stpipe.reports.atomic import write_text
from stpipe.reports.metrics_log import MetricsLog
from stpipe.reports.run_record import RunRecord, read_run

README = "README.md"
#: A run keeps its own copy of the user's template, so that the card can be built again when the original is gone.
TEMPLATE = "card_template.md.j2"


def write_card(run_dir: Path, model_dir: Path, *, settings: Mapping[str, Any] | None = None, template: Path | None = None) -> Path:
    """Write the model card of a run as README.md into `model_dir` and return its path.

    Everything in it comes from the files of the two directories, so that it can be built again at any time, without
    network and without loading weights. The same files give the same bytes.

    Args:
        run_dir: directory of the run.
        model_dir: directory of its model.
        settings: keys of the `card` section that replace those of the run.
        template: the user's template; None takes the one that the run was given, else that of the kind of model.

    Raises:
        ConfigError: `run_dir` is no directory, holds no run at all, or the template fails.
    """
    record = read_run(run_dir)
    if settings:
        record = replace(record, config={**record.config, "card": {**record.section("card"), **settings}})
    stored = run_dir / TEMPLATE
    chosen = template or (stored if stored.is_file() else None)
    return write_text(model_dir / README, card_text(record, read_model(model_dir), template=chosen))


def write_model_card(model_dir: Path, *, data: SentenceTransformerModelCardData | None = None, template: Path | None = None) -> Path:
    """Write the card of a saved model of which there is no run: what its directory says, and what `data` adds.

    Raises:
        ConfigError: `model_dir` is no model directory, or the template fails.
    """
    files = ("modules.json", "config.json", "config_sentence_transformers.json")
    if not any((model_dir / name).is_file() for name in files):
        raise ConfigError(f"'{model_dir}' is no model directory: expected one of {', '.join(files)} in it")
    empty: dict[str, Any] = {}
    record = RunRecord(model_dir, empty, empty, empty, empty, empty, MetricsLog())
    return write_text(model_dir / README, card_text(record, read_model(model_dir), template=template, data=data))
