"""The report: true, complete, self-contained, and written for every state that a run can be in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import stpipe.reports
import stpipe.reports.report as entry
from stpipe.config.errors import ConfigError
from stpipe.reports.report import write_report

PACKAGE = Path(stpipe.reports.__file__).parent
VOID = {"meta", "link", "img", "br", "hr", "wbr", "input"}
SCHEMA = json.loads((PACKAGE / "report.schema.json").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Elements of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


def report(run_dir: Path) -> tuple[Page, dict[str, Any]]:
    """Write the report; the page is well-formed and the document fits its schema, always."""
    html, data = write_report(run_dir)
    document = json.loads(data.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return Page(html.read_text(encoding="utf-8")), document


@dataclass(frozen=True)
class Written:
    """The report of a finished run, written once for the tests that only read it."""

    run_dir: Path
    page: Page
    document: dict[str, Any]
    html: str


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, synthetic: Any) -> Written:
    run_dir = synthetic.make_run(tmp_path_factory.mktemp("written") / "run")
    page, document = report(run_dir)
    return Written(run_dir, page, document, (run_dir / "report.html").read_text(encoding="utf-8"))


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def test_the_schema_is_valid_and_strict(written: Written) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = written.document
    for damaged in ({**document, "surprise": 1}, {**document, "schema_version": 2}, {k: v for k, v in document.items() if k != "run"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(damaged)


def test_the_page_says_what_the_run_found(written: Written) -> None:
    page, document, run_dir = written.page, written.document, written.run_dir
    metrics = json.loads((run_dir / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))
    for system in ("before", "after", "bm25"):
        assert f"{metrics['systems'][system]['cosine_ndcg@10']:.4f}" in page.text
    assert "Better than the model before training" in page.text
    assert "Better than BM25" in page.text
    for expected in (
        "3 rows occur more than once",
        "Kept: the weights of step 160",
        "recompute, packed",
        "need about 9.1 GB, 4.0 GB may be used",
        "0.2 MiB",
        "Micro-batches per step",
        "6f2d9c01ab34",
        "11 min 00 s",
        "not found",
    ):
        assert expected in page.text
    (evaluation,) = document["evaluations"]
    assert evaluation["metrics"][0]["values"] == {s: metrics["systems"][s]["cosine_ndcg@10"] for s in ("before", "after", "bm25")}
    assert {c["key"] for c in document["configuration"]["changed"]} >= {"trainer.batch_size", "dataset.checks.overlap", "loss.dims"}
    assert document["training"]["best"] == {"metric": "dev_cosine_ndcg@10", "step": 160, "value": 0.583}
    assert len(document["training"]["curves"]["loss"]) == 200


def test_differences_that_are_not_clear_and_worse_ones_are_said_so(run_dir: Path) -> None:
    differences = {
        "after-before": {"metric": "cosine_ndcg@10", "mean": 0.001, "low": -0.02, "high": 0.02, "p": 0.9},
        "after-bm25": {"metric": "cosine_ndcg@10", "mean": -0.1, "low": -0.12, "high": -0.08, "p": 0.0},
    }
    change(run_dir / "evaluation" / "dev" / "metrics.json", differences=differences)
    page, _ = report(run_dir)
    assert "Not clearly different from the model before training" in page.text
    assert "Worse than BM25" in page.text


def test_the_page_needs_nothing_from_outside(written: Written) -> None:
    page = written.page
    assert not {"script", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    links = [*page.values("src"), *page.values("href"), *page.values("srcset"), *page.values("xlink:href")]
    assert len(links) > 10
    assert [x for x in links if not x.startswith("#")] == ["data:,"]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    html = written.html
    styles = " ".join([*re.findall(r"<style>(.*?)</style>", html, re.S), *page.values("style")])
    assert "@import" not in styles
    assert set(re.findall(r"url\((.)", styles)) <= {"#"}
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_texts_of_the_data_cannot_become_markup(written: Written) -> None:
    html = written.html
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(" in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html


def test_ids_are_unique_and_references_lead_somewhere(written: Written) -> None:
    page = written.page
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [x[1:] for x in page.values("href") if x.startswith("#")]
    wanted += [part for name in ("aria-labelledby", "aria-describedby") for value in page.values(name) for part in value.split()]
    wanted += [part for style in [*page.values("style"), *page.values("clip-path")] for part in re.findall(r"url\(#([^)]+)\)", style)]
    assert len(wanted) > 30
    assert set(wanted) <= set(ids)


def test_every_figure_has_a_text_alternative(written: Written) -> None:
    page = written.page
    figures = [a for tag, a in page.elements if tag == "svg"]
    assert len(figures) >= 8
    assert all(a.get("role") == "img" and a.get("aria-labelledby") and a.get("viewbox") for a in figures)
    assert all("width" not in a and "height" not in a for a in figures)
    html = written.html
    assert "after \u2212 before: +0." in html


def test_tables_have_headers_with_scope(written: Written) -> None:
    page = written.page
    headers = [a for tag, a in page.elements if tag == "th"]
    assert len(headers) > 40
    assert {a.get("scope") for a in headers} == {"col", "row"}


def test_the_same_files_give_the_same_bytes(run_dir: Path) -> None:
    first = [p.read_bytes() for p in write_report(run_dir)]
    assert [p.read_bytes() for p in write_report(run_dir)] == first


def test_a_failure_leaves_the_old_report(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_report(run_dir)
    old = [p.read_bytes() for p in paths]
    change(run_dir / "status.json", state="failed")

    def broken(document: dict[str, Any]) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(entry, "render_page", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        write_report(run_dir)
    assert [p.read_bytes() for p in paths] == old
    assert not list(run_dir.glob(".*"))


@pytest.mark.parametrize(
    "gone",
    [
        ["environment.json"],
        ["status.json"],
        ["config.yaml"],
        ["plan.json"],
        ["data.json"],
        ["metrics.jsonl"],
        ["evaluation/dev/metrics.json"],
        ["evaluation/dev/per_query.jsonl"],
        ["environment.json", "status.json", "plan.json", "data.json", "metrics.jsonl", "evaluation/dev/metrics.json"],
    ],
    ids=lambda gone: "+".join(gone),
)
def test_missing_pieces_are_named_and_nothing_breaks(run_dir: Path, gone: list[str]) -> None:
    for name in gone:
        (run_dir / name).unlink()
    page, document = report(run_dir)
    told = {
        "metrics.jsonl": "No training step was logged",
        "evaluation/dev/metrics.json": "No evaluation was recorded",
        "environment.json": "No environment was recorded",
        "config.yaml": "The configuration could not be read",
        "status.json": "unknown",
    }
    assert all(told[name] in page.text for name in gone if name in told)
    assert document["run"]["missing"] == [
        n for n in ("config.yaml", "environment.json", "status.json", "plan.json", "data.json") if n in gone
    ]


def test_a_failed_run_shows_its_error(run_dir: Path) -> None:
    change(
        run_dir / "status.json",
        state="failed",
        exit_code=1,
        error="out of memory <at step 7>; lower trainer.batch_size",
        step=7,
        finished=None,
    )
    page, document = report(run_dir)
    assert "out of memory <at step 7>; lower trainer.batch_size" in page.text
    assert "exit code 1" in page.text
    assert "7 of 200" in page.text
    assert document["run"]["seconds"] is None


def test_a_run_without_evaluator_says_that_nothing_is_known(run_dir: Path) -> None:
    (run_dir / "evaluation" / "dev" / "metrics.json").unlink()
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**config, "evaluator": {}}), encoding="utf-8")
    page, _ = report(run_dir)
    assert "its configuration names no evaluator" in page.text


def test_an_evaluation_without_before_and_without_queries(run_dir: Path) -> None:
    metrics = {
        "evaluator": "embedding_similarity",
        "primary": "cosine_spearman",
        "num_rows": 1500,
        "systems": {"after": {"cosine_spearman": 0.84}},
    }
    for name in ("metrics.json", "per_query.jsonl"):
        (run_dir / "evaluation" / "dev" / name).unlink()
    (run_dir / "evaluation" / "dev" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    page, document = report(run_dir)
    assert "The untrained model was not evaluated" in page.text
    assert "embedding_similarity, 1,500 rows" in page.text
    assert document["evaluations"][0]["queries"] == []


def test_values_that_are_no_numbers(run_dir: Path) -> None:
    line = {"step": 300, "epoch": 1.5, "split": "train", "name": "loss", "value": float("nan"), "time": 0}
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n" + '{"step": 301, "spl')
    systems = {"after": {"cosine_ndcg@10": float("nan")}}
    change(run_dir / "evaluation" / "dev" / "metrics.json", systems=systems, differences={})
    page, document = report(run_dir)
    assert document["training"]["curves"]["loss"][-1] == [300, None]
    assert document["training"]["not_finite"] == 1
    assert "the loss was not a number in 1 logged windows" in page.text
    assert "1 lines of metrics.jsonl could not be read" in page.text
    assert "NaN" not in (run_dir / "report.json").read_text(encoding="utf-8")


def test_what_evaluation_and_scan_really_write_is_read(run_dir: Path) -> None:
    """The synthetic files cannot drift away from the real ones unnoticed."""
    from stpipe.data.report import Finding, RoleStats, ScanReport, SplitScan
    from stpipe.evaluation.base import Evaluation
    from stpipe.evaluation.write import write_evaluation

    def found(shift: float) -> Evaluation:
        scores = [min(1.0, 0.02 * i + shift) for i in range(40)]
        lines = [{"query_id": f"q{i}", "query": f"text {i}", "ndcg@10": s, "rank": 1 if s else None} for i, s in enumerate(scores)]
        mean = sum(scores) / len(scores)
        return Evaluation({"cosine_ndcg@10": mean}, "cosine_ndcg@10", "information_retrieval", 40, per_query=lines, query_metric="ndcg@10")

    write_evaluation(run_dir / "evaluation" / "dev", {"before": found(0.0), "after": found(0.1), "bm25": found(0.2)})
    stats = RoleStats(7, 5, "", 12, {"mean": 4.0, "p50": 3.0, "max": 31.0}, 0.25)
    finding = Finding("empty", "drop", 2, "empty: 2 rows dropped", ("row 9",))
    scan = SplitScan("pairs.jsonl", "f1", "pair", {"anchor": "q"}, "names", ("id",), 9, 7, {"anchor": stats}, None, {}, (finding,))
    (run_dir / "data.json").write_text(json.dumps(ScanReport({"default": {"train": scan}}).as_dict()), encoding="utf-8")
    page, document = report(run_dir)
    (evaluation,) = document["evaluations"]
    assert [d["verdict"] for d in evaluation["differences"]] == ["better", "worse"]
    assert [(c["better"], c["worse"]) for c in evaluation["queries"]] == [(40, 0), (0, 40)]
    assert document["data"]["scan"]["sources"]["default"]["train"]["rows"] == 7
    assert "default train anchor 7 5 4 3 31 12 25%" in page.text
    assert "default (train): empty: 2 rows dropped" in document["warnings"]


def test_a_reranker_stands_beside_the_order_that_it_was_given(run_dir: Path) -> None:
    """Real evaluations of two systems; the order of the data is a column, a tested difference, a comparison and a level."""
    from stpipe.evaluation import CrossEncoderRerankingEvaluator
    from stpipe.evaluation.write import write_evaluation
    from tests.evaluation.toy import ToyScorer, lists

    given = lists()
    reversed_lists = {"query": given.columns["query"], "documents": [docs[::-1] for docs in given.columns["documents"]]}
    rows = replace(given, columns=reversed_lists, labels=[labels[::-1] for labels in given.labels or ()])
    evaluator = CrossEncoderRerankingEvaluator()
    before, after = (evaluator(ToyScorer(noise=n), rows, batch_size=8) for n in (6.0, 0.5))
    write_evaluation(run_dir / "evaluation" / "dev", {"before": before, "after": after, **evaluator.baselines({"x": rows}, similarity="")})
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    config["evaluator"] = {"dev": {"name": "cross_encoder_reranking", "at_k": 10}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    page, document = report(run_dir)
    (evaluation,) = document["evaluations"]
    assert evaluation["systems"] == ["before", "after", "base", "bm25"]
    assert [c["against"] for c in evaluation["queries"]] == ["before", "base", "bm25"]
    assert {d["against"]: d["verdict"] for d in evaluation["differences"]}["base"] == "better"
    assert "Better than the order of the data (retriever)" in page.text
    assert "base_ndcg@10" not in page.text
    directions = {m["name"]: m["better"] for m in evaluation["metrics"]}
    assert directions["ndcg@10"] == "higher" and directions["base_ndcg@10"] is None


@pytest.mark.parametrize("steps", [1, 3, 2000])
def test_runs_of_any_length(tmp_path: Path, synthetic: Any, steps: int) -> None:
    page, document = report(synthetic.make_run(tmp_path / "run", steps=steps, queries=2))
    assert len(document["training"]["curves"]["loss"]) == steps
    assert (tmp_path / "run" / "report.html").stat().st_size < 400_000
    assert f"{steps:,} of {steps:,}" in page.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
