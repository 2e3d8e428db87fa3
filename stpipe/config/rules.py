"""Cross-field rules: what is valid key by key and still cannot work, or is likely not meant.

They read decoded values and the facts that the schema records of each component, so they need no torch. Each rule is one
function from the `Rules` (values, schema, places) to findings; a new rule is a function and a line in RULES. Rules about
metrics are in `metric_rules`, those about data in `data_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stpipe.config.data_format import known_format, sources
from stpipe.config.data_rules import DATA_RULES
from stpipe.config.finding import Finding, Rules
from stpipe.config.formats import FORMATS, LABEL
from stpipe.config.metric_rules import METRIC_RULES
from stpipe.config.origins import Path, dotted
from stpipe.config.resolve import inner_names
from stpipe.config.schema import Schema, members

__all__ = ["Finding", "check"]

SMALL_BATCH = 16


def check(values: Mapping[str, Any], schema: Schema, origins: Any) -> Finding:
    """Run all rules; the result has every problem and every warning."""
    rules = Rules(values, schema, origins)
    for rule in (*DATA_RULES, *RULES, *METRIC_RULES):
        rule(rules)
    return rules.finding


def losses(rules: Rules) -> Iterator[tuple[Path, Mapping[str, Any], str, Mapping[str, Any]]]:
    """(key path of the loss, loss, name of the data set, its section) for each data set whose loss is known."""
    for name, path, section in sources(rules.values["dataset"]):
        if section["loss"] is not None:
            yield (*path, "loss"), section["loss"], name, section
        elif rules.values["loss"] is not None:
            yield ("loss",), rules.values["loss"], name, section


def inner_facts(rules: Rules, loss: Mapping[str, Any]) -> list[tuple[str, Schema]]:
    """(name, facts) of the losses inside wrappers, or of the loss itself."""
    return [(name, rules.component("loss", name)) for name in inner_names(rules.schema, loss)]


def loss_and_format(rules: Rules) -> None:
    """Loss against the format of each data set."""
    for path, loss, name, section in losses(rules):
        fmt = known_format(section)
        if fmt is None:
            continue
        for inner, facts in inner_facts(rules, loss):
            formats = facts.get("x-formats") or list(FORMATS)
            if fmt not in formats:
                fitting = [d["x-name"] for d in members(rules.schema, "loss") if fmt in (d.get("x-formats") or [])]
                key = dotted((*{n: p for n, p, _ in sources(rules.values["dataset"])}[name], "format"))
                rules.problem(
                    (*path, "name"),
                    f"loss '{inner}' trains on {', '.join(formats)}, but data set '{name}' is {fmt} ({key} or its roles). "
                    f"Losses for {fmt}: {', '.join(fitting) or 'none'}",
                )


def loss_is_known(rules: Rules) -> None:
    """A loss that only the data can decide is said to be open."""
    for name, _, section in sources(rules.values["dataset"]):
        if section["loss"] is None and rules.values["loss"] is None:
            rules.warn(
                f"data set '{name}': the loss follows from the data's format, which only the data tells; set dataset.format or loss to fix it now"
            )


def loss_and_model(rules: Rules) -> None:
    """Loss against the kind of model, and its similarity against those the model's embeddings allow."""
    model = rules.component("model", rules.values["model"]["name"])
    stored = rules.values["model"].get("similarity")
    for path, loss, _, _ in losses(rules):
        for inner, facts in inner_facts(rules, loss):
            if facts.get("x-kinds") and model.get("x-kind") not in facts["x-kinds"]:
                kinds = ", ".join(facts["x-kinds"])
                rules.problem(
                    (*path, "name"),
                    f"loss '{inner}' is for {kinds} models, but model.name is '{rules.values['model']['name']}' ({model.get('x-kind')})",
                )
        used = loss.get("similarity")
        if used and used not in model.get("x-similarities", [used]):
            rules.problem(
                (*path, "similarity"),
                f"'{used}' is no similarity of model '{rules.values['model']['name']}' ({', '.join(model['x-similarities'])})",
            )
        elif used and stored and used != stored:
            rules.warn(
                f"{dotted((*path, 'similarity'))} is {used}, but model.similarity is {stored}: the model is trained for one and used with the other"
            )


def loss_and_strategy(rules: Rules) -> None:
    """Coupling of the loss against those that the strategy can compute."""
    strategy = rules.values["strategy"]["name"]
    allowed = rules.component("strategy", strategy).get("x-couplings")
    for path, loss, _, _ in losses(rules):
        for inner, facts in inner_facts(rules, loss):
            coupling = facts.get("x-coupling")
            if allowed is not None and coupling not in (*allowed, None, "inherit"):
                fitting = [d["x-name"] for d in members(rules.schema, "strategy") if coupling in d.get("x-couplings", [])]
                rules.problem(
                    ("strategy", "name"),
                    f"'{strategy}' computes {'-, '.join(allowed)}-coupled losses only, but {dotted((*path, 'name'))} = '{inner}' is {coupling}-coupled. "
                    f"Use strategy {' or '.join(fitting) or 'plain'}, or another loss",
                )


def in_batch_negatives(rules: Rules) -> None:
    """Good practice for losses whose negatives are the other rows of the batch."""
    trainer, sampler = rules.values["trainer"], rules.values["sampler"]
    for _, loss, name, section in losses(rules):
        facts = [f for _, f in inner_facts(rules, loss)]
        if not any(f.get("x-coupling") == "anchor" for f in facts):
            continue
        size = section["batch_size"] or trainer["batch_size"]
        if size < SMALL_BATCH:
            rules.warn(
                f"data set '{name}': {size} rows a batch are few for a loss with in-batch negatives; memory is no reason, strategy=recompute makes it small"
            )
        if trainer["accumulation_steps"] > 1:
            rules.warn("trainer.accumulation_steps adds no in-batch negatives; a larger trainer.batch_size with strategy=recompute does")
        if sampler["name"] == "random":
            rules.warn(
                "sampler 'random' can put the same text twice into a batch, where it is a false negative; sampler=no_duplicates cannot"
            )


def better_known_losses(rules: Rules) -> None:
    """Losses that another one replaces with better results."""
    for path, loss, _, _ in losses(rules):
        for inner, _ in inner_facts(rules, loss):
            if inner == "cosine_similarity":
                rules.warn(f"{dotted(path)}: cosent usually gives better results than cosine_similarity on the same data")


def prefixes(rules: Rules) -> None:
    """Dimensions of Matryoshka losses."""
    for path, loss, _, _ in losses(rules):
        dims = loss.get("dims")
        if loss["name"] != "matryoshka" or not dims:
            if loss["name"] == "matryoshka":
                rules.problem((*path, "dims"), "must name at least one dimension")
            continue
        if len(set(dims)) < len(dims):
            rules.problem((*path, "dims"), f"names a dimension twice: {dims}")
        if loss.get("weights") is not None and len(loss["weights"]) != len(dims):
            rules.problem((*path, "weights"), f"has {len(loss['weights'])} values for {len(dims)} dims")
        heads = rules.values["model"].get("dense") or []
        width = heads[-1]["out_features"] if heads else None
        if width is not None and max(dims) > width:
            rules.problem((*path, "dims"), f"{max(dims)} is more than the {width} dimensions that model.dense ends with")


def precision_and_device(rules: Rules) -> None:
    """Precision and backend against the device."""
    trainer, backend = rules.values["trainer"], rules.values["backend"]["name"]
    if trainer["precision"] == "fp16" and trainer["device"] == "cpu":
        rules.problem(("trainer", "precision"), "fp16 needs a GPU, but trainer.device is cpu. Use bf16 or fp32")
    devices = rules.component("backend", backend).get("x-devices")
    if devices is not None and trainer["device"] not in (*devices, "auto"):
        rules.problem(("trainer", "device"), f"backend '{backend}' runs on {', '.join(devices)}, not on {trainer['device']}")


def sampler_and_format(rules: Rules) -> None:
    """Samplers that group by label need a class in every data set."""
    name = rules.values["sampler"]["name"]
    if not rules.component("sampler", name).get("x-needs_label"):
        return
    for source, _, section in sources(rules.values["dataset"]):
        fmt = known_format(section)
        if fmt is not None and FORMATS[fmt].label != "class":
            rules.problem(("sampler", "name"), f"'{name}' needs a class in column '{LABEL}', but data set '{source}' is {fmt}")


def mixing(rules: Rules) -> None:
    """Weights count only where batches are drawn by weight."""
    inner = rules.values["dataset"]["sources"]
    if rules.values["sampler"].get("mixing") != "weighted" and any(s["weight"] != 1.0 for s in inner.values()):
        rules.warn("dataset.sources.*.weight is ignored unless sampler.mixing=weighted")


RULES: tuple[Callable[[Rules], None], ...] = (
    loss_and_format,
    loss_is_known,
    loss_and_model,
    loss_and_strategy,
    in_batch_negatives,
    better_known_losses,
    prefixes,
    precision_and_device,
    sampler_and_format,
    mixing,
)
