"""Write constraints.txt from pip's own resolution of everything that pyproject.toml can ask for.

    python -m pip install --dry-run --ignore-installed --report report.json -e '.[all-extras,comma,separated]'
    python scripts/make_constraints.py report.json > constraints.txt

Run the complete test suite with the result before committing it: the file promises tested versions.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HEADER = """\
# Versions that were tested together (CPython 3.11, Linux x86-64); `pip install -c constraints.txt ...` takes these.
# A marker stands where a release needs a newer Python than the oldest that stpipe supports.
# Made by scripts/make_constraints.py; CONTRIBUTING.md says how.
"""
OLDEST = (3, 10)
# stpipe itself, and what torch brings along for one platform only: torch pins these itself.
LEFT_OUT = re.compile(r"^(stpipe|triton|nvidia-.*|cuda-.*|setuptools|pip)$")


def canonical(name: str) -> str:
    """The normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def marker(requires_python: str | None) -> str:
    """Environment marker for a release that does not install on the oldest supported Python, else nothing."""
    found = re.search(r">=\s*(\d+)\.(\d+)", requires_python or "")
    if found is None or (int(found[1]), int(found[2])) <= OLDEST:
        return ""
    return f' ; python_version >= "{found[1]}.{found[2]}"'


def constraints(report: dict[str, Any]) -> str:
    """The text of constraints.txt for one of pip's installation reports."""
    lines = []
    for item in report["install"]:
        meta = item["metadata"]
        name = canonical(meta["name"])
        if not LEFT_OUT.match(name):
            version = meta["version"].split("+")[0]  # a local version such as +cpu names a build, not a release
            lines.append(f"{name}=={version}{marker(meta.get('requires_python'))}")
    return HEADER + "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(constraints(json.loads(Path(sys.argv[1]).read_text())))
