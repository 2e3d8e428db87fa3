"""Names, primary metric and direction of what evaluators report, from their declared facts and values alone.

`validate` refuses an unknown `trainer.best_metric` before anything heavy is imported, so names cannot come from a run of
the evaluator. Evaluators declare templates (`metric_facts`), the schema records them, and both `validate` and the
evaluator itself expand them here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stpipe.config.errors import ConfigError
from stpipe.config.suggest import unknown_name

Better = Literal["higher", "lower"] | None
#: What a model gives for a pair of texts: one score, or one for each class.
Outputs = Literal["one", "classes"]
MAX = "max"


@dataclass(frozen=True)
class MetricSet:
    """The metrics of one evaluator without the evaluator's own name.

    better: metric -> "higher", "lower", or None for a value that has no good side (a threshold), in order of the report;
    primary: the metric that stands for the evaluator.
    """

    better: Mapping[str, Better]
    primary: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.better)

    def greater_is_better(self, metric: str) -> bool:
        """True when a larger value of `metric` is a better model; an unknown or undirected metric is an error."""
        if metric not in self.better:
            raise ConfigError(unknown_name("metric", metric, list(self.better)))
        if self.better[metric] is None:
            raise ConfigError(f"metric '{metric}' is neither better high nor low, so no model can be chosen by it; use {self.primary}")
        return self.better[metric] == "higher"

    def prefixed(self, prefix: str) -> MetricSet:
        """The same metrics as `{prefix}_{metric}`."""
        return MetricSet({f"{prefix}_{name}": better for name, better in self.better.items()}, f"{prefix}_{self.primary}")


def metric(
    template: str,
    *,
    ks: str | None = None,
    better: Better = "higher",
    kinds: tuple[str, ...] | None = None,
    over: Mapping[str, str] | None = None,
    outputs: Outputs | None = None,
) -> dict[str, Any]:
    """One metric.

    Args:
        template: its name; `{similarity}` stands for a similarity function, `{k}` for each value of the field `ks`.
        ks: field of cut-offs.
        better: "higher", "lower", or None for a value that has no good side.
        kinds: kinds of model that have it ("dense", "sparse"); None is all.
        over: further placeholder -> field, for each value of which the metric exists.
        outputs: only models with one output have it, or only those with one for each class; None is all.
    """
    found: dict[str, Any] = {"name": template, "ks": ks, "better": better}
    optional = {"kinds": list(kinds or ()), "over": dict(over or {}), "outputs": outputs}
    return found | {key: value for key, value in optional.items() if value}


def metric_facts(
    primary: dict[str, Any],
    *others: dict[str, Any],
    maximum: bool = False,
    children: str | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """The class attribute `metrics` of an evaluator, all JSON.

    Args:
        primary: the metric that stands for the evaluator; with `ks`, at the greatest k. Of a model that does not have it the
            first of the others that it has.
        others: further metrics, in order of the report.
        maximum: with several similarity functions, each metric also exists for `max`, the best of them, and that is
            the primary one. Otherwise the primary is the one of the first function.
        children: name of the field that maps names to further evaluators, whose metrics are reported too.
        labels: field that some metric is `over` -> what stands in the name for each of its values; a field that is
            None means all of them.
    """
    facts = {"metrics": [primary, *others], "maximum": maximum, "children": children}
    return {**facts, **({"labels": {field: dict(names) for field, names in labels.items()}} if labels else {})}


def expand(
    facts: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    similarity: str,
    kind: str = "dense",
    outputs: Outputs = "one",
    children: Mapping[str, MetricSet] | None = None,
) -> MetricSet:
    """The metrics of an evaluator with these field values.

    Args:
        facts: its `metrics` attribute.
        values: field -> value; read are the fields that `ks` names, `similarities` and `main_similarity`.
        similarity: similarity function of the model, used when the evaluator names none.
        kind: kind of the model.
        outputs: what the model gives for a pair of texts.
        children: metrics of its inner evaluators by name.
    """
    functions = similarity_names(values, similarity=similarity)
    wide = (*functions, MAX) if facts["maximum"] and len(functions) > 1 else functions
    better: dict[str, Better] = {}
    for name, inner in (children or {}).items():
        better.update(inner.prefixed(name).better)
    had = [item for item in facts["metrics"] if kind in item.get("kinds", (kind,)) and item.get("outputs", outputs) == outputs]
    labels = facts.get("labels") or {}
    for fn in wide:
        for item in had:
            for filling in _fillings(item, values, labels):
                better[item["name"].format(similarity=fn, **filling)] = item["better"]
    main = (had or facts["metrics"])[0]
    largest = max(_fillings(main, values, labels), key=lambda filling: int(filling["k"]), default=None)
    if largest is None:
        raise ConfigError(f"{main['ks']} is empty, but it gives the primary metric; name at least one k")
    lead = values.get("main_similarity") or (MAX if MAX in wide else functions[0])
    return MetricSet(better, main["name"].format(similarity=lead, **largest))


def _fillings(item: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """What the placeholders of a template besides `{similarity}` stand for, one mapping a metric."""
    over: Mapping[str, str] = item.get("over") or {}
    ranges = [choices(field, values, labels.get(field)) for field in over.values()]
    for k in cutoffs(item["ks"], values):
        for chosen in itertools.product(*ranges):
            yield {"k": k, **dict(zip(over, chosen, strict=True))}


def choices(field: str, values: Mapping[str, Any], labels: Mapping[str, str] | None) -> tuple[Any, ...]:
    """What stands in names for each value of a field: its label, or the number itself, which is checked like a cut-off."""
    if labels is None:
        return cutoffs(field, values)
    given = list(labels) if values[field] is None else values[field]
    unknown = next((name for name in given if name not in labels), None)
    if unknown is not None:
        raise ConfigError(f"{field}: {unknown_name('name', str(unknown), list(labels))}")
    if not given:
        raise ConfigError(f"{field} is empty; name at least one of {', '.join(labels)}, or leave it out for all of them")
    return tuple(labels[name] for name in dict.fromkeys(given))


def similarity_names(values: Mapping[str, Any], *, similarity: str) -> tuple[str, ...]:
    """The similarity functions that an evaluator computes: its own list, else its main one, else the model's."""
    main = values.get("main_similarity")
    names = tuple(dict.fromkeys(values.get("similarities") or (main or similarity,)))
    if main is not None and main not in names:
        raise ConfigError(f"main_similarity is '{main}', which is not among similarities ({', '.join(names)}); add it there")
    return names


def cutoffs(field: str | None, values: Mapping[str, Any]) -> tuple[int, ...]:
    """The distinct values of a field of cut-offs, which holds one k or a list; (0,) for a metric without k."""
    if field is None:
        return (0,)
    given = values[field]
    ks = tuple(dict.fromkeys(given if isinstance(given, (list, tuple)) else (given,)))
    bad = [k for k in ks if k < 1]
    if bad:
        raise ConfigError(f"{field} holds {bad[0]}; a cut-off is the number of top documents and must be at least 1")
    return ks


def configured_metrics(
    values: Mapping[str, Any],
    facts_of: Callable[[str], Mapping[str, Any]],
    *,
    similarity: str,
    kind: str = "dense",
    outputs: Outputs = "one",
) -> MetricSet:
    """The metrics of one evaluator of a decoded configuration.

    Args:
        values: its plain values, `name` (the registered name) and all fields with their defaults.
        facts_of: registered name -> `metrics` fact, from the schema.
        similarity: similarity function of the model.
        kind: kind of the model.
        outputs: what the model gives for a pair of texts.
    """
    facts = facts_of(values["name"])
    inner = values[facts["children"]] if facts["children"] else {}
    children = {
        name: configured_metrics(child, facts_of, similarity=similarity, kind=kind, outputs=outputs) for name, child in inner.items()
    }
    return expand(facts, values, similarity=similarity, kind=kind, outputs=outputs, children=children)
