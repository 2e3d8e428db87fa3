"""mine.html and mine.json: every number is there, texts are escaped, and the same facts give the same bytes."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from stpipe.reports.mining import render_mining_page, write_mining_report


def part(**changes: Any) -> dict[str, Any]:
    statistics = {"min": -0.1, "q25": 0.2, "median": 0.31, "q75": 0.4, "max": 0.9, "mean": 0.3333, "std": 0.1}
    found = {
        "settings": {"num_negatives": 3},
        "rows": 1200,
        "queries": 1000,
        "corpus": 1100,
        "pool": 32,
        "candidates": 31_000,
        "negatives": 2800,
        "short": 70,
        "none": 12,
        "found": 0.96,
        "first": 0.715,
        "above": 41,
        "rules": [{"rule": "relative_margin", "value": 0.05, "dropped": 512, "share": 0.0825}],
        "scores": {"positives": statistics, "negatives": {**statistics, "mean": 0.2222}, "differences": statistics},
        "histogram": {"edges": [0.0, 0.5, 1.0], "positives": [400, 800], "negatives": [2000, 800], "dropped": [0, 512]},
        "suspects": [
            {
                "query": "how <b>",
                "positive": "so",
                "text": "<script>alert(1)</script>",
                "score": 0.9,
                "positive_score": 0.8,
                "verdict": "chosen",
            }
        ],
        "cost": {"rows": 2800, "texts": 8400, "pairs": 5600, "tokens": 123_456, "sampled": 1500},
    }
    return {**found, **changes}


def document(**parts: dict[str, Any]) -> dict[str, Any]:
    return {"generator": "stpipe", "title": "my run", "setting": {"num_negatives": 3, "model": "org/retriever"}, "parts": parts}


def test_every_number_is_on_the_page() -> None:
    page = render_mining_page(document(train=part()))
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for text in (
        "2,800 negatives",
        "1,000 queries",
        "1,200 rows",
        "72%",
        "96%",
        "123,456",
        "512",
        "8.2%",
        "0.2222",
        "41 negatives",
        "70 queries",
        "12 of them",
    ):
        assert text in words, text
    assert page.count("<svg") == 1 and "org/retriever" in words


def test_texts_of_others_are_escaped() -> None:
    page = render_mining_page(document(train=part()))
    assert "<script>" not in page and "&lt;script&gt;" in page and "how &lt;b&gt;" in page


def test_what_there_is_nothing_of() -> None:
    empty = part(
        suspects=[],
        rules=[],
        above=0,
        short=0,
        negatives=0,
        scores={"positives": {}, "negatives": {}, "differences": {}},
        histogram={"edges": [0.0, 1.0], "positives": [0], "negatives": [0], "dropped": [0]},
        cost={"rows": 0, "texts": 0, "pairs": 0, "tokens": None, "sampled": 0},
    )
    page = render_mining_page(document(train=empty))
    assert "No rule was set" in page and "every negative scores below" in page and "<svg" not in page


def test_each_part_has_its_section_and_ids_of_its_own() -> None:
    page = render_mining_page(document(train=part(), eval=part(negatives=99)))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 4
    assert re.findall(r'<h2 id="part-\d">(\w+)</h2>', page) == ["train", "eval"]
    body = page[page.index("<main>") : page.index("</main>") + len("</main>")]
    ET.fromstring(re.sub(r"<br>|<wbr>", "", body).replace("&ndash;", "-"))


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    given = {"train": part()}
    kept = copy.deepcopy(given)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_mining_report(tmp_path / name, title="my run", parts=given, facts={"setting": {"num_negatives": 3}})
    assert given == kept
    for name in ("mine.json", "mine.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    data = json.loads((tmp_path / "one" / "mine.json").read_text())
    assert data["parts"]["train"]["cost"]["tokens"] == 123_456 and data["setting"] == {"num_negatives": 3}


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_mining_report(tmp_path, title="x", parts={"train": part(found=float("nan"))}, facts={"setting": {}})
