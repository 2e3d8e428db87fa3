"""Figures take colours and font from the page."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest

import stpipe.reports
from stpipe.reports.figures import curve_figure, differences_figure, moving_average, thinned
from stpipe.reports.svg import COLOURS, drawing, new_figure, to_svg

CSS = (Path(stpipe.reports.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
CURVE = [[i, 3 / (1 + i / 10)] for i in range(60)]


def drawn(identity: str = "loss") -> str:
    with drawing():
        svg = curve_figure(CURVE, identity=identity, title="A & B", label="loss", smooth=True, mark=40)
    assert svg is not None
    return svg


def test_colours_are_variables_that_the_page_defines() -> None:
    svg = drawn()
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
    used = set(re.findall(r"var\(--([a-z0-9]+)\)", svg))
    assert {"ink", "muted", "line", "after", "good"} - {"ink"} <= used <= set(COLOURS)
    assert all(f"--{name}:" in CSS for name in COLOURS)


def test_every_colour_is_replaced() -> None:
    with drawing():
        figure = new_figure()
        axes = figure.add_subplot()
        for i, colour in enumerate(COLOURS.values()):
            axes.plot([0, 1], [i, i], color=colour)
        svg = to_svg(figure, identity="all", title="all", description="all")
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
    assert set(re.findall(r"var\(--([a-z0-9]+)\)", svg)) == set(COLOURS)


def test_text_is_text_in_the_pages_font() -> None:
    svg = drawn()
    assert len(re.findall(r"<text ", svg)) > 5
    assert "font-family" not in svg
    assert '<title id="loss-title">A &amp; B</title>' in svg


def test_ids_of_two_figures_do_not_meet() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', drawn(name))) for name in ("one", "two"))
    assert len(first) > 3
    assert not first & second


def test_the_users_settings_do_not_matter_and_come_back() -> None:
    plain = drawn()
    mpl.rcParams["font.size"] = 31
    try:
        assert drawn() == plain
        assert mpl.rcParams["font.size"] == 31
    finally:
        mpl.rcdefaults()


def test_nothing_to_draw() -> None:
    with drawing():
        assert curve_figure([], identity="a", title="a", label="a") is None
        assert curve_figure([[1, 2.0]], identity="a", title="a", label="a") is None
        assert curve_figure([[1, None], [2, None]], identity="a", title="a", label="a") is None
        assert differences_figure([], identity="a", title="a") is None


def test_long_curves_are_averaged_not_cut() -> None:
    points = thinned([[i, float(i % 2)] for i in range(10_000)])
    assert 200 < len(points) <= 400
    assert points[-1][0] == 9999
    assert [v for _, v in points] == pytest.approx([0.5] * len(points), abs=0.05)


def test_the_moving_average_of_a_line_is_the_line() -> None:
    line = [2.0 * i for i in range(100)]
    assert moving_average(line)[5:-5] == pytest.approx(line[5:-5])


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes() -> list[dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.S)
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def test_colours_of_text_and_curves_stand_out_in_light_dark_and_print() -> None:
    found = palettes()
    assert len(found) == 3
    for palette in found:
        assert set(palette) >= set(COLOURS) | {"note", "surface"}
        for name in ("ink", "muted", "after", "base", "bm25", "good", "bad", "extra"):
            assert contrast(palette[name], palette["paper"]) >= 4.5, (name, palette)
        assert contrast(palette["ink"], palette["note"]) >= 7
        assert contrast(palette["before"], palette["paper"]) >= 3
