"""card.json: what a run collected for its card when it happened, and the card data that it makes together with the other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpipe.cards.data import CARD_DATA, SentenceTransformerModelCardData
from stpipe.cards.hyperparameters import hyper_parameters, is_hyper_parameter
from stpipe.cards.kinds import CardKind
from stpipe.cards.losses import run_losses
from stpipe.cards.places import published_value
from stpipe.reports.atomic import write_text
from stpipe.reports.changes import changed_keys
from stpipe.reports.run_record import RunRecord, mapping
from stpipe.reports.schema import metric_directions
from stpipe.reports.training import best_step

FILE = "card.json"


def read_collected(run_dir: Path) -> dict[str, Any]:
    """What card.json of a run directory holds; empty when it is absent or damaged."""
    try:
        found = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_collected(run_dir: Path, data: SentenceTransformerModelCardData) -> Path:
    """Write card.json whole."""
    return write_text(run_dir / FILE, json.dumps(data.to_dict(), indent=1, ensure_ascii=False) + "\n")


def collected(record: RunRecord, kind: CardKind, schema: Mapping[str, Any]) -> SentenceTransformerModelCardData:
    """The card data of a run: card.json, what its configuration says of the card, its hyper-parameters, logs and results."""
    stored = read_collected(record.directory)
    data = CARD_DATA[kind.name].from_dict(stored)
    card = record.section("card")
    data.language = card.get("language") or data.language
    data.license = card.get("license") or data.license
    data.model_name = card.get("model_name") or data.model_name
    data.base_model = record.section("model").get("name_or_path") or data.base_model
    data.set_loss_facts(data.loss_facts() or run_losses(record, schema))
    if not card.get("examples"):
        data = _without_rows(data)
    return _with_results(data, record, schema)


def _with_results(data: SentenceTransformerModelCardData, record: RunRecord, schema: Mapping[str, Any]) -> SentenceTransformerModelCardData:
    """The members that other files hold."""
    best = best_step(record, metric_directions(record, schema))
    changes = changed_keys(record.config, schema)
    data.all_hyperparameters = hyper_parameters(record.config)
    data.non_default_hyperparameters = {c.key: published_value(c.value) for c in changes if is_hyper_parameter(c.key)}
    data.training_logs = training_logs(record)
    data.eval_results = {e.name: dict(e.systems.get("after", {})) for e in record.evaluations}
    data.best_model_step = best.step if best else None
    data.version = {str(name): str(version) for name, version in mapping(record.environment.get("versions")).items()}
    return data


def training_logs(record: RunRecord) -> list[dict[str, Any]]:
    """A mapping for each step that was logged or evaluated: Epoch, Step, Training Loss, and evaluation metrics by name."""
    epochs = record.log.epochs()
    found: dict[int, dict[str, Any]] = {}
    series = [("Training Loss", record.log.series("loss"))]
    series += [(name, record.log.series(name, split="eval")) for name in record.log.names("eval")]
    for name, points in series:
        for point in points:
            found.setdefault(point.step, {"Epoch": epochs.get(point.step), "Step": point.step})[name] = point.value
    return [found[step] for step in sorted(found)]


def _without_rows(data: SentenceTransformerModelCardData) -> SentenceTransformerModelCardData:
    """The same when the author does not, or no longer, allow rows of the data in the card."""
    data.usage_examples, data.widget = [], []
    for dataset in (*data.train_datasets, *data.eval_datasets):
        dataset["samples"] = []
    return data
