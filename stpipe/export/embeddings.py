"""Embeddings in fewer bits: ranges from real texts, and a function of numpy alone that applies them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Export, Precision, Written
from stpipe.export.manifest import RUNNER
from stpipe.export.source import Source
from stpipe.models import SentenceTransformer

MANY = 1_000_000  # embeddings whose size verification.json tells


@EXPORTS.register("embeddings")
@dataclass(frozen=True, kw_only=True)
class EmbeddingsExport(Export):
    """How the embeddings of a dense model are stored in fewer bits: ranges of each dimension, and the code that quantises."""

    kinds: ClassVar[list[str]] = ["dense"]
    runtime: ClassVar[str] = "numpy"

    form: Literal["int8", "uint8", "binary", "ubinary"] = option(
        "int8", help="int8, uint8: each dimension in 255 steps between its limits. binary, ubinary: the sign of each, eight to a byte."
    )
    calibration: int = option(2000, ge=2, help="Texts of the training data that the limits of each dimension are taken from.")

    @property
    def precision(self) -> Precision:
        return "int8" if self.form in ("int8", "uint8") else "bits"

    @property
    def form_name(self) -> str:
        return self.form

    def write(self, source: Source, folder: Path) -> Written:
        model = source.model
        assert isinstance(model, SentenceTransformer)  # `kinds` says so
        texts = source.calibration_sample(self.calibration)
        if not texts:
            raise ConfigError(
                "the limits of embeddings come from real texts, and there are none: name data (dataset=..., or a run directory)"
            )
        sample = np.asarray(model.encode_document(texts, show_progress_bar=False), dtype=np.float32)
        ranges = np.stack([sample.min(0), sample.max(0)])
        np.save(folder / "ranges.npy", ranges)
        facts = {"precision": self.form, "width": int(ranges.shape[1]), "calibration_texts": len(texts), "ranges": "ranges.npy"}
        (folder / "embeddings.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        code = Path(__file__).with_name("quantize_standalone.py").read_text(encoding="utf-8")
        (folder / RUNNER).write_text(code, encoding="utf-8")
        width = int(ranges.shape[1])
        small = width if self.precision == "int8" else -(-width // 8)
        return Written((RUNNER, "--serve"), (), takes="embeddings", size=(4 * width * MANY, small * MANY), facts=facts)
