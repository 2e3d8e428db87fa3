"""The model itself, as safetensors in another number format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from stpipe.config.fields import option
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Export, Precision, Written
from stpipe.export.source import Source
from stpipe.models.load import load_model

PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@EXPORTS.register("safetensors")
@dataclass(frozen=True, kw_only=True)
class SafetensorsExport(Export):
    """A sentence-transformers directory with weights in float32, float16 or bfloat16."""

    runtime: ClassVar[str] = "torch"

    dtype: Literal["float32", "float16", "bfloat16"] = option("float16", help="What the weights are stored in, and computed with.")

    @property
    def precision(self) -> Precision:
        return PRECISIONS[self.dtype]

    def write(self, source: Source, folder: Path) -> Written:
        dtype: torch.dtype = getattr(torch, self.dtype)
        model = load_model(source.directory, device="cpu", model_kwargs={"dtype": "float32"})
        model.to(dtype).save_pretrained(folder)
        weights = tuple(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.safetensors")))
        command = ("-m", "stpipe.export.serve", ".", "torch", "", str(torch.get_num_threads()))
        return Written(command, weights)
