"""A comparison as Markdown, for a terminal, a pull request, or the summary of a CI job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stpipe.reports import text

SHOWN_QUERIES = 3
MOST_CHANGES = 40


def comparison_markdown(document: Mapping[str, Any]) -> str:
    """The whole comparison: tests, other metrics, queries that changed most, differences of the settings."""
    parts = [_head(document), *(_evaluation(e, document) for e in document["evaluations"]), *_settings(document)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(document: Mapping[str, Any]) -> str:
    others = [run["name"] for run in document["runs"] if run["name"] != document["baseline"]]
    lines = [f"# {_and(others)} against {document['baseline']}"]
    if document["failures"]:
        lines += ["", "**Failed:**", *(f"- {line}" for line in document["failures"])]
    elif document["question"]["max_drop"] is not None:
        lines += ["", f"Passed: no metric is worse by more than {document['question']['max_drop']:g}."]
    return "\n".join(lines)


def _evaluation(e: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    count = f", {e['count']:,} {e['unit']}" if e["count"] else ""
    blocks = [f"## {e['name']}\n\n{e['evaluator']}{count}"]
    if e["tests"]:
        level = f"{document['question']['resampling']['confidence']:.0%} interval".replace("%", " %")
        head = ["run", "metric", "difference", level, "p (bootstrap)", "p (permutation)", "p (Holm)", "effect size", "verdict"]
        blocks.append(table(head, [_test_row(t) for t in e["tests"]]))
    blocks += [f"{n['run']} cannot be compared: {n['reason']}" for n in e["not_comparable"]]
    runs = [run["name"] for run in document["runs"]]
    rows = [[m["name"], *(text.score(m["values"].get(run)) for run in runs)] for m in e["metrics"]]
    blocks.append(table(["metric", *runs], rows))
    blocks += [_queries(c) for c in e["queries"]]
    return "\n\n".join(blocks)


def _test_row(t: Mapping[str, Any]) -> list[str]:
    return [
        t["run"],
        t["metric"],
        text.signed(t["mean"]),
        text.signed_interval((t["low"], t["high"])),
        _p(t["p_bootstrap"]),
        _p(t["p_permutation"]),
        _p(t["p_holm"]),
        text.DASH if t["effect_size"] is None else f"{t['effect_size']:+.2f}",
        t["verdict"] + (f" ({t['left_out']} queries left out)" if t["left_out"] else ""),
    ]


def _p(value: float | None) -> str:
    return text.p_value(value).removeprefix("p = ").removeprefix("p ")


def _queries(changes: Mapping[str, Any]) -> str:
    lines = [
        f"{changes['system']} against {changes['against']} by {changes['metric']}: {changes['better']:,} queries better, "
        f"{changes['worse']:,} worse, {changes['equal']:,} equal."
    ]
    rows = [*changes["gains"][:SHOWN_QUERIES], *changes["losses"][:SHOWN_QUERIES]]
    if rows:
        shown = [
            [text.shorten(q["query"] or q["query_id"]), text.score(q["from"]), text.score(q["to"]), text.signed(q["change"])] for q in rows
        ]
        lines += ["", table(["query", changes["against"], changes["system"], "change"], shown)]
    return "\n".join(lines)


def _settings(document: Mapping[str, Any]) -> Iterator[str]:
    runs = [run["name"] for run in document["runs"]]
    for part, title in (("configuration", "Different settings"), ("environment", "Different environments")):
        rows = document[part]
        if rows:
            shown = [[row["key"], *(text.plain_value(row["values"].get(run)) for run in runs)] for row in rows[:MOST_CHANGES]]
            more = f"\n\n{len(rows) - MOST_CHANGES} more in the JSON." if len(rows) > MOST_CHANGES else ""
            yield f"## {title}\n\n{table(['key', *runs], shown)}{more}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells may hold anything; columns are padded, so that it reads well without rendering, too."""
    cells = [[_cell(value) for value in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
