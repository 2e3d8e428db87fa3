"""The figures of the report by section, drawn from its document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stpipe.reports import text
from stpipe.reports.data_scan import role_rows
from stpipe.reports.distribution_figures import (
    by_label_figure,
    calibration_figure,
    highest_share,
    lengths_figure,
    scores_figure,
    standings_figure,
)
from stpipe.reports.figures import Curve, curve_figure, differences_figure, evaluation_figure, histogram_figure, share_figure
from stpipe.reports.sparsity_figures import ACTIVE, WEIGHTS, sides_figure, trade_off_figure
from stpipe.reports.svg import drawing
from stpipe.reports.trade_off_figures import size_figure

LEARNING_RATE = "lr"
CAPTIONS = {
    LEARNING_RATE: "Learning rate",
    "grad_norm": "Gradient norm before clipping",
    "loss/query_regularizer": "Regulariser of the queries",
    "loss/document_regularizer": "Regulariser of the documents",
}
#: At most so many histograms of lengths; mixtures of many data sets have tables.
MOST_LENGTHS = 8


def page_figures(document: dict[str, Any]) -> dict[str, Any]:
    """Every figure of the page as SVG, by section and by what it is about; those without anything to show are None or absent."""
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
            "standings": {
                e["name"]: standings_figure(e["standings"], identity=f"standings-{i}", title=f"{e['primary']} of {e['name']} by system")
                for i, e in enumerate(document["evaluations"])
            },
            "details": {e["name"]: list(_details(e, f"{i}")) for i, e in enumerate(document["evaluations"])},
            "sizes": [size_figure(curve, identity=f"size-{i}") for i, curve in enumerate(document["trade_offs"])],
            "exports": _exports(document),
            "lengths": list(_lengths(document)),
            "training": [f for f in _training_figures(document) if f["svg"]],
            "throughput": [f for f in _throughput_figures(document) if f["svg"]],
        }


def _details(evaluation: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Scores of each model, both on the same axes, then calibration and scores by label."""
    scores = evaluation["scores"]
    drawn = [h for h in scores.values() if any(map(any, h["series"].values()))]
    ends = (min(h["edges"][0] for h in drawn), max(h["edges"][-1] for h in drawn)) if drawn else (0.0, 1.0)
    across = (ends[0] - 0.02 * (ends[1] - ends[0]), ends[1] + 0.02 * (ends[1] - ends[0]))
    top = max(map(highest_share, drawn), default=0.0) * 1.08
    for system, histogram in scores.items():
        title = f"Scores {text.system_name(system)} training"
        svg = scores_figure(histogram, identity=f"scores-{place}-{system}", title=f"{title}, {evaluation['name']}", across=across, top=top)
        yield {"svg": svg, "caption": title, "note": "share of each series in a bin"}
    found = evaluation["calibration"]
    title = "Calibration"
    about = next((f"share of {c['of']} at each confidence" for c in found.values()), "")
    yield {
        "svg": calibration_figure(found, identity=f"calibration-{place}", title=f"{title} of {evaluation['name']}"),
        "caption": title,
        "note": about,
    }
    title = "Scores by label"
    svg = by_label_figure(evaluation["by_label"], identity=f"by-label-{place}", title=f"{title}, {evaluation['name']}")
    yield {"svg": svg, "caption": title, "note": "median, middle half and middle 80 %"}


def _lengths(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lengths of the texts that are trained on, by data set and role."""
    rows = [r for r in role_rows(document["data"]["scan"], split="train") if r.lengths][:MOST_LENGTHS]
    several = len({r.source for r in rows}) > 1
    for i, row in enumerate(rows):
        title = f"Lengths of {row.role}" + (f", {row.source}" if several else "")
        svg = lengths_figure(row.lengths, limit=row.max_length, identity=f"lengths-{i}", title=title)
        yield {"svg": svg, "caption": title, "note": f"{text.percent(row.truncated)} cut" if row.truncated else ""}


def _exports(document: dict[str, Any]) -> str | None:
    """What each verified export changed of the task's metric."""
    rows = [r for r in document["exports"] if None not in (r.get("metric_difference"), r.get("metric_low"), r.get("metric_high"))]
    differences = [
        {
            "label": r["name"],
            "mean": r["metric_difference"],
            "low": r["metric_low"],
            "high": r["metric_high"],
            "verdict": "worse" if r["metric_high"] < 0 else "better" if r["metric_low"] > 0 else "unclear",
        }
        for r in rows
    ]
    return differences_figure(differences, identity="exports", title="Change of the metric by export, with 95 % intervals")


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
    curves, elapsed = document["throughput"]["curves"], dict(document["throughput"]["elapsed"])
    tokens: Curve = curves.get("tokens_per_second", [])
    timed = bool(tokens) and all(step in elapsed for step, _ in tokens)
    seconds = max(elapsed.values(), default=0.0)
    unit, scale = ("minutes", 60.0) if seconds >= 300 else ("seconds", 1.0)
    svg = curve_figure(
        [[elapsed[step] / scale, value] for step, value in tokens] if timed else tokens,
        identity="tokens",
        title="Tokens per second",
        label="tokens per second",
        smooth=True,
        across=f"{unit} of training" if timed else "step",
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
