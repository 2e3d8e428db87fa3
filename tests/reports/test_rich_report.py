"""Every section of the report, from what real evaluators write."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import pytest

from stpipe.cli.main import main
from stpipe.reports.document import plain
from tests.reports.rich_run import make_rich_run
from tests.reports.test_report import Page, report

MEASURES = {
    "cosine_ndcg@10": "nDCG@10",
    "cosine_accuracy@1": "Success@1",
    "cosine_precision@5": "P@5",
    "cosine_recall@10": "R@10",
    "cosine_mrr@10": "RR@10",
    "cosine_map@100": "AP@100",
}


@dataclass(frozen=True)
class Rich:
    run_dir: Path
    page: Page
    document: dict[str, Any]

    def evaluation(self, name: str) -> dict[str, Any]:
        return next(e for e in self.document["evaluations"] if e["name"] == name)

    def file(self, name: str, evaluation: str = "dev") -> Any:
        return json.loads((self.run_dir / "evaluation" / evaluation / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Rich:
    run_dir = make_rich_run(tmp_path_factory.mktemp("rich") / "run")
    return Rich(run_dir, *report(run_dir))


def test_an_independent_tool_recomputes_the_reported_metrics(rich: Rich) -> None:
    folder = rich.run_dir / "evaluation" / "dev"
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.trec")))
    reported = {m["name"]: m["values"] for m in rich.evaluation("dev")["metrics"]}
    seen = 0
    for system, file in (("before", "run_before.trec"), ("after", "run.trec"), ("bm25", "run_bm25.trec")):
        run = list(ir_measures.read_trec_run(str(folder / file)))
        found = ir_measures.calc_aggregate([ir_measures.parse_measure(m) for m in MEASURES.values()], qrels, run)
        for name, measure in MEASURES.items():
            assert reported[name][system] == pytest.approx(found[ir_measures.parse_measure(measure)], abs=1e-9), (system, name)
            seen += reported[name][system] > 0
    assert seen == 3 * len(MEASURES)


def test_reported_queries_are_those_of_the_tool(rich: Rich) -> None:
    folder = rich.run_dir / "evaluation" / "dev"
    measure = ir_measures.parse_measure("nDCG@10")
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels.trec")))
    found = {
        file: {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, list(ir_measures.read_trec_run(str(folder / file))))}
        for file in ("run_before.trec", "run.trec")
    }
    comparison = rich.evaluation("dev")["queries"][0]
    assert len(comparison["gains"]) == 10
    for change in [*comparison["gains"], *comparison["losses"]]:
        assert change["from"] == pytest.approx(found["run_before.trec"][change["query_id"]], abs=1e-9)
        assert change["to"] == pytest.approx(found["run.trec"][change["query_id"]], abs=1e-9)


def test_systems_stand_with_their_intervals_and_differences(rich: Rich) -> None:
    metrics = rich.file("metrics.json")
    rows = {r["system"]: r for r in rich.evaluation("dev")["standings"]}
    assert list(rows) == ["before", "best", "after", "bm25"]
    for system in ("before", "after", "bm25"):
        assert (rows[system]["low"], rows[system]["high"]) == (metrics["intervals"][system]["low"], metrics["intervals"][system]["high"])
        assert rows[system]["low"] <= rows[system]["value"] <= rows[system]["high"]
    assert rows["before"]["difference"]["mean"] == metrics["differences"]["after-before"]["mean"]
    assert (rows["best"]["step"], rows["after"]["step"], rows["before"]["step"]) == (160, 160, 0)
    assert rows["best"]["value"] == pytest.approx(rows["after"]["value"]) and rows["best"]["low"] == rows["after"]["low"]
    after = rows["after"]
    assert f"after step 160 {after['value']:.4f} {after['low']:.4f} to {after['high']:.4f} \u2013" in rich.page.text
    assert "best in training step 160" in rich.page.text


def test_metrics_that_are_no_means_have_intervals_and_tests_too(rich: Rich) -> None:
    for name, metric in (("sts", "spearman_cosine"), ("pairs", "cosine_ap"), ("classes", "f1_macro")):
        evaluation = rich.evaluation(name)
        assert evaluation["primary"] == metric
        assert [d["verdict"] for d in evaluation["differences"]] == ["better"]
        assert all(r["low"] < r["value"] < r["high"] for r in evaluation["standings"])


def test_what_lies_behind_the_metrics_is_drawn(rich: Rich) -> None:
    titles = " | ".join(rich.page.values("id"))
    for identity in (
        "standings-0",
        "scores-0-before",
        "scores-0-after",
        "by-label-1",
        "scores-2-after",
        "calibration-3",
        "size-0",
        "size-1",
    ):
        assert f"{identity}-title" in titles, identity
    for identity in ("lengths-0", "lengths-1", "exports", "loss", "tokens"):
        assert f"{identity}-title" in titles, identity
    assert "calibration-0-title" not in titles and "by-label-0-title" not in titles
    details = rich.file("details.json", "classes")
    assert rich.evaluation("classes")["confusion"]["after"] == details["after"]["confusion"]
    assert sum(map(sum, details["after"]["confusion"])) == 240
    bins = rich.evaluation("classes")["calibration"]["after"]["bins"]
    assert sum(b["rows"] for b in bins) == 240
    assert "Rows by class, after training" in rich.page.text
    assert "cut at 256" in rich.page.text
    assert "seconds of training" in rich.page.text


def test_smaller_vectors_are_a_curve(rich: Rich) -> None:
    one, two = rich.document["trade_offs"]
    metrics = {m["name"]: m["values"] for m in rich.evaluation("dev")["metrics"]}
    assert (one["title"], one["metric"], len(one["points"])) == ("dev", "cosine_ndcg@10", 9)
    cut = next(p for p in one["points"] if (p["dims"], p["precision"]) == (8, "binary"))
    assert cut["bytes"] == 1.0 and cut["values"]["after"] == metrics["cosine_ndcg@10_at_8_dims_as_binary"]["after"]
    assert (two["title"], [p["dims"] for p in two["points"]]) == ("cut4, cut8", [4, 8])
    assert "at_ 8_ dims" not in rich.page.text.replace("_at", "_ at"), "they stand with the curve, not among all metrics"


def test_nearest_documents_are_those_of_the_runs(rich: Rich) -> None:
    examples = rich.evaluation("dev")["examples"]
    assert {e["chosen"] for e in examples} == {"gain", "spread"}
    run: dict[str, list[str]] = {}
    for line in (rich.run_dir / "evaluation" / "dev" / "run.trec").read_text(encoding="utf-8").splitlines():
        query, _, doc, *_ = line.split()
        run.setdefault(query, []).append(doc)
    for example in examples:
        assert [d["id"] for d in example["systems"]["after"]] == run[example["query_id"]][:3]
        assert example["relevant"] and all(d["grade"] == 1 for d in example["relevant"])
        assert all(d["text"].split()[1] == "answer" for docs in example["systems"].values() for d in docs)
    first = examples[0]
    assert first["query_id"] == rich.evaluation("dev")["queries"][0]["gains"][0]["query_id"]
    assert f"{first['query']} gained most Relevant {first['relevant'][0]['text']} relevant" in rich.page.text


def test_the_difference_from_the_recipe_says_who_made_it(rich: Rich) -> None:
    text = rich.page.text.replace(". ", ".").replace("/ ", "/").replace("_ ", "_")
    assert "Recipe dense_quickstart" in text
    assert "optimizer.lr 2e-05 5e-05 command line" in text
    assert "offline true false configs/profile/offline.yaml:4" in text
    assert len(rich.document["configuration"]["recipe_changes"]) == 3


def test_exports_stand_with_their_verdict(rich: Rich) -> None:
    assert [(r["name"], r["passed"]) for r in rich.document["exports"]] == [("onnx", True), ("int8", False)]
    text = rich.page.text
    assert "onnx onnxruntime, self_contained, fp32 passed 3.0e-07 1.0000 mean cosine 0.0000" in text
    assert "4.25 ms model 9.5 ms" in text and "23 MB model 91 MB" in text
    assert "int8 (exports/rejected/int8): mean cosine 0.81 is below min_cosine 0.95 <b>." in text


def test_the_command_writes_the_same_bytes_again(rich: Rich, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rich.run_dir, copy)
    (copy / "report.json").unlink()
    (copy / "report.html").write_text("old", encoding="utf-8")
    assert main(["report", str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    for name in ("report.html", "report.json"):
        assert (copy / name).read_bytes() == (rich.run_dir / name).read_bytes()


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "RUN is missing" in capsys.readouterr().err


SECTIONS = (
    "scores-0-after-title",
    "calibration-3-title",
    "size-0-title",
    "standings-0-title",
    "lengths-0-title",
    "exports-title",
)
WORDS = (
    "nearest documents",
    "Difference from the recipe",
    "Verified exports",
    "Numbers of these figures",
    "95 % intervals from resampling",
)


def test_a_section_appears_only_when_there_is_something_to_show(rich: Rich, tmp_path: Path) -> None:
    """The files of an older run, which has metrics and nothing behind them."""
    copy = tmp_path / "copy"
    shutil.copytree(rich.run_dir, copy)
    for path in (copy / "recipe.json", *copy.glob("evaluation/*/details.json"), *copy.glob("evaluation/*/examples.json")):
        path.unlink()
    shutil.rmtree(copy / "exports")
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(config.replace("truncate_dim", "no_dim"), encoding="utf-8")
    scan = json.loads((copy / "data.json").read_text(encoding="utf-8"))
    for role in scan["sources"]["default"]["train"]["roles"].values():
        del role["lengths"]
    (copy / "data.json").write_text(json.dumps(scan), encoding="utf-8")
    for path in copy.glob("evaluation/*/metrics.json"):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({k: v for k, v in metrics.items() if k != "intervals"}), encoding="utf-8")
    page, document = report(copy)
    for identity in SECTIONS:
        assert identity in rich.page.values("id") and identity not in page.values("id"), identity
    for words in WORDS:
        assert words in rich.page.text.replace("\u00a0", " ") and words not in page.text.replace("\u00a0", " "), words
    assert (document["trade_offs"], document["exports"], document["configuration"]["recipe"]) == ([], [], None)
    lows = [r["low"] for e in document["evaluations"] for r in e["standings"]]
    assert len(lows) > 10 and set(lows) == {None}


def test_files_that_are_half_written_are_left_out(rich: Rich, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rich.run_dir, copy)
    for path in (copy / "recipe.json", *copy.glob("evaluation/*/details.json"), *copy.glob("evaluation/*/examples.json")):
        path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    _, document = report(copy)
    assert all(e["scores"] == {} and e["examples"] == [] for e in document["evaluations"])


def test_texts_that_are_no_unicode_and_numbers_that_are_none() -> None:
    found = plain({"a": "half \ud800", "b": math.inf, 3: (1.5, True)})
    assert found == {"a": "half ?", "b": None, "3": [1.5, True]}
    json.dumps(found, ensure_ascii=False).encode()
