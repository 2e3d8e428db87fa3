"""The figures of sparse models, drawn from the document: how sparse the representations became, and what sparsity costs in quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from stpipe.reports.figures import MIN_SMOOTH, Curve, described, moving_average, short, steps_axis, thinned
from stpipe.reports.svg import COLOURS, new_figure, to_svg
from stpipe.reports.text import system_name

SIDE_COLOURS: Mapping[str, str] = {"queries": COLOURS["extra"], "documents": COLOURS["after"]}
ACTIVE: Mapping[str, str] = {"query_active_dims": "queries", "document_active_dims": "documents"}
WEIGHTS: Mapping[str, str] = {"query_weight": "queries", "document_weight": "documents"}
#: From this ratio of the largest to the smallest value on, an axis is logarithmic.
WIDE = 8.0


def sides_figure(curves: Mapping[str, Curve], *, identity: str, title: str, targets: Mapping[str, float] | None = None) -> str | None:
    """A value of queries and of documents over steps, in one plot; logarithmic where the values differ much.

    Args:
        curves: side (queries, documents) -> curve.
        identity: unique on the page.
        title: what is shown.
        targets: side -> level that was to be reached.
    """
    drawn = {side: points for side, curve in curves.items() if len(points := thinned(curve)) >= 2}
    if not drawn:
        return None
    figure = new_figure(top=0.36)
    axes = figure.add_subplot()
    levels = {side: level for side, level in (targets or {}).items() if side in drawn}
    for side, points in drawn.items():
        label = f"{side}, target {levels[side]:g}" if side in levels else side
        steps, values, colour = [p[0] for p in points], [p[1] for p in points], SIDE_COLOURS[side]
        if len(points) >= MIN_SMOOTH:
            axes.plot(steps, values, color=colour, alpha=0.28, linewidth=1)
            axes.plot(steps, moving_average(values), color=colour, label=label)
        else:
            axes.plot(steps, values, color=colour, marker="o", markersize=4, label=label)
    for side, level in levels.items():
        axes.axhline(level, color=SIDE_COLOURS[side], linestyle=(0, (5, 3)), linewidth=1.4)
    steps_axis(axes)
    _scale_y(axes, [*(p[1] for points in drawn.values() for p in points), *levels.values()])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handlelength=1.2, columnspacing=1.2)
    texts = [f"{side}: {described(curves[side])}" + (f", target {levels[side]:g}" if side in levels else "") for side in drawn]
    return to_svg(figure, identity=identity, title=title, description="; ".join(texts))


def trade_off_figure(curve: Mapping[str, Any], *, identity: str, level: float | None) -> str | None:
    """A quality metric against the active dimensions of a document, with vectors cut to fewer and fewer of them.

    Args:
        curve: an element of the document's `curves`; its last point, without a cut, has a ring.
        identity: unique on the page.
        level: the metric of BM25, None where it was not evaluated.
    """
    systems = [s for s in ("before", "after") if len(_places(curve, s)) >= 2]
    if not systems:
        return None
    figure = new_figure(height=3.1, top=0.36)
    axes = figure.add_subplot()
    for system in systems:
        places = _places(curve, system)
        axes.plot(*zip(*places, strict=True), color=COLOURS[system], marker="o", markersize=4, label=system_name(system))
        if curve["points"][-1]["values"].get(system) is not None:
            axes.plot(*places[-1], marker="o", markersize=9, markerfacecolor="none", markeredgewidth=1.4, color=COLOURS[system])
    if level is not None:
        axes.axhline(level, color=COLOURS["bm25"], linestyle=(0, (5, 3)), linewidth=1.4, label=system_name("bm25"))
    widths = [x for system in systems for x, _ in _places(curve, system)]
    if max(widths) >= WIDE * min(widths) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("active dimensions of a document")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    texts = [f"{system_name(s)}: " + ", ".join(f"{y:.4f} at {x:.4g}" for x, y in _places(curve, s)) for s in systems]
    texts += [] if level is None else [f"BM25 {level:.4f}"]
    title = f"{curve['metric']} against active dimensions of a document"
    return to_svg(figure, identity=identity, title=title, description="; ".join(texts))


def _places(curve: Mapping[str, Any], system: str) -> list[tuple[float, float]]:
    """(mean active dimensions of a document, metric) of a system at each point that has both."""
    pairs = [(p["corpus_active_dims"].get(system), p["values"].get(system)) for p in curve["points"]]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _scale_y(axes: Axes, values: list[float]) -> None:
    """A logarithmic axis for values that differ much and are all above 0."""
    if min(values) <= 0 or max(values) < WIDE * min(values):
        return
    axes.set_yscale("log")
    decades = max(values) / min(values) > 1000
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if decades else (1.0, 3.0), numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(short))
