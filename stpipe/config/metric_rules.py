"""Cross-field rules about evaluators, and the names of all metrics of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stpipe.config.data_format import known_format, sources
from stpipe.config.errors import ConfigError
from stpipe.config.finding import Rules
from stpipe.config.metrics import MetricSet, Outputs, configured_metrics
from stpipe.config.origins import Path
from stpipe.config.schema import members
from stpipe.config.suggest import did_you_mean
from stpipe.config.used_losses import losses

#: Similarity of models that say nothing themselves, by kind.
FALLBACK_SIMILARITIES = {"dense": "cosine", "sparse": "dot"}
#: Settings that only one kind of model has, and what does the same for the other.
KIND_OF_SETTING = {
    "truncate_dim": ("dense", "max_active_dims"),
    "max_active_dims": ("sparse", "truncate_dim"),
    "active_dims_curve": ("sparse", None),
}


def evaluators(rules: Rules) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """(key path, values) of each evaluator, also of those inside others."""

    def walk(path: Path, values: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        yield path, values
        facts = rules.component("evaluator", values["name"]).get("x-metrics") or {}
        field: str = facts.get("children") or ""
        for name, inner in (values.get(field) or {}).items():
            yield from walk((*path, field, name), inner)

    for name, values in rules.values["evaluator"].items():
        yield from walk(("evaluator", name), values)


def evaluator_and_data(rules: Rules) -> None:
    """Each evaluator against its data set: does it exist, is it clear which, is its format one that it reads?"""
    known = {name: section for name, _, section in sources(rules.values["dataset"])}
    for path, values in evaluators(rules):
        facts = rules.component("evaluator", values["name"])
        inner = (facts.get("x-metrics") or {}).get("children")
        if inner or has_own_data(facts, values) or "source" not in facts.get("properties", {}) or not facts.get("x-formats"):
            continue
        source = values["source"]
        if source is not None and source not in known:
            rules.problem((*path, "source"), f"unknown data set '{source}'. {did_you_mean(source, known)}Data sets: {', '.join(known)}")
            continue
        if source is None and len(known) > 1:
            rules.problem((*path, "source"), f"required with several data sets: which of them to evaluate on ({', '.join(known)})")
            continue
        name = source or next(iter(known))
        fmt = known[name]["eval_format"] or known_format(known[name])
        if fmt is not None and fmt not in facts["x-formats"]:
            fitting = [d["x-name"] for d in members(rules.schema, "evaluator") if fmt in (d.get("x-formats") or [])]
            rules.problem(
                (*path, "name"),
                f"evaluator '{values['name']}' reads {', '.join(facts['x-formats'])}, but data set '{name}' is {fmt}. For {fmt}: {', '.join(fitting) or 'none'}",
            )
        if not known[name]["eval_rows"] and known[name]["eval"] is None:
            rules.problem(path, f"data set '{name}' has no held-out rows: eval is not set and eval_rows is 0")


def has_own_data(facts: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """True for an evaluator that brings its collection in files of its own."""
    return "queries" in facts.get("properties", {}) and values.get("queries") is not None


def evaluator_and_model(rules: Rules) -> None:
    """Kinds of model, and similarity functions that its embeddings allow."""
    model = rules.component("model", rules.values["model"]["name"])
    for path, values in evaluators(rules):
        kinds = rules.component("evaluator", values["name"]).get("x-kinds")
        if kinds and model.get("x-kind") not in kinds:
            rules.problem(
                (*path, "name"),
                f"evaluator '{values['name']}' is for {', '.join(kinds)} models, not for model '{rules.values['model']['name']}'",
            )
        if rules.component("evaluator", values["name"]).get("x-num_outputs") == "one" and model_outputs(rules) == "classes":
            rules.problem(
                (*path, "name"),
                f"evaluator '{values['name']}' needs one score for each pair, but model '{rules.values['model']['name']}' gives one for each "
                "class. Use cross_encoder_classification, or set model.num_labels to 1",
            )
        settings_of_the_kind(rules, path, values, str(model.get("x-kind")))
        for key in ("similarities", "main_similarity", "similarity"):
            given = values.get(key)
            for name in given if isinstance(given, list) else [given]:
                if name is not None and name not in model.get("x-similarities", [name]):
                    rules.problem(
                        (*path, key),
                        f"'{name}' is no similarity of model '{rules.values['model']['name']}' ({', '.join(model['x-similarities'])})",
                    )


def settings_of_the_kind(rules: Rules, path: Path, values: Mapping[str, Any], kind: str) -> None:
    """No setting that the embeddings of this kind of model do not have."""
    for key, (wanted, instead) in KIND_OF_SETTING.items():
        if values.get(key) and kind in ("dense", "sparse") and kind != wanted:
            fix = f"; use {instead}" if instead else "; remove it"
            rules.problem((*path, key), f"is for {wanted} models, but model '{rules.values['model']['name']}' is {kind}{fix}")


def model_outputs(rules: Rules) -> Outputs:
    """What a cross-encoder gives for a pair: as model.num_labels says, else as the losses need it."""
    model = rules.values["model"]
    if "num_labels" not in model:
        return "one"
    if model["num_labels"] is not None:
        return "classes" if model["num_labels"] > 1 else "one"
    return "classes" if any(loss.facts.get("x-num_outputs") == "classes" for loss in losses(rules)) else "one"


def metric_sets(rules: Rules) -> dict[str, MetricSet]:
    """Metrics of each evaluator whose settings allow to tell them."""
    model = rules.values["model"]
    kind = str(rules.component("model", model["name"]).get("x-kind") or "dense")
    similarity = model.get("similarity") or FALLBACK_SIMILARITIES.get(kind, "cosine")
    outputs = model_outputs(rules)
    found: dict[str, MetricSet] = {}
    for name, values in rules.values["evaluator"].items():
        try:
            found[name] = configured_metrics(
                values, lambda n: rules.component("evaluator", n)["x-metrics"], similarity=similarity, kind=kind, outputs=outputs
            )
        except ConfigError as error:
            for problem in error.problems:
                rules.problem(("evaluator", name), problem.message)
        except (KeyError, TypeError):
            rules.warn(
                f"evaluator '{name}' ({values['name']}) does not say what it reports, so trainer.best_metric cannot be checked for it"
            )
    return found


def metric_names(rules: Rules) -> None:
    """best_metric must be one that some evaluator reports, and one of which more or less is better."""
    best, patience = rules.values["trainer"]["best_metric"], rules.values["trainer"]["early_stopping_patience"]
    sets = metric_sets(rules)
    better = {full: good for name, found in sets.items() for full, good in found.prefixed(name).better.items()}
    rules.finding.metrics = tuple(full for full, good in better.items() if good is not None)
    key: Path = ("trainer", "best_metric")
    if patience is not None and best is None:
        rules.problem(("trainer", "early_stopping_patience"), "needs trainer.best_metric: which metric to wait for")
    if best is None:
        return
    if not rules.values["evaluator"]:
        rules.problem(key, "no evaluator is configured, so there is no metric to choose by. Add one, like evaluator=retrieval")
    elif best in better and better[best] is None:
        rules.problem(key, f"'{best}' is neither better high nor low. Use {', '.join(primary(sets))}")
    elif best not in better and len(sets) == len(rules.values["evaluator"]):
        rules.problem(
            key,
            f"unknown metric '{best}'. {did_you_mean(best, better)}Primary: {', '.join(primary(sets))}. All: {', '.join(rules.finding.metrics)}",
        )


def primary(sets: Mapping[str, MetricSet]) -> list[str]:
    """The full name of the primary metric of each evaluator."""
    return [found.prefixed(name).primary for name, found in sets.items()]


def evaluations_there_are(rules: Rules) -> None:
    """Settings that need evaluations during training."""
    trainer = rules.values["trainer"]
    if trainer["eval_steps"] is not None and not rules.values["evaluator"]:
        rules.warn("trainer.eval_steps is ignored: there is no evaluator")
    if trainer["best_metric"] is not None and trainer["eval_steps"] is None:
        rules.warn("trainer.best_metric has one evaluation to choose from: set trainer.eval_steps (0.1 is ten in a run)")
    if trainer["early_stopping_patience"] is not None and trainer["eval_steps"] is None:
        message = "needs trainer.eval_steps: there is only one evaluation, at the end"
        rules.problem(("trainer", "early_stopping_patience"), f"{message}. A value of 0.1 is ten evaluations")


METRIC_RULES: tuple[Callable[[Rules], None], ...] = (evaluator_and_data, evaluator_and_model, metric_names, evaluations_there_are)
