"""Numbers and names as people read them, for the page and for the card. None is a dash."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup, escape

DASH = "\u2013"
MINUS = "\u2212"
SYSTEM_NAMES = {"before": "before", "best": "best in training", "after": "after", "base": "order of the data (retriever)", "bm25": "BM25"}
LONGEST = 200


def system_name(name: str) -> str:
    """A system of an evaluation as it is called in text."""
    return SYSTEM_NAMES.get(name, name)


def capitalize_first(text: str) -> str:
    """The first letter large, the others untouched."""
    return text[:1].upper() + text[1:]


def score(value: float | None) -> str:
    """A metric with four decimals, or four significant digits (of large numbers all before the point) where it is not a share."""
    if value is None:
        return DASH
    digits = ".4f" if abs(value) < 10 else ",.4g" if abs(value) < 1000 else ",.0f"
    return f"{value:{digits}}".replace("-", MINUS)


def amount(value: float | None) -> str:
    """A mean count: three significant digits, but all before the point, and no point after a whole number."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 99.95 or float(value).is_integer() else f"{value:#.3g}"


def signed(value: float | None) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    if value is None:
        return DASH
    shown = f"{value:+.4f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", MINUS)


def interval(ends: tuple[float | None, float | None]) -> str:
    """The two ends of an interval, a dash without one."""
    low, high = ends
    return DASH if low is None or high is None else f"{score(low)} to {score(high)}"


def signed_interval(ends: tuple[float | None, float | None]) -> str:
    """The two ends of an interval of a difference."""
    low, high = ends
    return DASH if low is None or high is None else f"{signed(low)} to {signed(high)}"


def percent(value: float | None) -> str:
    """A share of 1 as per cent, with a decimal where it is small."""
    if value is None:
        return DASH
    return f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}"


def signed_percent(value: float | None) -> str:
    """A relative change with its sign; what rounds to nothing has none."""
    if value is None:
        return DASH
    shown = f"{value:+.1%}"
    return shown[1:] if float(shown[:-1]) == 0 else shown.replace("-", MINUS)


def integer(value: Any) -> str:
    """A count with commas between thousands."""
    return f"{value:,.0f}" if isinstance(value, int | float) else DASH


def duration(seconds: float | None) -> str:
    """Seconds in the units that people would choose."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def breakable(name: str) -> Markup:
    """HTML of a key, metric or path that may be broken after its separators, never inside a word or a number."""
    return Markup(re.sub(r"([_/]|\.(?!\d))(?=\w)", r"\1<wbr>", str(escape(name))))


def moment(timestamp: Any) -> str:
    """Seconds since 1970 as a date and time in UTC; a text stays what it is."""
    if not isinstance(timestamp, int | float):
        return str(timestamp or DASH)
    return datetime.fromtimestamp(timestamp, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def statistic_name(key: str) -> str:
    """A statistic of lengths as people call it: p50 is the median, p95 the 95th percentile."""
    names = {"mean": "mean", "p50": "median", "max": "longest"}
    return names.get(key) or (f"{key[1:]}th percentile" if key[:1] == "p" and key[1:].isdigit() else key)


def rank(value: int | None) -> str:
    """Rank of the first relevant document."""
    return "not found" if value is None else f"rank {value}"


def p_value(value: float | None) -> str:
    """A p value; below what a bootstrap resolves it is given as a bound."""
    if value is None:
        return DASH
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def milliseconds(value: float | None) -> str:
    """A latency."""
    return DASH if value is None else f"{value:,.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def times(value: float | None) -> str:
    """How many times as fast."""
    return DASH if value is None else f"{value:.2g}\u00d7 as fast" if value < 10 else f"{value:.0f}\u00d7 as fast"


def drift(value: float | None) -> str:
    """A small difference of numbers, in powers of ten where it is tiny."""
    return DASH if value is None else f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def plain_value(value: Any) -> str:
    """A configuration value as it would stand in YAML."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:g}" if value == 0 or abs(value) >= 1e-4 else f"{value:.4g}"
    return json.dumps(value)


def shorten(text: str) -> str:
    """At most LONGEST characters, cut at a word."""
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST].rsplit(" ", 1)[0] + " \u2026"
