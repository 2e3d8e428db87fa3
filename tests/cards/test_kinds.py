"""The kind of a card is that of the model, and a sparse model is called by what it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stpipe.cards.kinds import DENSE, card_kind
from stpipe.cards.model_files import ModelFacts, ModuleFacts
from stpipe.config.schema import load_schema, members
from stpipe.reports.metrics_log import MetricsLog
from stpipe.reports.run_record import RunRecord


def record(model: str | None) -> RunRecord:
    empty: dict[str, Any] = {}
    return RunRecord(Path("run"), {"model": {"name": model}}, empty, empty, empty, empty, MetricsLog())


def facts(*names: str, kind: str | None = None, inside: tuple[str, ...] = ()) -> ModelFacts:
    routes = {"query": tuple(ModuleFacts(n, {}) for n in inside)} if inside else {}
    stack = tuple(ModuleFacts(n, {}, routes=routes) for n in names)
    return ModelFacts(kind, stack, None, None, None, "dot", {}, None, None, None, None)


@pytest.mark.parametrize(
    ("stack", "inside", "tags", "noun"),
    [
        (("Transformer", "SpladePooling"), (), ("splade",), "SPLADE model"),
        (("Transformer", "Pooling", "SparseAutoEncoder"), (), ("csr",), "CSR model (contrastive sparse representation)"),
        (
            ("Router",),
            ("SparseStaticEmbedding", "Transformer", "SpladePooling"),
            ("asymmetric", "inference-free", "splade"),
            "inference-free SPLADE model",
        ),
        (("SparseStaticEmbedding",), (), ("inference-free",), "sparse encoder"),
        (("OfAUser",), (), (), "sparse encoder"),
    ],
)
def test_sparse_models_by_their_modules(stack: tuple[str, ...], inside: tuple[str, ...], tags: tuple[str, ...], noun: str) -> None:
    kind = card_kind(record("dense"), facts(*stack, kind="sparse", inside=inside), load_schema())
    assert kind.tags == ("sentence-transformers", "sparse-encoder", "sparse", *tags)
    assert (kind.noun, kind.pipeline_tag, kind.template) == (noun, "feature-extraction", "sparse.md.j2")


def test_every_registered_model_has_the_card_of_its_kind() -> None:
    """Also where the directory does not say what it is; by its aliases too."""
    schema = load_schema()
    found = {name: d["x-kind"] for d in members(schema, "model") for name in (d["x-name"], *d["x-aliases"])}
    assert set(found.values()) >= {"dense", "sparse"}
    for name, kind in found.items():
        assert card_kind(record(name), facts("Transformer"), schema).template == f"{kind}.md.j2"


def test_the_directory_decides_and_the_unknown_is_dense() -> None:
    schema = load_schema()
    assert card_kind(record("splade"), facts(kind="dense"), schema) == DENSE
    assert card_kind(record("of_a_user"), facts(), schema) == DENSE
    assert card_kind(record(None), facts(), schema) == DENSE
