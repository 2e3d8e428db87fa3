"""A static embedding distilled from a dense model: a vector a token, no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from stpipe.config.fields import option
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Export, Precision, Written
from stpipe.export.source import Source
from stpipe.models import SentenceTransformer
from stpipe.models.modules import Normalize
from stpipe.models.static_distillation import DIMENSIONS, SIF, distil_static


@EXPORTS.register("static")
@dataclass(frozen=True, kw_only=True)
class StaticExport(Export):
    """A static embedding distilled from a dense model: hundreds of times as fast on a CPU, and coarser. It is another model, so only
    the order of similarities and the task's metric are compared."""

    kinds: ClassVar[list[str]] = ["dense"]
    runtime: ClassVar[str] = "torch"

    dimensions: int = option(DIMENSIONS, ge=1, help="Principal components of the token vectors that are kept.")
    sif: float | None = option(SIF, gt=0, help="Weight of rare tokens over frequent ones, a / (a + p); None weighs all alike.")

    @property
    def precision(self) -> Precision:
        return "distilled"

    def write(self, source: Source, folder: Path) -> Written:
        model = source.model
        assert isinstance(model, SentenceTransformer)  # `kinds` says so
        made = distil_static(model, dimensions=self.dimensions, sif=self.sif)
        static = SentenceTransformer(
            modules=[made, Normalize()],
            device="cpu",
            prompts=model.prompts,
            default_prompt_name=model.default_prompt_name,
            similarity_fn_name="cosine",
        )
        static.save_pretrained(folder)
        command = ("-m", "stpipe.export.serve", ".", "torch", "", str(torch.get_num_threads()))
        return Written(command, ("model.safetensors",), own_space=True)
