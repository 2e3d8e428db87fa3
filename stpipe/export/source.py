"""What is exported: a saved model, and the texts that exports are calibrated and verified on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluator
from stpipe.models import CrossEncoder
from stpipe.models.base_model import BaseModel
from stpipe.models.load import load_model

Pair = tuple[str, str]
MOST_ROWS = 20_000  # of a data set that texts are taken from: more would not be looked at


@dataclass(frozen=True)
class Source:
    """A model directory and its model, on the CPU in float32, which everything is compared with.

    evaluators, rows: of the run, for the change of the task's metric; texts, pairs: real ones (pairs for cross-encoders);
    calibration: texts that ranges may be taken from, the same kind of inputs as are verified.
    """

    directory: Path
    model: BaseModel
    evaluators: Mapping[str, Evaluator] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    calibration: tuple[Any, ...] = ()
    batch_size: int = 32

    @staticmethod
    def of(
        directory: Path,
        *,
        evaluators: Mapping[str, Evaluator] | None = None,
        rows: Mapping[str, Rows] | None = None,
        training: Mapping[str, Rows] | None = None,
        batch_size: int = 32,
    ) -> Source:
        """Load a model directory.

        Args:
            directory: a saved model.
            evaluators, rows: held-out rows by data set, and what measures on them.
            training: rows that the model was trained on, for calibration; without them the held-out ones serve.
            batch_size: texts a forward in evaluation.
        """
        model = load_model(directory, device="cpu", model_kwargs={"dtype": "float32"})
        held_out = dict(rows or {})
        pairs = isinstance(model, CrossEncoder)
        return Source(
            directory,
            model,
            evaluators or {},
            held_out,
            texts=tuple(texts_of(held_out.values())),
            pairs=tuple(pairs_of(held_out.values())) if pairs else (),
            calibration=tuple((pairs_of if pairs else texts_of)((training or held_out).values())),
            batch_size=batch_size,
        )

    @property
    def inputs(self) -> Sequence[Any]:
        """What the model takes: pairs for a cross-encoder, else texts."""
        return self.pairs if isinstance(self.model, CrossEncoder) else self.texts

    def calibration_sample(self, count: int, *, seed: int = 12) -> list[Any]:
        """At most `count` inputs for calibration, drawn without replacement."""
        return random.Random(seed).sample(list(self.calibration), min(count, len(self.calibration)))

    def fingerprint(self) -> str:
        """Hash of all files of the model but its card."""
        digest = hashlib.sha256()
        for path in sorted(p for p in self.directory.rglob("*") if p.is_file() and p.name != "README.md"):
            digest.update(path.relative_to(self.directory).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def texts_of(rows: Iterable[Rows]) -> list[str]:
    """The distinct texts of all roles, in order."""
    found: dict[str, None] = {}
    for source in rows:
        for column in source.columns.values():
            for value in islice(column, MOST_ROWS):
                found.update(dict.fromkeys([value] if isinstance(value, str) else [v for v in value if isinstance(v, str)]))
    return [text for text in found if text.strip()]


def pairs_of(rows: Iterable[Rows]) -> list[Pair]:
    """The distinct pairs of texts that a cross-encoder would score: anchor or query with each other text of its row."""
    found: dict[Pair, None] = {}
    for source in rows:
        roles = list(source.columns)
        first = next((role for role in ("query", "anchor") if role in roles), roles[0])
        for role in roles:
            if role == first:
                continue
            for left, value in islice(zip(source.columns[first], source.columns[role], strict=True), MOST_ROWS):
                for right in [value] if isinstance(value, str) else value:
                    if isinstance(left, str) and isinstance(right, str) and left.strip() and right.strip():
                        found[(left, right)] = None
    return list(found)
