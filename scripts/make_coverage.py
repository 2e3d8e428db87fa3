"""Write docs/coverage.md from docs/coverage.yaml. `--check` writes nothing and fails when the page is out of date."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "coverage.yaml"
PAGE = ROOT / "docs" / "coverage.md"

INTRODUCTION = """\
# Coverage

<!-- Made from coverage.yaml by scripts/make_coverage.py; edit that table, not this page. -->

What the documentation of sentence-transformers describes (A), what its release 6.2 has beyond it (B), and where stpipe
stands: the call, key or recipe that gives it, and the test that proves it. Numbers that are missing under B are rows of
little value to somebody who trains models.
"""


@dataclass(frozen=True)
class Row:
    """One feature: `use` says how to get it, `tests` are `path::name` from the root of the repository."""

    id: str
    state: str
    what: str
    use: str
    tests: tuple[str, ...]


def load(path: Path = TABLE) -> dict[str, list[Row]]:
    """Rows by section, in the order of the table."""
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {s["section"]: [Row(**{**row, "tests": tuple(row["tests"])}) for row in s["rows"]] for s in sections}


def render(sections: dict[str, list[Row]]) -> str:
    """The page as Markdown."""
    rows = [row for group in sections.values() for row in group]
    done = sum(row.state == "done" for row in rows)
    lines = [INTRODUCTION, f"{done} of {len(rows)} rows are done.", ""]
    for title, group in sections.items():
        lines += [f"## {title}", "", "| | what | state | call, key or recipe | test |", "|---|---|---|---|---|"]
        for row in group:
            tests = "<br>".join(f"`{test}`" for test in row.tests)
            cells = (row.id, row.what, row.state, row.use, tests)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    text = render(load())
    if "--check" in arguments:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("docs/coverage.md is current" if current else "docs/coverage.md is out of date: run scripts/make_coverage.py")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
