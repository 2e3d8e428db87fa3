"""What `stpipe evaluate` shows of a model beside the systems without one."""

from __future__ import annotations

import io

from rich.console import Console

from stpipe.evaluation import CrossEncoderClassificationEvaluator, CrossEncoderRerankingEvaluator
from stpipe.evaluation.run import all_baselines, evaluate_all
from stpipe.pipeline.evaluate import results_table
from tests.evaluation.toy import ToyScorer, classed, lists


def test_each_system_has_a_column_with_its_values() -> None:
    evaluators = {"dev": CrossEncoderRerankingEvaluator(source="lists"), "same": CrossEncoderClassificationEvaluator(source="pairs")}
    rows = {"lists": lists(), "pairs": classed()}
    results = evaluate_all(ToyScorer(), evaluators, rows, batch_size=8)
    baselines = all_baselines(evaluators, rows, similarity="")
    table = results_table(results, baselines)
    assert [str(column.header) for column in table.columns] == ["metric", "model", "order of the data (retriever)", "BM25"]
    shown = io.StringIO()
    Console(width=140, file=shown).print(table)
    lines = {cells[0]: cells[1:] for line in shown.getvalue().splitlines() if len(cells := line.replace("\u2502", " ").split()) > 1}
    found, systems = results["dev"].metrics, baselines["dev"]
    wanted = [found["ndcg@10"], systems["base"].metrics["ndcg@10"], systems["bm25"].metrics["ndcg@10"]]
    assert lines["dev_ndcg@10"] == [f"{value:.4f}" for value in wanted] and len(set(wanted)) == 3
    assert lines["dev_base_ndcg@10"] == [f"{wanted[1]:.4f}"]
    assert lines["same_accuracy"] == [f"{results['same'].metrics['accuracy']:.4f}"]
