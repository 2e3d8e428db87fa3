"""A tiny model and tiny data on disk, and a way to run the real command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stpipe.cli.main import main
from tests.models.tiny import WORDS, make_encoder

#: Settings that every run here shares: seconds, no wall of text.
QUICK = (
    "trainer.progress=off",
    "trainer.batch_size=8",
    "trainer.probe_first_step=false",
    "dataset.eval_rows=8",
    "optimizer.lr=1e-3",
    "offline=true",
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a two-layer BERT with random weights and dropout, in the sentence-transformers format."""
    from stpipe.models.sentence_transformer import SentenceTransformer

    folder = tmp_path_factory.mktemp("tiny") / "model"
    encoder = make_encoder("bert")
    SentenceTransformer(modules=list(encoder.stack)).save_pretrained(folder)
    return folder


def word(i: int) -> str:
    return WORDS[i % 90]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """56 rows of (anchor, positive), all different."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"anchor": f"{word(i)} {word(i + 7)}", "positive": " ".join(word(i * 3 + k) for k in range(1 + i % 9))} for i in range(56)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Command = Callable[..., int]


@pytest.fixture
def stpipe(tmp_path: Path, tiny_model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`stpipe("train", ...)` in an empty working directory, with the tiny model and the pairs unless overridden."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, *overrides: str) -> int:
        given = {o.split("=")[0] for o in overrides}
        defaults = (f"model.name_or_path={tiny_model}", "model=dense", f"dataset.train={pairs}", *QUICK)
        return main([verb, *(d for d in defaults if d.split("=")[0] not in given), *overrides])

    return run
