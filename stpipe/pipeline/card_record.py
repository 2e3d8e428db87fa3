"""What a run knows for its model card when it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from stpipe.cards.card import TEMPLATE
from stpipe.cards.data import CARD_DATA, SentenceTransformerModelCardData
from stpipe.cards.dataset_metrics import EXAMPLES, sample_rows
from stpipe.cards.datasets import DatasetFacts
from stpipe.cards.losses import get_config_dict
from stpipe.cards.places import hub_id, published
from stpipe.config.errors import ConfigError
from stpipe.data.prepared import PreparedSource
from stpipe.models.paths import resolve_path
from stpipe.pipeline.assemble import Parts
from stpipe.pipeline.card_callback import CARD_CALLBACKS, SentenceTransformerModelCardCallback
from stpipe.pipeline.energy import EnergyMeter
from stpipe.pipeline.run import Run


def card_callback(run: Run) -> SentenceTransformerModelCardCallback:
    """The callback for the kind of model, with a meter where card.energy asks for one."""
    country = run.parts.root.card.energy
    return CARD_CALLBACKS[run.parts.model.kind](run.directory.path, energy=None if country is None else EnergyMeter(country))


def record_start(run: Run, addresses: Mapping[str, str]) -> None:
    """Write card.json, and keep the user's template with the run.

    Args:
        run: the run; its directory is there.
        addresses: data set -> what its training rows were read from.
    """
    keep_template(run.parts.root.card.template, run.directory.path)
    CARD_CALLBACKS[run.parts.model.kind](run.directory.path).on_init_end(card_data(run.parts, addresses))


def keep_template(template: str | None, folder: Path) -> None:
    """Copy the user's template into the run directory, as it is now; a copy from before stays when it is gone."""
    if template is not None and Path(template).expanduser().is_file():
        shutil.copyfile(Path(template).expanduser(), folder / TEMPLATE)


def card_data(parts: Parts, addresses: Mapping[str, str]) -> SentenceTransformerModelCardData:
    """Base model, data sets, losses and, where card.examples allows it, rows of the data.

    Costs a look at up to a thousand rows a data set and at the length of every text: less than a second for millions of rows.
    """
    card = parts.root.card
    data = CARD_DATA[parts.model.kind](language=card.language, license=card.license, model_name=card.model_name)
    start = getattr(parts.root.model, "name_or_path", None)
    data.base_model = None if start is None else published(str(start))
    data.base_model_revision = None if start is None else hub_commit(str(start), getattr(parts.root.model, "revision", None))
    examples = EXAMPLES if card.examples else 0
    data.train_datasets = data.extract_dataset_metadata(
        (dataset_facts(parts, name, source, "train", addresses[name]) for name, source in parts.data.train.items()), examples=examples
    )
    data.eval_datasets = data.extract_dataset_metadata(
        (
            dataset_facts(parts, name, source, "eval", parts.source(name).eval or addresses[name])
            for name, source in parts.data.eval.items()
        ),
        examples=examples,
    )
    data.set_losses(parts.losses)
    if card.examples:
        shown = next(iter((parts.data.eval or parts.data.train).values()))
        data.set_widget_examples(shown.sample(sample_rows(len(shown))))
    return data


def dataset_facts(parts: Parts, name: str, source: PreparedSource, split: str, address: str) -> DatasetFacts:
    """One split of a data set, as it was prepared."""
    loss = parts.losses[name]
    return DatasetFacts(
        name=name,
        address=address,
        rows=source.sample(sample_rows(len(source))),
        size=len(source),
        lengths={role: source.full_lengths(role, source.role(role)) for role in source.roles},
        scan=asdict(parts.data.scan.sources[name][split]),
        loss={"name": type(loss).__name__, "config": get_config_dict(loss)} if split == "train" else None,
    )


def hub_commit(name: str, revision: str | None) -> str | None:
    """The commit of start weights that came from the Hub, by the local cache; None for others."""
    if hub_id(name) is None:
        return None
    try:
        path = resolve_path(name, offline=True, revision=revision)
    except ConfigError:
        return None
    return path.name if path.parent.name == "snapshots" else None
