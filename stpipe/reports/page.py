"""report.html: one page without scripts, fonts or anything else from outside, drawn from the document alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from stpipe.reports import text
from stpipe.reports.data_scan import percentiles, role_rows, split_rows
from stpipe.reports.figures import curve_figure, differences_figure, evaluation_figure, histogram_figure, share_figure
from stpipe.reports.quality import table_metrics
from stpipe.reports.sparsity import mean_widths
from stpipe.reports.sparsity_figures import ACTIVE, WEIGHTS, sides_figure, trade_off_figure
from stpipe.reports.svg import drawing

FILTERS: tuple[Callable[..., str], ...] = (
    text.system_name,
    text.capitalize_first,
    text.score,
    text.signed,
    text.signed_percent,
    text.integer,
    text.duration,
    text.breakable,
    text.percent,
    text.statistic_name,
    text.rank,
    text.p_value,
    text.plain_value,
    text.shorten,
    text.amount,
)
SHOWN_ELSEWHERE = frozenset({"warnings", "start", "targets"})
STATES = ("running", "finished", "failed", "partial", "preempted", "interrupted")
HEADLINE = {"better": "better than", "worse": "worse than", "unclear": "not clearly different from"}
AGAINST = {"before": "the model before training", "base": "the order of the data (retriever)"}
LEARNING_RATE = "lr"
CAPTIONS = {
    LEARNING_RATE: "Learning rate",
    "grad_norm": "Gradient norm before clipping",
    "loss/query_regularizer": "Regulariser of the queries",
    "loss/document_regularizer": "Regulariser of the documents",
}


def templates() -> jinja2.Environment:
    """The templates of all pages, with the filters of `text`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stpipe.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({f.__name__: f for f in FILTERS})
    return environment


def render_page(document: dict[str, Any]) -> str:
    """The whole page."""
    state = document["run"]["state"]
    verdicts = {
        (e["name"], d["metric"]): d["verdict"]
        for e in document["evaluations"]
        for d in e["differences"]
        if (d["system"], d["against"]) == ("after", "before")
    }
    roles = role_rows(document["data"]["scan"])
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            doc=document,
            figures=_figures(document),
            tables={e["name"]: table_metrics(e, document["evaluations"]) for e in document["evaluations"]},
            steered=[_steered(t) for t in document["training"]["targets"]],
            headlines=[_headline(e) for e in document["evaluations"]],
            facts=list(_facts(document)),
            rates=list(_rates(document)),
            verdicts=verdicts,
            splits=split_rows(document["data"]["scan"]),
            roles=roles,
            statistics=percentiles(roles),
            best_line=_best_line(document),
            plan={k: v for k, v in document["plan"].items() if k not in SHOWN_ELSEWHERE},
            machine={**document["environment"], "created": text.moment(document["environment"].get("created"))},
            state_class=state if state in STATES else "unknown",
            configuration_yaml=yaml.safe_dump(document["configuration"]["values"], sort_keys=False, allow_unicode=True, width=100),
        )
    )


def _headline(evaluation: dict[str, Any]) -> Markup:
    """The result in one sentence: values of the systems, then what the tests say."""
    values: dict[str, float | None] = next((m["values"] for m in evaluation["metrics"] if m["name"] == evaluation["primary"]), {})
    found = [f"{text.system_name(s)} {text.score(v)}" for s, v in values.items()]
    parts = [Markup("<strong>{}</strong>, {}: {}.").format(evaluation["name"], evaluation["primary"], ", ".join(found) or "no value")]
    for d in evaluation["differences"]:
        against = AGAINST.get(d["against"], text.system_name(d["against"]))
        interval = f"{text.signed(d['mean'])}, 95\u00a0% interval {text.signed(d['low'])} to {text.signed(d['high'])}"
        interval += f", {text.p_value(d['p'])}" if d["p"] is not None else ""
        claim = text.capitalize_first(HEADLINE[d["verdict"]])
        parts.append(Markup(' <span class="{}">{} {}</span> ({}).').format(d["verdict"], claim, against, interval))
    return Markup("").join(parts)


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key facts of the header; those that the run did not record are left out."""
    run, plan, values, median = document["run"], document["plan"], document["configuration"]["values"], document["throughput"]["median"]
    rows = [d.get("rows") for d in document["data"]["sources"].values()]
    steps = " of ".join(text.integer(n) for n in (run["step"], run["num_steps"]) if n is not None)
    widths = mean_widths(e["sparsity"] for e in document["evaluations"])
    facts = {
        "Base model": (values.get("model") or {}).get("name_or_path"),
        "Loss": (values.get("loss") or {}).get("name"),
        "Training rows": text.integer(sum(rows)) if rows and all(isinstance(r, int) for r in rows) else None,
        "Steps": steps or None,
        "Active dimensions": ", ".join(f"{text.amount(n)} of {what}" for what, n in widths.items()) or None,
        "Time": text.duration(run["seconds"]) if run["seconds"] is not None else None,
        "Global batch": text.integer(plan["global_batch"]) if plan.get("global_batch") else None,
        "Negatives per anchor": text.integer(plan["negatives_per_anchor"]) if plan.get("negatives_per_anchor") is not None else None,
        "Strategy": ", ".join(str(plan[k]) for k in ("strategy", "layout") if plan.get(k)) or None,
        "Strategy chosen because": "; ".join(plan.get("strategy_reasons") or ()) or None,
        "Micro-batches per step": text.amount(plan["micro_batches_per_step"]) if plan.get("micro_batches_per_step") else None,
        "Tokens per step": text.integer(plan["tokens_per_step"]) if plan.get("tokens_per_step") else None,
        "Representations in memory": f"{plan['pool_bytes'] / 2**20:,.1f} MiB" if plan.get("pool_bytes") else None,
        "Tokens per second": text.integer(median["tokens_per_second"]) if "tokens_per_second" in median else None,
        "Padding share": text.percent(median["padding_share"]) if "padding_share" in median else None,
        "Input wait": text.percent(median["input_wait_share"]) if "input_wait_share" in median else None,
        "Precision": (values.get("trainer") or {}).get("precision"),
    }
    return ((label, str(value)) for label, value in facts.items() if value is not None)


def _rates(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    labels = {
        "tokens_per_second": ("Tokens per second", text.integer),
        "samples_per_second": ("Samples per second", text.score),
        "padding_share": ("Padding share of computed tokens", text.percent),
        "input_wait_share": ("Time spent waiting for data", text.percent),
    }
    median = document["throughput"]["median"]
    return ((label, form(median[name])) for name, (label, form) in labels.items() if name in median)


def _best_line(document: dict[str, Any]) -> str | None:
    best, done = document["training"]["best"], document["run"]["step"]
    if best:
        return f"Kept: the weights of step {best['step']}, where {best['metric']} was best ({text.score(best['value'])})."
    return f"Kept: the last weights, of step {done}." if done else None


def _steered(target: dict[str, Any]) -> str:
    """What a weight was steered for, and what came of it."""
    line = f"Steered: {target['metric']} to {text.amount(target['target'])}"
    if target["reached"] is None:
        return f"{line}; it was not logged."
    relative = text.signed_percent(target["reached"] / target["target"] - 1)
    return f"{line}; over the last tenth of the log it was {text.amount(target['reached'])} ({relative})."


def _figures(document: dict[str, Any]) -> dict[str, Any]:
    with drawing():
        return {
            "differences": _all_differences(document),
            "histograms": {
                (e["name"], c["against"]): histogram_figure(c, identity=f"histogram-{i}-{j}")
                for i, e in enumerate(document["evaluations"])
                for j, c in enumerate(e["queries"])
            },
            "trade_offs": {
                (e["name"], c["metric"]): trade_off_figure(c, identity=f"trade-off-{i}-{j}", level=_level(e, c["metric"]))
                for i, e in enumerate(document["evaluations"])
                for j, c in enumerate((e["sparsity"] or {}).get("curves", ()))
            },
            "training": [f for f in _training_figures(document) if f["svg"]],
            "throughput": [f for f in _throughput_figures(document) if f["svg"]],
        }


def _level(evaluation: dict[str, Any], metric: str) -> float | None:
    """The metric of BM25, None where it was not evaluated."""
    value: float | None = next((m["values"].get("bm25") for m in evaluation["metrics"] if m["name"] == metric), None)
    return value


def _all_differences(document: dict[str, Any]) -> str | None:
    several = len(document["evaluations"]) > 1
    rows = [
        {**d, "label": (f"{e['name']}: " if several else "") + f"{text.system_name(d['system'])} \u2212 {text.system_name(d['against'])}"}
        for e in document["evaluations"]
        for d in e["differences"]
    ]
    return differences_figure(rows, identity="differences", title="Differences of the primary metrics with 95 % intervals")


def _training_figures(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Loss first, then evaluations, sparsity, learning rate, gradient norm and whatever else was logged."""
    training = document["training"]
    curves, best = training["curves"], training["best"]
    kept = best["step"] if best else None
    if "loss" in curves:
        svg = curve_figure(curves["loss"], identity="loss", title="Training loss", label="loss", smooth=True, mark=kept)
        yield {
            "svg": svg,
            "caption": "Training loss",
            "note": "thin: each window, thick: moving average" if len(curves["loss"]) >= 20 else "",
        }
    for i, e in enumerate(document["evaluations"]):
        curve = training["evaluations"].get(e["full_primary"], [])
        yield {"svg": evaluation_figure(e, curve, identity=f"evaluation-{i}", best=kept), "caption": e["name"], "note": e["primary"]}
    yield from _sparsity_figures(training)
    order = list(CAPTIONS)
    alone = (n for n in curves if n not in {"loss", *ACTIVE, *WEIGHTS})
    for i, name in enumerate(sorted(alone, key=lambda n: (order.index(n) if n in CAPTIONS else len(order), n))):
        caption = CAPTIONS.get(name, name.replace("loss/", "Loss term "))
        svg = curve_figure(curves[name], identity=f"curve-{i}", title=caption, label=name, smooth=name != LEARNING_RATE)
        yield {"svg": svg, "caption": caption, "note": "before its weight" if name.endswith("_regularizer") else ""}


def _sparsity_figures(training: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How many dimensions the texts of a batch use, and the weights that make them few."""
    curves = training["curves"]
    targets = {ACTIVE[t["metric"]]: t["target"] for t in training["targets"] if t["metric"] in ACTIVE}
    active = {side: curves[name] for name, side in ACTIVE.items() if name in curves}
    title = "Active dimensions of a text"
    svg = sides_figure(active, identity="active", title=title, targets=targets)
    yield {"svg": svg, "caption": title, "note": "mean over the batch"}
    weights = {side: curves[name] for name, side in WEIGHTS.items() if name in curves}
    title = "Weights of the regularisers"
    yield {"svg": sides_figure(weights, identity="weights", title=title), "caption": title, "note": "as they were in effect"}


def _throughput_figures(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    curves = document["throughput"]["curves"]
    svg = curve_figure(
        curves.get("tokens_per_second", []), identity="tokens", title="Tokens per second", label="tokens per second", smooth=True
    )
    yield {"svg": svg, "caption": "Tokens per second", "note": "real tokens, without padding"}
    names = {"padding_share": "padding", "input_wait_share": "waiting for data"}
    shares = {label: curves[name] for name, label in names.items() if name in curves}
    title = "Share of computed tokens that is padding, and of time spent waiting"
    yield {
        "svg": share_figure(shares, identity="shares", title=title),
        "caption": "Padding and waiting",
        "note": "shares of computed tokens and of time",
    }
