"""matplotlib figures as inline SVG that take their colours and font from the page, so that one drawing suits light, dark and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# matplotlib wants colours as numbers; each of these stands for a CSS variable and is replaced after drawing.
COLOURS = {
    "ink": "#010101",
    "muted": "#010102",
    "line": "#010103",
    "paper": "#010104",
    "before": "#010105",
    "after": "#010106",
    "bm25": "#010107",
    "good": "#010108",
    "bad": "#010109",
    "extra": "#01010a",
    "base": "#01010b",
}
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_STYLE: Any = {  # matplotlib types every key by itself
    "svg.fonttype": "none",
    "svg.hashsalt": "stpipe",
    "font.size": 11,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "axes.formatter.useoffset": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The report's own style, whatever the user's matplotlibrc says; the process's settings come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(*, width: float = 4.8, height: float = 2.9, top: float = 0.14) -> Figure:
    """An empty figure for one plot; sizes and the margin above it are in inches of 72 SVG pixels.

    Small on purpose: on a phone it is shown only a little smaller. The margins are fixed, so that plots beside each other
    line up; the left one holds tick labels of seven characters.
    """
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=0.68 / width, right=1 - 0.14 / width, bottom=0.5 / height, top=1 - top / height)
    return figure


def to_svg(figure: Figure, *, identity: str, title: str, description: str) -> str:
    """The figure as an `<svg>` element with text alternatives.

    Args:
        figure: drawn with COLOURS inside `drawing()`.
        identity: unique on the page; starts every id inside, because all figures share one document.
        title: what is shown, in a few words.
        description: what the curve says, in numbers, for those who cannot see it.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = _use_variables(_own_ids(svg, identity))
    head = re.search(r'viewBox="([^"]+)"', svg)
    assert head is not None, "matplotlib always writes a viewBox"
    names = f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-desc">{escape(description)}</desc>'
    svg = re.sub(r"\n\s*", "\n", svg)
    opening = f'<svg viewBox="{head[1]}" role="img" aria-labelledby="{identity}-title {identity}-desc">{names}'
    return opening + svg[svg.index(">") + 1 :]


def _own_ids(svg: str, identity: str) -> str:
    """Keep only the ids that something refers to, with `identity` in front."""
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{identity}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{identity}-\1)", svg)
    return re.sub(r'xlink:href="#([^"]+)"', rf'href="#{identity}-\1"', svg)


def _use_variables(svg: str) -> str:
    svg = re.sub(r"#01010[0-9a-f]", lambda m: _VARIABLES[m[0]], svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    return re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.S)
