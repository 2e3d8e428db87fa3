"""Figures of sparse models: scales that fit, targets and levels that are marked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stpipe.reports.figures import Curve
from stpipe.reports.sparsity_figures import sides_figure, trade_off_figure
from stpipe.reports.svg import drawing


def texts(svg: str | None) -> list[str]:
    """What is written in a figure."""
    assert svg is not None
    return [re.sub(r"<[^>]+>", "", t) for t in re.findall(r"<text [^>]*>(.*?)</text>", svg, re.S)]


def sides(curves: dict[str, Curve], **targets: float) -> str | None:
    with drawing():
        return sides_figure(curves, identity="active", title="Active", targets=targets)


FALL: Curve = [[i, 1000 * 0.9**i] for i in range(40)]
FLAT: Curve = [[i, 100 + i % 3] for i in range(40)]


def test_values_that_differ_much_are_drawn_on_a_logarithmic_axis() -> None:
    assert {"30", "100", "300", "1000"} <= set(texts(sides({"documents": FALL})))
    assert not {"300", "1000"} & set(texts(sides({"documents": FLAT})))
    from_zero: Curve = [[i, 1000.0 * (i > 0)] for i in range(40)]
    assert "0" in texts(sides({"documents": from_zero}))


def test_a_target_counts_for_the_scale_and_stands_in_the_legend() -> None:
    svg = sides({"queries": FLAT, "documents": FLAT}, queries=5)
    assert {"queries, target 5", "documents", "10"} <= set(texts(svg))
    assert svg is not None
    assert "queries: 100 at step 0, 100 at step 39, target 5; documents: 100 at step 0" in svg
    assert "stroke-dasharray" in svg
    assert "stroke-dasharray" not in str(sides({"queries": FLAT}, documents=5))


def test_both_sides_have_their_own_colour() -> None:
    svg = str(sides({"queries": FALL, "documents": FLAT}))
    assert "var(--extra)" in svg
    assert "var(--after)" in svg
    assert "var(--extra)" not in str(sides({"documents": FLAT}))


@pytest.mark.parametrize("curves", [{}, {"queries": [[1, 5.0]]}, {"queries": [[1, None], [2, 3.0]]}])
def test_no_figure_without_a_curve(curves: dict[str, Curve]) -> None:
    assert sides(curves) is None


def point(dims: int | None, width: float, **values: float) -> dict[str, Any]:
    return {"dims": dims, "values": values, "corpus_active_dims": dict.fromkeys(values, width)}


def trade_off(*points: dict[str, Any], level: float | None = None) -> str | None:
    with drawing():
        return trade_off_figure({"metric": "dot_ndcg@10", "points": list(points)}, identity="t", level=level)


def test_quality_against_width() -> None:
    points = (point(8, 7.5, before=0.2, after=0.3), point(64, 60.0, before=0.3, after=0.5), point(None, 400.0, after=0.6))
    svg = trade_off(*points, level=0.45)
    found = texts(svg)
    assert {"before", "after", "BM25", "active dimensions of a document"} <= set(found)
    assert {"16", "64", "256"} <= set(found), "powers of two"
    assert svg is not None
    assert "before: 0.2000 at 7.5, 0.3000 at 60; after: 0.3000 at 7.5, 0.5000 at 60, 0.6000 at 400; BM25 0.4500" in svg
    assert "var(--before)" in svg
    assert "stroke-dasharray" in svg
    without = str(trade_off(*points))
    assert "BM25" not in without


def test_widths_that_are_near_each_other_are_drawn_as_they_are() -> None:
    found = texts(trade_off(point(40, 40.0, after=0.2), point(80, 80.0, after=0.3)))
    assert {"40", "60", "80"} <= set(found)


@pytest.mark.parametrize("points", [(), (point(8, 7.5, after=0.2),), (point(8, 7.5), point(None, 9.0, bm25=0.1))])
def test_no_trade_off_from_one_point(points: tuple[dict[str, Any], ...]) -> None:
    assert trade_off(*points) is None
