"""The comparison as Markdown and as a page."""

from __future__ import annotations

import numpy as np
import pytest

from stpipe.gate.comparison import Question, compare
from stpipe.gate.comparison_page import comparison_page
from stpipe.gate.comparison_text import comparison_markdown, table
from stpipe.reports.run_record import read_run
from tests.gate.runs import QUERIES, make_run, retrieval


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("runs")
    scores = np.random.default_rng(5).uniform(0.2, 0.6, 60)
    texts = ["a | b <script>alert(1)</script>\nnew line", *QUERIES[1:]]
    make_run(folder / "old", {"ir": retrieval(scores, texts=texts)})
    lower = scores - 0.1
    lower[0] -= 0.05  # shown first among the losses
    make_run(folder / "new", {"ir": retrieval(lower, texts=texts)}, config={"trainer": {"seed": 7}, "run": {"name": "new"}})
    return compare({name: read_run(folder / name) for name in ("old", "new")}, Question(max_drop=0.05))


def test_markdown_names_the_failure_the_test_and_the_settings(document: dict) -> None:
    found = comparison_markdown(document)
    assert "# new against old" in found and "**Failed:**" in found and "worse by 0.10" in found
    assert "| ndcg@10" in found and "\u22120.1008" in found and "| trainer.seed" in found
    assert "60 worse" in found and "a \\| b" in found


def test_every_row_of_a_table_has_its_columns(document: dict) -> None:
    widths: set[int] = set()
    for block in comparison_markdown(document).split("\n\n"):
        rows = [line.replace("\\|", "").count("|") for line in block.split("\n") if line.startswith("|")]
        assert len(set(rows)) <= 1, block
        widths.update(rows)
    assert widths


def test_table_pads_and_escapes() -> None:
    assert table(["a", "b|c"], [["1\n2", "x"]]) == "| a   | b\\|c |\n|-----|------|\n| 1 2 | x    |"


def test_page_holds_everything_and_nothing_from_outside(document: dict) -> None:
    page = comparison_page(document)
    assert "<svg" in page and "trainer.seed" in page.replace("<wbr>", "") and "worse by 0.10" in page
    assert "<script>" not in page and "http://" not in page.replace("http://www.w3.org", "") and 'src="' not in page
