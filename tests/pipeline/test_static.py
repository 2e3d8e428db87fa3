"""A static model in a run: trained, evaluated, saved, read by both libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer as Peer

from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.static import StaticModel
from tests.pipeline.conftest import Command


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
def test_a_static_model_is_trained(strategy: str, stpipe: Command, tiny_model: Path) -> None:
    options = (
        "model=static",
        f"model.name_or_path={tiny_model}",
        "model.dimensions=8",
        "optimizer.lr=0.05",
        "+evaluator.dev.name=information_retrieval",
        f"strategy={strategy}",
        "trainer.max_steps=6",
        "trainer.log_steps=1",
    )
    assert stpipe("train", "run.dir=run", *options) == 0
    found = SentenceTransformer("run/model", device="cpu")
    assert [type(m).__name__ for m in found.encoder.stack] == ["StaticEmbedding", "Normalize"]
    texts = ["w1 w2", "w7"]
    np.testing.assert_allclose(found.encode(texts), Peer("run/model", device="cpu").encode(texts), atol=1e-6)
    start = StaticModel(name_or_path=str(tiny_model), dimensions=8).build()
    assert found.encode(texts).shape == start.encode(texts).shape == (2, 8)
    assert float(np.abs(found.encode(texts) - start.encode(texts)).max()) > 1e-3, "it must have been trained"
    assert Path("run/model/README.md").exists()
