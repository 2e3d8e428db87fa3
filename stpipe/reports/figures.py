"""The figures of the report, drawn from its document. Each returns SVG, or None when there is nothing to draw."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from stpipe.reports.svg import COLOURS, new_figure, to_svg
from stpipe.reports.text import MINUS, system_name

Curve = Sequence[Sequence[float | None]]
MAX_POINTS = 400
MIN_SMOOTH = 20
#: Systems that do not change in training, which stand as levels in figures.
LEVELS = ("base", "bm25")


def curve_figure(
    curve: Curve, *, identity: str, title: str, label: str, smooth: bool = False, mark: int | None = None, across: str = "step"
) -> str | None:
    """One curve over steps (or what `across` says); `smooth` adds its moving average, `mark` is the step of the kept weights, `label`
    what the values are."""
    points = thinned(curve)
    if len(points) < 2:
        return None
    steps, values = [p[0] for p in points], [p[1] for p in points]
    figure = new_figure()
    axes = figure.add_subplot()
    if smooth and len(points) >= MIN_SMOOTH:
        axes.plot(steps, values, color=COLOURS["after"], alpha=0.28, linewidth=1)
        axes.plot(steps, moving_average(values), color=COLOURS["after"])
    else:
        axes.plot(steps, values, color=COLOURS["after"], marker="o" if len(points) <= 25 else None, markersize=4)
    if mark is not None:
        axes.axvline(mark, color=COLOURS["good"], linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            "kept",
            (mark, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -4),
            textcoords="offset points",
            va="top",
            color=COLOURS["good"],
        )
    steps_axis(axes, across)
    return to_svg(figure, identity=identity, title=title, description=f"{label}: {described(curve, across)}")


def evaluation_figure(evaluation: dict[str, Any], curve: Curve, *, identity: str, best: int | None) -> str | None:
    """The primary metric over steps, with the systems without a model as levels."""
    points = thinned(curve)
    if len(points) < 2:
        return None
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS["after"], marker="o", markersize=4)
    values: dict[str, float | None] = next((m["values"] for m in evaluation["metrics"] if m["name"] == evaluation["primary"]), {})
    levels = {system: level for system in LEVELS if (level := values.get(system)) is not None}
    for system, level in levels.items():
        axes.axhline(level, color=COLOURS[system], linestyle=(0, (5, 3)), linewidth=1.4)
        axes.annotate(
            system_name(system),
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color=COLOURS[system],
        )
    kept = next((p for p in points if p[0] == best), None)
    if kept:
        axes.plot(*kept, marker="o", markersize=9, markerfacecolor="none", markeredgewidth=1.6, color=COLOURS["good"])
        axes.annotate("kept", kept, xytext=(0, -16), textcoords="offset points", ha="center", color=COLOURS["good"])
    steps_axis(axes)
    described_levels = "".join(f"; {system_name(system)} {level:.4f}" for system, level in levels.items())
    title = f"{evaluation['primary']} of {evaluation['name']} over training"
    return to_svg(figure, identity=identity, title=title, description=described(curve) + described_levels)


def share_figure(curves: dict[str, Curve], *, identity: str, title: str) -> str | None:
    """Several shares of 1 over steps on one percent axis."""
    drawn = {name: points for name, curve in curves.items() if len(points := thinned(curve)) >= 2}
    if not drawn:
        return None
    figure = new_figure(top=0.36)
    axes = figure.add_subplot()
    for colour, (name, points) in zip(("after", "bm25", "extra"), drawn.items(), strict=False):
        axes.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS[colour], label=name)
    top = max(p[1] for points in drawn.values() for p in points)
    axes.set_ylim(0, max(top * 1.15, 0.01))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    steps_axis(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0 if top > 0.05 else 1))
    return to_svg(figure, identity=identity, title=title, description="; ".join(f"{n}: {described(c)}" for n, c in curves.items()))


def differences_figure(differences: list[dict[str, Any]], *, identity: str, title: str) -> str | None:
    """Differences between systems with their 95 % intervals, zero marked. `differences` are those of the document, with `label`."""
    if not differences:
        return None
    figure = new_figure(height=0.9 + 0.42 * len(differences))
    figure.set_layout_engine("constrained")  # room for the labels, which are names of the user's
    axes = figure.add_subplot()
    for i, d in enumerate(reversed(differences)):
        colour = COLOURS[{"better": "good", "worse": "bad", "unclear": "muted"}[d["verdict"]]]
        axes.plot([d["low"], d["high"]], [i, i], color=colour, linewidth=3, alpha=0.55)
        axes.plot(d["mean"], i, marker="o", markersize=8, color=colour)
    axes.axvline(0, color=COLOURS["ink"], linewidth=1)
    axes.set_yticks(range(len(differences)), [d["label"] for d in reversed(differences)])
    axes.set_ylim(-0.6, len(differences) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.xaxis.set_major_formatter(FuncFormatter(signed_short))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("difference, with its 95 % interval")
    described = "; ".join(f"{d['label']}: {d['mean']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})" for d in differences)
    return to_svg(figure, identity=identity, title=title, description=described)


def histogram_figure(comparison: dict[str, Any], *, identity: str) -> str | None:
    """How many queries changed by how much; gains and losses in their own colours, unchanged queries left out."""
    edges, counts = comparison["histogram"]["edges"], comparison["histogram"]["counts"]
    if not any(counts):
        return None
    figure = new_figure(height=2.4)
    axes = figure.add_subplot()
    width = edges[1] - edges[0]
    colours = [COLOURS["good"] if left + width / 2 > 0 else COLOURS["bad"] for left in edges[:-1]]
    axes.bar(edges[:-1], counts, width=width * 0.88, align="edge", color=colours)
    axes.axvline(0, color=COLOURS["ink"], linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(signed_short))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(f"change of {comparison['metric']}")
    axes.set_ylabel("queries")
    against = system_name(comparison["against"])
    described = f"{comparison['better']} queries better, {comparison['worse']} worse, {comparison['equal']} equal"
    return to_svg(
        figure, identity=identity, title=f"Change of {comparison['metric']} against {against}, query by query", description=described
    )


def thinned(curve: Curve) -> list[tuple[float, float]]:
    """The points of a curve that have a value, at most MAX_POINTS: neighbours are averaged."""
    points = [(float(step), float(value)) for step, value in curve if step is not None and value is not None]
    size = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if size > 1 else [[p] for p in points]
    return [(g[-1][0], statistics.fmean(v for _, v in g)) for g in groups]


def moving_average(values: Sequence[float]) -> list[float]:
    """Mean over a window about each value, a twentieth of the curve to either side.

    Towards the ends the window becomes narrower, so that a steep start is not flattened, but keeps a few values.
    """
    reach = max(len(values) // 20, 1)
    averages = []
    for i in range(len(values)):
        side = max(min(reach, i, len(values) - 1 - i), min(reach, 3))
        averages.append(statistics.fmean(values[max(i - side, 0) : i + side + 1]))
    return averages


def steps_axis(axes: Axes, across: str = "step") -> None:
    """Steps (or another measure of progress) to the right, values of any size upwards."""
    axes.set_xlabel(across)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.margins(x=0.02)


def short(value: float, _: int) -> str:
    """The label of a tick."""
    return (f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}").replace("-", MINUS)


def signed_short(value: float, _: int) -> str:
    """The label of a tick of a difference."""
    return f"{value:+.3g}".replace("-", MINUS) if value else "0"


def described(curve: Curve, across: str = "step") -> str:
    """First and last value of a curve, for those who cannot see it."""
    points = [(step, value) for step, value in curve if value is not None]
    if not points:
        return "no values"
    (first, start), (last, end) = points[0], points[-1]
    if across == "step":
        return f"{start:.4g} at step {first}, {end:.4g} at step {last}"
    return f"{start:.4g} after {first:.4g}, {end:.4g} after {last:.4g} {across}"
