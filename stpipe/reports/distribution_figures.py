"""Figures of what lies behind the metrics: values with intervals, scores, calibration, scores by label, and lengths of texts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from stpipe.reports.figures import short
from stpipe.reports.svg import COLOURS, new_figure, to_svg
from stpipe.reports.text import system_name

#: Series of a histogram -> colour and line; what is sought stands out, the rest is dashed, so that colour is not needed.
SERIES: Mapping[str, tuple[str, Any]] = {
    "relevant": ("good", "-"),
    "others": ("bm25", (0, (4, 2))),
    "belong together": ("good", "-"),
    "positives": ("good", "-"),
    "negatives": ("bm25", (0, (4, 2))),
    "pairs": ("after", "-"),
    "right": ("good", "-"),
    "wrong": ("bad", (0, (4, 2))),
}
MARKERS = {"before": "s", "after": "o", "best": "D", "base": "^", "bm25": "v"}
BEST = "best"


def standings_figure(rows: Sequence[Mapping[str, Any]], *, identity: str, title: str) -> str | None:
    """A dot for each system and a bar for its 95 % interval; None when no system has an interval."""
    if not any(row["low"] is not None for row in rows):
        return None
    figure = new_figure(height=0.85 + 0.36 * len(rows))
    figure.set_layout_engine("constrained")  # room for the names
    axes = figure.add_subplot()
    for i, row in enumerate(reversed(rows)):
        colour = COLOURS["good" if row["system"] == BEST else row["system"] if row["system"] in COLOURS else "extra"]
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [i, i], color=colour, linewidth=3, alpha=0.5)
        axes.plot(row["value"], i, marker=MARKERS.get(row["system"], "o"), markersize=7, color=colour)
    axes.set_yticks(range(len(rows)), [system_name(row["system"]) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    return to_svg(figure, identity=identity, title=title, description="; ".join(map(_standing, rows)))


def _standing(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:.4f} to {row['high']:.4f})"
    return f"{system_name(row['system'])} {row['value']:.4f}{interval}"


def scores_figure(
    histogram: Mapping[str, Any], *, identity: str, title: str, across: tuple[float, float] | None = None, top: float | None = None
) -> str | None:
    """Shares of each series of scores by bin.

    Args:
        histogram: as evaluation/details.py makes it.
        identity: unique on the page.
        title: what is shown.
        across: ends of the horizontal axis, so that figures beside each other can be compared; None is the bins' own.
        top: end of the vertical axis; None is chosen.
    """
    drawn = {name: counts for name, counts in histogram["series"].items() if any(counts)}
    if not drawn:
        return None
    figure = new_figure(height=2.4, top=0.36)
    axes = figure.add_subplot()
    texts = []
    for name, counts in drawn.items():
        colour, line = SERIES.get(name, ("extra", "-"))
        total, edges = sum(counts), histogram["edges"]
        mean = sum(c * (a + b) / 2 for c, a, b in zip(counts, edges, edges[1:], strict=False)) / total
        axes.stairs([c / total for c in counts], edges, color=COLOURS[colour], linestyle=line, linewidth=1.8, label=name)
        texts.append(f"{name}: {total:,} scores, {mean:.3g} on average")
    axes.set_xlim(across)
    axes.set_ylim(0, top)
    axes.set_xlabel(histogram["of"])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0 if (top or 1) > 0.05 else 1))
    _legend(axes)
    return to_svg(figure, identity=identity, title=title, description="; ".join(texts))


def highest_share(histogram: Mapping[str, Any]) -> float:
    """The greatest share of a series that is in one bin."""
    return max((max(counts) / sum(counts) for counts in histogram["series"].values() if any(counts)), default=0.0)


def calibration_figure(systems: Mapping[str, Mapping[str, Any]], *, identity: str, title: str) -> str | None:
    """How often each system is right at each confidence, against the diagonal where both are equal."""
    if not systems:
        return None
    figure = new_figure(height=3.1, top=0.36)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linestyle=(0, (2, 3)), linewidth=1.2)
    for name, found in systems.items():
        points = [(b["confidence"], b["right"]) for b in found["bins"]]
        axes.plot(*zip(*points, strict=True), color=COLOURS[name], marker=MARKERS[name], markersize=5, label=system_name(name))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("confidence of the model")
    _legend(axes)
    texts = [f"{system_name(n)}: calibration error {found['error']:.4f} over {len(found['bins'])} bins" for n, found in systems.items()]
    return to_svg(figure, identity=identity, title=title, description="; ".join(texts))


def by_label_figure(systems: Mapping[str, Mapping[str, Any]], *, identity: str, title: str) -> str | None:
    """Scores of rows with about the same label: median, quartiles (thick) and the middle 80 per cent (thin)."""
    places = sorted({(g["low"] + g["high"]) / 2 for found in systems.values() for g in found["groups"]})
    if len(places) < 2:
        return None
    gap = min(b - a for a, b in itertools.pairwise(places)) * 0.22
    figure = new_figure(height=3.1, top=0.36)
    axes = figure.add_subplot()
    texts = []
    for name, shift in zip(systems, (-gap / 2, gap / 2) if len(systems) == 2 else (0.0,), strict=True):
        groups = systems[name]["groups"]
        at = [(g["low"] + g["high"]) / 2 + shift for g in groups]
        axes.vlines(at, [g["p10"] for g in groups], [g["p90"] for g in groups], color=COLOURS[name], linewidth=1)
        axes.vlines(at, [g["p25"] for g in groups], [g["p75"] for g in groups], color=COLOURS[name], linewidth=3.6, alpha=0.55)
        axes.plot(at, [g["p50"] for g in groups], color=COLOURS[name], marker=MARKERS[name], markersize=5, label=system_name(name))
        texts.append(f"{system_name(name)}: medians " + ", ".join(f"{g['p50']:.3g} at {(g['low'] + g['high']) / 2:.3g}" for g in groups))
    axes.set_xlabel("label")
    axes.set_ylabel(next(iter(systems.values()))["of"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(short))
    _legend(axes)
    return to_svg(figure, identity=identity, title=title, description="; ".join(texts))


def lengths_figure(histogram: Mapping[str, Any], *, limit: int | None, identity: str, title: str) -> str | None:
    """Lengths of the texts of a role in tokens, with the limit at which they are cut."""
    counts: Sequence[float] = histogram.get("counts") or ()
    edges: Sequence[float] = histogram.get("edges") or ()
    if not any(counts) or len(edges) != len(counts) + 1:
        return None
    figure = new_figure(height=2.2)
    axes = figure.add_subplot()
    axes.stairs(counts, edges, fill=True, color=COLOURS["after"], alpha=0.55)
    if limit is not None and limit <= edges[-1]:
        axes.axvline(limit, color=COLOURS["bad"], linestyle=(0, (4, 3)), linewidth=1.4)
        axes.annotate(
            f"cut at {limit}",
            (limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            color=COLOURS["bad"],
        )
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, None)
    axes.set_xlabel("tokens, the last bin holds longer texts too")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.grid(axis="x", visible=False)
    peak = max(range(len(counts)), key=counts.__getitem__)
    described = f"{sum(counts):,} texts; most have {edges[peak]:g} to {edges[peak + 1]:g} tokens" + (f"; cut at {limit}" if limit else "")
    return to_svg(figure, identity=identity, title=title, description=described)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0, handlelength=1.6, columnspacing=1.2)
