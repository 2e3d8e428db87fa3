"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from stpipe.reports import text


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (text.score, 0.51234, "0.5123"),
        (text.score, -0.5, "\u22120.5000"),
        (text.score, 1234.5, "1,234"),
        (text.score, 12345.6, "12,346"),
        (text.score, None, "\u2013"),
        (text.amount, 1476.34, "1,476"),
        (text.amount, 99.96, "100"),
        (text.amount, 36.03, "36.0"),
        (text.amount, 36.0, "36"),
        (text.amount, 0.0674, "0.0674"),
        (text.amount, 2.2, "2.20"),
        (text.amount, None, "\u2013"),
        (text.signed, 0.07, "+0.0700"),
        (text.signed, -0.07, "\u22120.0700"),
        (text.signed, 0.0, "0.0000"),
        (text.signed, -0.00001, "0.0000"),
        (text.interval, (0.1, 0.25), "0.1000 to 0.2500"),
        (text.interval, (None, None), "\u2013"),
        (text.signed_interval, (-0.1, 0.25), "\u22120.1000 to +0.2500"),
        (text.signed_interval, (None, 0.25), "\u2013"),
        (text.milliseconds, 4.256, "4.26 ms"),
        (text.milliseconds, 12345.6, "12,346 ms"),
        (text.milliseconds, None, "\u2013"),
        (text.times, 2.849, "2.8\u00d7 as fast"),
        (text.times, 0.5, "0.5\u00d7 as fast"),
        (text.times, 12.4, "12\u00d7 as fast"),
        (text.times, None, "\u2013"),
        (text.drift, 3e-7, "3.0e-07"),
        (text.drift, 0.4, "0.4"),
        (text.drift, 0.0, "0"),
        (text.drift, None, "\u2013"),
        (text.percent, 0.0234, "2.3%"),
        (text.percent, 0.5, "50%"),
        (text.signed_percent, -0.123, "\u221212.3%"),
        (text.signed_percent, 0.5, "+50.0%"),
        (text.signed_percent, -0.0004, "0.0%"),
        (text.signed_percent, None, "\u2013"),
        (text.integer, 1234567, "1,234,567"),
        (text.integer, None, "\u2013"),
        (text.duration, 9.96, "10.0 s"),
        (text.duration, 660, "11 min 00 s"),
        (text.duration, 3599.7, "1 h 00 min"),
        (text.duration, 7384, "2 h 03 min"),
        (text.rank, None, "not found"),
        (text.rank, 3, "rank 3"),
        (text.p_value, 0.0, "p < 0.001"),
        (text.p_value, 0.0312, "p = 0.031"),
        (text.plain_value, True, "true"),
        (text.plain_value, None, "null"),
        (text.plain_value, "", '""'),
        (text.plain_value, 2e-5, "2e-05"),
        (text.plain_value, [1, "a"], '[1, "a"]'),
        (text.statistic_name, "p50", "median"),
        (text.statistic_name, "p99", "99th percentile"),
        (text.statistic_name, "other", "other"),
    ],
)
def test_forms(form: Any, value: Any, expected: str) -> None:
    assert form(value) == expected


def test_long_texts_are_cut_at_a_word() -> None:
    cut = text.shorten("word " * 100)
    assert len(cut) <= text.LONGEST + 2
    assert cut.endswith("word \u2026")
    assert text.shorten("short") == "short"


def test_breakable_names_stay_escaped() -> None:
    assert text.breakable("a_b.<c>") == "a_<wbr>b.&lt;c&gt;"
    assert text.breakable("of a.b/c: 31.2") == "of a.<wbr>b/<wbr>c: 31.2"
