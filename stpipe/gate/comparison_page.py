"""A comparison as one HTML page without anything from outside, drawn from its document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stpipe.reports.figures import differences_figure, histogram_figure
from stpipe.reports.page import templates
from stpipe.reports.svg import drawing


def comparison_page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    with drawing():
        figures = {
            "differences": differences_figure(_labelled(document), identity="differences", title="Differences from the baseline"),
            "histograms": {
                (e["name"], c["system"]): histogram_figure(c, identity=f"histogram-{i}-{j}")
                for i, e in enumerate(document["evaluations"])
                for j, c in enumerate(e["queries"])
            },
        }
    return templates().get_template("comparison.html.j2").render(doc=document, figures=figures, runs=[r["name"] for r in document["runs"]])


def _labelled(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All tests, each named by what tells it from the others."""
    several_runs, several_evaluations = len(document["runs"]) > 2, len(document["evaluations"]) > 1
    found = []
    for e in document["evaluations"]:
        for t in e["tests"]:
            names = ([t["run"]] if several_runs else []) + ([e["name"]] if several_evaluations else []) + [t["metric"]]
            found.append({**t, "label": ", ".join(names)})
    return found
