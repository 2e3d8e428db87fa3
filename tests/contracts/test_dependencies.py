"""What stpipe imports is what pyproject.toml declares: nothing is missing, nothing is installed for nobody."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
# Distribution -> the name it is imported by, where they differ.
IMPORTED_AS = {"pyyaml": "yaml", "hydra-core": "hydra", "scikit-learn": "sklearn", "faiss-cpu": "faiss"}
# Never imported by name: other packages that are declared need them at the declared version.
INDIRECT: set[str] = set()


def _declared() -> tuple[set[str], set[str]]:
    """Import names of the run-time dependencies, and of those with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        found = {re.match(r"[A-Za-z0-9._-]+", r)[0].lower() for r in requirements}
        return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in found}

    extras = [r for requirements in project["optional-dependencies"].values() for r in requirements]
    return names(project["dependencies"]), names([*project["dependencies"], *extras])


def _imported(folder: str) -> dict[str, str]:
    """Third-party packages that the files of a folder import, each with one of the files."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            for module in modules:
                package = module.split(".")[0]
                local = package in {"stpipe", "tests", "scripts"} or path.with_name(f"{package}.py").exists()  # scripts import each other
                if package not in sys.stdlib_module_names and not local:
                    found.setdefault(package, str(path.relative_to(ROOT)))
    return found


def test_every_import_is_declared() -> None:
    _, everything = _declared()
    imported = _imported("stpipe") | _imported("scripts") | _imported("tests")
    assert len(imported) > 10
    undeclared = {name: where for name, where in imported.items() if name not in everything}
    assert not undeclared, f"imported but not in pyproject.toml: {undeclared}"


def test_every_run_time_dependency_is_imported() -> None:
    declared, _ = _declared()
    unused = declared - set(_imported("stpipe")) - INDIRECT
    assert not unused, f"in pyproject.toml, but nothing imports them: {sorted(unused)}"


def test_no_run_time_import_of_the_peer() -> None:
    assert "sentence_transformers" not in _imported("stpipe")


def test_pins_are_exact_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pin = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*( ; python_version >= \"3\.\d+\")?")
    odd = [line for line in lines if not pin.fullmatch(line)]
    assert lines
    assert not odd, f"not NAME==VERSION: {odd}"
    pinned = {re.sub(r"[-_.]+", "_", line.split("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    named = {re.sub(r"[-_.]+", "_", re.match(r"[A-Za-z0-9._-]+", r)[0].lower()) for r in requirements}
    named.discard("triton")  # made for one version of torch, which names it
    assert named <= pinned, f"not pinned: {sorted(named - pinned)}"
