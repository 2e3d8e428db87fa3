"""report.html: one page without scripts, fonts or anything else from outside, drawn from the document alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from stpipe.reports import text
from stpipe.reports.data_scan import percentiles, role_rows, split_rows
from stpipe.reports.page_figures import page_figures
from stpipe.reports.quality import table_metrics
from stpipe.reports.sparsity import mean_widths

FILTERS: tuple[Callable[..., str], ...] = (
    text.system_name,
    text.capitalize_first,
    text.score,
    text.signed,
    text.interval,
    text.signed_interval,
    text.milliseconds,
    text.times,
    text.drift,
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
            figures=page_figures(document),
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
