"""Cross-field rules: what is valid key by key and still cannot work, or is likely not meant.

They read decoded values and the facts that the schema records of each component, so they need no torch. Each rule is one
function from the `Rules` (values, schema, places) to findings; a new rule is a function and a line in RULES. Rules about
metrics are in `metric_rules`, those about data in `data_rules`, those about backends in `backend_rules`, those about sparse models in `sparse_rules`,
those about cross-encoders in `cross_encoder_rules`, those about mining in `mining`, those about teachers and guides in `teaching_rules`,
those about streams in `streaming_rules`, those about trackers and publishing in `tracker_rules`, about exports in `export_rules`, about the card in `card_rules`. Rules about losses and evaluators see the data as mining and teachers leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stpipe.config.backend_rules import BACKEND_RULES
from stpipe.config.card_rules import CARD_PLACES, CARD_RULES
from stpipe.config.cross_encoder_rules import CROSS_ENCODER_RULES
from stpipe.config.data_format import known_format, sources
from stpipe.config.data_rules import DATA_RULES, places_exist
from stpipe.config.export_rules import EXPORT_RULES, exports_are_installed
from stpipe.config.finding import Finding, Rules
from stpipe.config.formats import FORMATS, LABEL
from stpipe.config.metric_rules import METRIC_RULES
from stpipe.config.mining import MINING_RULES, after_mining, mined_places_exist
from stpipe.config.name_rules import NAME_RULES
from stpipe.config.origins import dotted
from stpipe.config.parallel_rules import PARALLEL_RULES, parallel_files_exist
from stpipe.config.schema import Schema, members
from stpipe.config.slurm_rules import slurm_keys
from stpipe.config.sparse_rules import SPARSE_RULES
from stpipe.config.streaming_rules import STREAMING_RULES
from stpipe.config.teaching import after_teaching
from stpipe.config.teaching_rules import TEACHER_DATA_RULES, TEACHING_RULES, teacher_places_exist
from stpipe.config.tracker_rules import TRACKER_RULES, trackers_are_installed
from stpipe.config.used_losses import UsedLoss, counts_differ, losses

__all__ = ["Finding", "check"]

SMALL_BATCH = 16
#: Rules about what there is on this machine.
HERE = (
    places_exist,
    parallel_files_exist,
    mined_places_exist,
    teacher_places_exist,
    trackers_are_installed,
    exports_are_installed,
    *CARD_PLACES,
)


def check(values: Mapping[str, Any], schema: Schema, origins: Any, *, elsewhere: bool = False) -> Finding:
    """Run all rules; the result has every problem and every warning.

    Args:
        values: decoded and settled.
        schema: with the facts of the components.
        origins: of the values.
        elsewhere: the run is for another machine, so files and packages are not looked for on this one.
    """
    rules = Rules(values, schema, origins)
    kind = str(rules.component("model", values["model"]["name"]).get("x-kind"))
    mined = replace(rules, values=after_mining(values, kind))
    trained = replace(rules, values=after_teaching(mined.values))
    for rule in (
        *NAME_RULES,
        *DATA_RULES,
        *PARALLEL_RULES,
        *STREAMING_RULES,
        *MINING_RULES,
        *TRACKER_RULES,
        *EXPORT_RULES,
        teacher_places_exist,
        *CARD_PLACES,
    ):
        if not (elsewhere and rule in HERE):
            rule(rules)
    for rule in TEACHER_DATA_RULES:
        rule(mined)
    for rule in (*RULES, *BACKEND_RULES, *SPARSE_RULES, *CROSS_ENCODER_RULES, *TEACHING_RULES, *METRIC_RULES, *CARD_RULES):
        rule(trained)
    return rules.finding


def loss_and_format(rules: Rules) -> None:
    """Loss against the format of each data set."""
    for loss in losses(rules):
        fmt = known_format(loss.section)
        formats = loss.facts.get("x-formats") or list(FORMATS)
        if fmt is not None and fmt not in formats:
            kind = rules.component("model", rules.values["model"]["name"]).get("x-kind")
            losses_for = [d for d in members(rules.schema, "loss") if fmt in (d.get("x-formats") or [])]
            fitting = [d["x-name"] for d in losses_for if kind in d.get("x-kinds", [kind])]
            rules.problem(
                (*loss.path, "name"),
                f"loss '{loss.name}' trains on {', '.join(formats)}, but data set '{loss.source}' is {fmt} "
                f"({dotted((*loss.place, 'format'))} or its roles). Losses for {fmt}: {', '.join(fitting) or 'none'}",
            )


def loss_is_known(rules: Rules) -> None:
    """A loss that only the data can decide is said to be open."""
    for name, _, section in sources(rules.values["dataset"]):
        if section["loss"] is None and rules.values["loss"] is None:
            what = "the loss follows from the data's format, which only the data tells"
            rules.warn(f"data set '{name}': {what}; set dataset.format or loss to fix it now")


def loss_and_model(rules: Rules) -> None:
    """Loss against the kind of model, and its similarity against those the model's embeddings allow."""
    model = rules.values["model"]
    facts = rules.component("model", model["name"])
    for loss in losses(rules, wrappers=True):
        kinds, used = loss.facts.get("x-kinds"), loss.values.get("similarity")
        if kinds and facts.get("x-kind") not in kinds:
            message = f"loss '{loss.name}' is for {', '.join(kinds)} models, but model.name is '{model['name']}' ({facts.get('x-kind')})"
            rules.problem((*loss.path, "name"), message)
        key = (*loss.path, "similarity")
        if used and used not in facts.get("x-similarities", [used]):
            rules.problem(key, f"'{used}' is no similarity of model '{model['name']}' ({', '.join(facts['x-similarities'])})")
        elif used and model.get("similarity") not in (None, used):
            rules.warn(f"{dotted(key)} is {used}, but model.similarity is {model['similarity']}: trained for one and used with the other")


def loss_and_strategy(rules: Rules) -> None:
    """Coupling of the loss against those that the strategy can compute."""
    strategy = rules.values["strategy"]["name"]
    allowed = rules.component("strategy", strategy).get("x-couplings")
    for loss in losses(rules, wrappers=True):
        coupling = loss.facts.get("x-coupling")
        if allowed is not None and coupling not in (None, "inherit", *allowed):
            fitting = [d["x-name"] for d in members(rules.schema, "strategy") if coupling in d.get("x-couplings", [])]
            rules.problem(
                ("strategy", "name"),
                f"'{strategy}' computes {'-, '.join(allowed)}-coupled losses only, but {dotted((*loss.path, 'name'))} = '{loss.name}' "
                f"is {coupling}-coupled. Use strategy {' or '.join(fitting) or 'plain'}, or another loss",
            )
    if allowed is not None and "batch" not in allowed:
        _counts_and_strategy(rules, strategy)


def _counts_and_strategy(rules: Rules, strategy: str) -> None:
    """Several losses of one data set that are computed part by part must be means over the same number."""
    used: dict[str, list[UsedLoss]] = {}
    for loss in losses(rules):
        used.setdefault(loss.source, []).append(loss)
    for source, parts in used.items():
        counts = [str(loss.facts.get("x-counts", "rows")) for loss in parts]
        if counts_differ(counts):
            keys = ", ".join(dotted((*loss.path, "name")) for loss in parts)
            found = ", ".join(f"'{loss.name}' over {count}" for loss, count in zip(parts, counts, strict=True))
            rules.problem(
                ("strategy", "name"),
                f"'{strategy}' computes part by part, but the losses of data set '{source}' ({keys}) are means over what differs in number ({found}), "
                "so the parts would shift their weights. Use strategy recompute",
            )


def parameters_and_strategy(rules: Rules) -> None:
    """Losses with parameters of their own under a strategy that does not train these."""
    strategy = rules.values["strategy"]["name"]
    if rules.component("strategy", strategy).get("x-trains_objectives", True):
        return
    for loss in losses(rules, wrappers=True):
        learns = loss.facts.get("x-learns")
        if learns == "always" or (learns is not None and loss.values.get(learns)):
            why = f"'{loss.name}'" + ("" if learns == "always" else f" with {dotted((*loss.path, learns))}")
            rules.problem(
                ("strategy", "name"),
                f"'{strategy}' does not train what a loss learns itself, but {dotted((*loss.path, 'name'))} = {why} has parameters of its own. "
                "Use strategy recompute, which takes the same memory",
            )


def in_batch_negatives(rules: Rules) -> None:
    """Good practice for losses whose negatives are the other rows of the batch."""
    trainer, sampler = rules.values["trainer"], rules.values["sampler"]
    for loss in losses(rules):
        if loss.facts.get("x-coupling") != "anchor":
            continue
        size = loss.section["batch_size"] or trainer["batch_size"]
        if size < SMALL_BATCH:
            message = f"data set '{loss.source}': {size} rows a batch are few for a loss with in-batch negatives"
            rules.warn(f"{message}; memory is no reason, strategy=auto holds one micro-batch at a time where more does not fit")
        if trainer["accumulation_steps"] > 1:
            rules.warn(
                "trainer.accumulation_steps adds no in-batch negatives; a larger trainer.batch_size does, and strategy=auto makes it fit"
            )
        if sampler["name"] == "random":
            rules.warn("sampler 'random' can put a text twice into a batch, where it is a false negative; sampler=no_duplicates cannot")


def better_known_losses(rules: Rules) -> None:
    """Losses that another one replaces with better results."""
    for loss in losses(rules):
        if loss.name == "cosine_similarity":
            rules.warn(f"{dotted(loss.path)}: cosent usually gives better results than cosine_similarity on the same data")


def prefixes(rules: Rules) -> None:
    """Dimensions of Matryoshka losses."""
    heads = rules.values["model"].get("dense") or []
    for loss in losses(rules, wrappers=True):
        if loss.name not in ("matryoshka", "matryoshka_2d"):
            continue
        dims, weights = loss.values["dims"], loss.values["weights"]
        if not dims or len(set(dims)) < len(dims):
            rules.problem((*loss.path, "dims"), f"must name at least one dimension and none twice; found {dims}")
        if weights is not None and len(weights) != len(dims):
            rules.problem((*loss.path, "weights"), f"has {len(weights)} values for {len(dims)} dims")
        if dims and heads and max(dims) > heads[-1]["out_features"]:
            message = f"{max(dims)} is more than the {heads[-1]['out_features']} dimensions that model.dense ends with"
            rules.problem((*loss.path, "dims"), message)


def precision_and_device(rules: Rules) -> None:
    """Precision against the device."""
    trainer = rules.values["trainer"]
    if trainer["precision"] == "fp16" and trainer["device"] == "cpu":
        rules.problem(("trainer", "precision"), "fp16 needs a GPU, but trainer.device is cpu. Use bf16 or fp32")


def sampler_and_format(rules: Rules) -> None:
    """Samplers that group by label need a class in every data set."""
    name = rules.values["sampler"]["name"]
    if not rules.component("sampler", name).get("x-needs_label"):
        return
    for source, place, section in sources(rules.values["dataset"]):
        fmt = known_format(section)
        if fmt is not None and FORMATS[fmt].label != "class":
            where = f"({dotted((*place, 'format'))} or its roles)"
            rules.problem(("sampler", "name"), f"'{name}' needs a class in column '{LABEL}', but data set '{source}' is {fmt} {where}")


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
    parameters_and_strategy,
    in_batch_negatives,
    better_known_losses,
    prefixes,
    precision_and_device,
    sampler_and_format,
    mixing,
    slurm_keys,
)
