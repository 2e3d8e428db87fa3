"""Rules about the text of the repository: short files and functions, no leftovers, nothing tied to one machine."""

from __future__ import annotations

import ast
import re
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 450
FUNCTION_LINES = 80
TEXT = {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".json", ".jinja", ".html", ".css", ""}


def _files(*folders: str) -> list[Path]:
    found = (p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return sorted(p for p in found if p.suffix in TEXT)


SOURCES = [p for p in _files("stpipe") if p.suffix == ".py"]
PYTHON = [p for p in _files("stpipe", "scripts", "tests") if p.suffix == ".py"]
TOP = [p for p in sorted(ROOT.iterdir()) if p.is_file() and p.suffix in TEXT and not p.name.startswith(".")]
EVERYTHING = [*TOP, *_files("stpipe", "configs", "recipes", "scripts", "tests", "docs", ".ci")]
GENERATED = {"schema.json", "coverage.md", "LICENSE", "constraints.txt"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_rules_see_the_repository() -> None:
    assert len(SOURCES) > 20
    assert len(EVERYTHING) > len(PYTHON) > len(SOURCES)


def test_sources_are_short() -> None:
    long = {_name(p): n for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > FILE_LINES}
    assert not long, f"longer than {FILE_LINES} lines: {long}"


def test_functions_are_short() -> None:
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                long[f"{_name(path)}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
    assert not long, f"longer than {FUNCTION_LINES} lines: {long}"


def test_sources_are_ascii() -> None:
    odd = {}
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.isascii():
                odd[f"{_name(path)}:{number}"] = line.strip()
    assert not odd, odd


def test_modules_say_what_they_are() -> None:
    silent = [
        _name(p)
        for p in SOURCES
        if p.read_text(encoding="utf-8").strip() and not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))
    ]
    assert not silent, f"no module docstring: {silent}"


# Written in pieces, so that this file does not find itself.
LEFTOVER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
MACHINE = re.compile(r"(?<![\w.~:/-])/(?:wo" + r"rk|ho" + r"me/\w+|opt/\w+|Users/\w+|root)(?:/|\b)")


@pytest.mark.parametrize(("rule", "pattern"), [("leftover", LEFTOVER), ("machine path", MACHINE)], ids=["leftovers", "paths"])
def test_nothing_is_left_over(rule: str, pattern: re.Pattern[str]) -> None:
    found = []
    for path in EVERYTHING:
        if path.name in GENERATED:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{_name(path)}:{number}: {line.strip()[:120]}")
    assert not found, f"{rule}:\n" + "\n".join(found)


def test_patterns_find_what_they_are_for() -> None:
    assert LEFTOVER.search("# TO" + "DO: later")
    assert MACHINE.search("see /ho" + "me/someone/data")
    assert not MACHINE.search("https://example.org/ho" + "me/page")


@pytest.mark.parametrize("script", ["scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_are_executable_and_strict(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & stat.S_IXUSR, f"{script} is not executable"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert re.search(r"^set -e?uo pipefail$", text, re.M), f"{script} does not stop at undefined variables"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    dead, seen = [], 0
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                seen += 1
                if not (page.parent / target).exists():
                    dead.append(f"{_name(page)}: {target}")
    assert seen >= 10
    assert not dead, dead


def test_quickstart_names_the_recipes_when_one_does_not_exist() -> None:
    done = subprocess.run(["bash", str(ROOT / "scripts/quickstart"), "no_such_recipe"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no recipe 'no_such_recipe'" in done.stderr and "splade_nq" in done.stderr
