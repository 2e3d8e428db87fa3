"""Entry point of the report."""

from __future__ import annotations

import json
from pathlib import Path

from stpipe.reports.atomic import write_text
from stpipe.reports.document import build_document
from stpipe.reports.page import render_page
from stpipe.reports.run_record import read_run


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write report.html and report.json into a run directory, from its files alone.

    Works in every state of a run: what is not there is named as missing. The same files give the same bytes.

    Returns:
        The paths of report.html and report.json.

    Raises:
        ConfigError: `run_dir` is no directory, or holds no run at all.
    """
    document = build_document(read_run(run_dir))
    page = render_page(document)
    data = write_text(run_dir / "report.json", json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return write_text(run_dir / "report.html", page), data
