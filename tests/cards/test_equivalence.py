"""The card of a run of several processes says what was measured of its combination, and never more."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from scripts.equivalence_cells import BACKENDS, LIMIT, Cell, Result
from scripts.equivalence_page import matrix
from scripts.equivalence_tasks import KINDS, TASKS, loss_of
from stpipe.cards import content, equivalence
from stpipe.cards.equivalence import FILE, Computed, backend_name, equivalence_rows, measured
from stpipe.cards.losses import LossFacts, describe_losses
from stpipe.config.registry import BACKENDS as REGISTERED
from stpipe.reports.run_record import read_run
from tests.cards.reading import card, change, configure

PAGE = Path(__file__).parents[2] / "docs" / "equivalence.md"
BASE = Cell("mnrl", 1, "recompute", "ddp", 2)
RESULTS = (
    Result(BASE, 1.24e-6),
    Result(replace(BASE, batches=2), 3.06e-6),
    Result(replace(BASE, batches=2, clip=True), 9e-6),
    Result(replace(BASE, processes=4), 2e-6),
    Result(replace(BASE, backend="zero3"), 5e-7),
    Result(replace(BASE, task="mnrl, four directions"), 1e-8),
    Result(replace(BASE, task="matryoshka of mnrl", negatives=0), 4.44e-6),
    Result(replace(BASE, task="reranker_mnrl"), None, "failed"),
)
MNRL = ("MultipleNegativesRankingLoss",)


def test_the_matrix_holds_the_worst_of_each_cell() -> None:
    found = matrix(RESULTS)
    assert json.loads(json.dumps(found)) == found and found["limit"] == LIMIT and set(found["versions"]) == {"stpipe", "torch"}
    assert set(found["tasks"]) == {"mnrl", "mnrl, four directions", "matryoshka of mnrl"}, "what failed is not there"
    assert found["tasks"]["mnrl"] == {
        "kind": "dense",
        "losses": list(MNRL),
        "cells": {"1": {"recompute": {"ddp": {"2": 3.1e-6, "4": 2e-6}, "zero3": {"2": 5e-7}}}},
    }


@pytest.mark.parametrize(
    ("changed", "value", "why"),
    [
        ({}, 3.1e-6, ""),
        ({"processes": "4"}, 2e-6, ""),
        ({"backend": "zero3"}, 5e-7, ""),
        ({"losses": ("MatryoshkaLoss", *MNRL), "negatives": "0"}, 4.4e-6, ""),
        ({"processes": "8"}, None, "not with 8 processes, but with 2, 4"),
        ({"backend": "zero3, offload"}, None, "not with backend zero3, offload, but with ddp, zero3"),
        ({"strategy": "plain"}, None, "not with strategy plain, but with recompute"),
        ({"negatives": "2"}, None, "not with 2 hard negatives, but with 1"),
        ({"kind": "sparse"}, None, "not with MultipleNegativesRankingLoss"),
        ({"losses": ("MyLoss",)}, None, "not with MyLoss"),
    ],
)
def test_a_cell_is_found_or_why_it_is_not(changed: dict[str, Any], value: float | None, why: str) -> None:
    computed = replace(Computed("dense", MNRL, "1", "recompute", "ddp", "2"), **changed)
    assert measured(computed, matrix(RESULTS)) == (value, why)


def test_without_measurements() -> None:
    assert measured(Computed("dense", MNRL, "1", "plain", "ddp", "2"), {}) == (None, "this version publishes no measurements")


@pytest.mark.parametrize("task", ["csr of mnrl", "sum of lambda and binary_cross_entropy", "softmax", "contrastive_tension_pairs"])
def test_a_run_with_the_loss_of_a_task_finds_it(task: str) -> None:
    """By the classes that the card has of the same loss."""
    spec = TASKS[task]
    negatives = next(iter(spec.formats))
    found = matrix([Result(replace(BASE, task=task, negatives=negatives), 1e-6)])
    names = describe_losses({"default": loss_of(task, negatives)})[0].names
    assert measured(Computed(KINDS[spec.model], names, str(negatives), "recompute", "ddp", "2"), found) == (1e-6, "")


def test_backends_have_the_names_of_the_measurements() -> None:
    names = {type(backend): REGISTERED.name_of(type(backend)) for backend in BACKENDS.values()}
    assert len(BACKENDS) >= 9
    for name, backend in BACKENDS.items():
        assert backend_name({"name": names[type(backend)], **asdict(backend)}) == name
    assert backend_name({}) == "single"
    partly = {"name": "deepspeed", "stage": 3, "offload_parameters": True}
    assert backend_name(partly) not in BACKENDS and backend_name({"name": "fsdp2", "cpu_offload": True}) not in BACKENDS


def several(run_dir: Path, **plan: Any) -> None:
    source = {"roles": ["anchor", "positive", "negative_1"], "strategy": "recompute"}
    change(run_dir / "plan.json", processes=2, sources={"default": source}, **plan)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "backend: {name: ddp, num_processes: 2}\n", encoding="utf-8")
    configure(run_dir, "trainer", precision="bf16")
    configure(run_dir, "loss", name="mnrl")


def test_the_card_says_it(run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (run_dir / "model").mkdir()
    several(run_dir)
    monkeypatch.setattr(equivalence, "FILE", tmp_path / "equivalence.json")
    equivalence.published_matrix.cache_clear()
    assert "| default | MultipleNegativesRankingLoss | 1 | recompute | ddp | 2 | not measured (this version publishes no" in card(run_dir)
    (tmp_path / "equivalence.json").write_text(json.dumps(matrix(RESULTS)), encoding="utf-8")
    equivalence.published_matrix.cache_clear()
    text = card(run_dir)
    assert "| default | MultipleNegativesRankingLoss | 1 | recompute | ddp | 2 | 3.1e-06 (limit 1e-05) |" in text
    assert "this run computed in bf16" in text and "docs/equivalence.md, stpipe " in text
    configure(run_dir, "trainer", precision="fp32")
    assert "this run computed in" not in card(run_dir)
    change(run_dir / "plan.json", processes=1)
    assert "Several processes have to" not in card(run_dir) and content.equivalence_rows is equivalence_rows
    equivalence.published_matrix.cache_clear()


def test_each_data_set_has_its_own_loss(run_dir: Path) -> None:
    several(run_dir)
    sources = {name: {"roles": ["anchor", "positive"], "strategy": s} for name, s in (("a", "plain"), ("b", "micro"))}
    change(run_dir / "plan.json", sources=sources)
    losses = [LossFacts("a", "A", ("A",), {}, ()), LossFacts(None, "B", ("B",), {}, ())]
    rows = equivalence_rows(read_run(run_dir), losses, kind="dense", matrix={})
    assert [(r["Data"], r["Loss"], r["Hard negatives"], r["Strategy"]) for r in rows] == [
        ("a", "A", "0", "plain"),
        ("b", "B", "0", "micro"),
    ]


def test_page_and_matrix_come_together() -> None:
    assert FILE.is_file() == PAGE.is_file(), "scripts/equivalence.py writes both"
    if FILE.is_file():
        found = json.loads(FILE.read_text(encoding="utf-8"))
        assert set(found["tasks"]) == set(TASKS) and found["limit"] == LIMIT
        values = [
            v for t in found["tasks"].values() for n in t["cells"].values() for s in n.values() for b in s.values() for v in b.values()
        ]
        assert len(values) > 1000 and 0 < max(values) <= LIMIT
