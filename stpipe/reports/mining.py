"""mine.html and mine.json: the report of a mining as a page and as data, one section for each split that was mined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from stpipe import __version__
from stpipe.reports.atomic import write_text
from stpipe.reports.page import templates
from stpipe.reports.svg import COLOURS, drawing, new_figure, to_svg

MINE_JSON = "mine.json"
MINE_HTML = "mine.html"
SERIES = {"positives": "good", "negatives": "after", "dropped": "bm25"}


def write_mining_report(folder: Path, *, title: str, parts: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write mine.json and mine.html.

    Args:
        folder: where to.
        title: of the page.
        parts: split (or data set and split) -> `MiningReport.as_dict()`.
        facts: models, data and parameters, shared by all parts; plain values.

    Returns:
        The two paths.
    """
    document = {"generator": f"stpipe {__version__}", "title": title, **facts, "parts": {name: dict(part) for name, part in parts.items()}}
    data = write_text(folder / MINE_JSON, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return data, write_text(folder / MINE_HTML, render_mining_page(document))


def render_mining_page(document: Mapping[str, Any]) -> str:
    """The page, from what mine.json holds."""
    with drawing():
        figures = {name: score_figure(part, identity=f"scores-{i}", name=name) for i, (name, part) in enumerate(document["parts"].items())}
    return templates().get_template("mining.html.j2").render(doc=document, figures=figures)


def score_figure(part: Mapping[str, Any], *, identity: str, name: str) -> str | None:
    """Scores of positives, negatives, and of what limits took out, as steps over the same bins; shares, since their numbers differ."""
    edges: Sequence[float] = part["histogram"]["edges"]
    drawn = {series: part["histogram"][series] for series in SERIES if any(part["histogram"][series])}
    if not drawn:
        return None
    figure = new_figure(top=0.36)
    axes = figure.add_subplot()
    for series, counts in drawn.items():
        total = sum(counts)
        axes.stairs([count / total for count in counts], edges, color=COLOURS[SERIES[series]], label=series, linewidth=1.8)
    axes.set_xlabel("score")
    axes.set_ylabel("share")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    described = "; ".join(f"{series}: mean {part['scores'][series]['mean']:.4f}" for series in drawn if part["scores"].get(series))
    return to_svg(figure, identity=identity, title=f"Scores of {name}", description=described)
