"""The figure of smaller embeddings: quality against the bytes of a vector, a line for each precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from stpipe.reports.svg import COLOURS, new_figure, to_svg
from stpipe.reports.text import system_name
from stpipe.reports.trade_offs import FLOAT

#: Precision -> colour and marker of the trained model.
LINES: Mapping[str, tuple[str, str]] = {
    FLOAT: ("after", "o"),
    "int8": ("base", "s"),
    "uint8": ("base", "s"),
    "binary": ("extra", "D"),
    "ubinary": ("extra", "D"),
}


def size_figure(curve: Mapping[str, Any], *, identity: str) -> str | None:
    """A curve of `trade_offs`; the untrained model is drawn in float32 only, dashed. None when there is nothing to compare."""
    lines = {
        (system, precision): places
        for system in ("before", "after")
        for precision in dict.fromkeys(p["precision"] for p in curve["points"])
        if (system == "after" or precision == FLOAT)
        and (places := sorted((p["bytes"], p["values"][system]) for p in curve["points"] if _is(p, precision, system)))
    }
    if sum(map(len, lines.values())) < 2:
        return None
    figure = new_figure(height=3.1, top=0.36)
    axes = figure.add_subplot()
    for (system, precision), places in lines.items():
        colour, marker = LINES.get(precision, ("extra", "^"))
        label = precision if system == "after" else system_name(system)
        style: Any = "-" if system == "after" else (0, (4, 2))
        axes.plot(
            *zip(*places, strict=True),
            color=COLOURS[colour if system == "after" else "before"],
            linestyle=style,
            marker=marker,
            markersize=5,
            label=label,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1024:g}K" if value >= 1024 else f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("bytes of a vector")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0, handlelength=1.6, columnspacing=1)
    texts = [f"{system_name(s)} in {p}: " + ", ".join(f"{y:.4f} at {x:g} bytes" for x, y in places) for (s, p), places in lines.items()]
    return to_svg(figure, identity=identity, title=f"{curve['metric']} against the size of a vector", description="; ".join(texts))


def _is(point: Mapping[str, Any], precision: str, system: str) -> bool:
    return point["precision"] == precision and point["values"].get(system) is not None
