"""The other side of a fresh process for exports that stpipe loads: python -m stpipe.export.serve DIRECTORY BACKEND FILE THREADS."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stpipe.export.standalone import serve
from stpipe.models import CrossEncoder
from stpipe.models.base_model import BaseModel
from stpipe.models.embedding_model import EmbeddingModel
from stpipe.models.load import load_model


class Served:
    """A loaded model with the methods of standalone.Model that requests use."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.facts = {"kind": model.kind, "width": model.encoder.embedding_dim}

    @staticmethod
    def order(inputs: Sequence[Any], sort: bool) -> list[int]:
        """Results come in the order of the inputs; the model sorts by itself."""
        return list(range(len(inputs)))

    def batches(self, inputs: Sequence[Any], prompt: str | None, task: str | None, batch_size: int, sort: bool) -> Iterator[Any]:
        """Embeddings or scores, some at a time, so that sparse ones are never all dense at once."""
        for start in range(0, len(inputs), 1024):
            yield self.some(list(inputs[start : start + 1024]), prompt, task, batch_size)

    def some(self, inputs: list[Any], prompt: str | None, task: str | None, batch_size: int) -> np.ndarray[Any, Any]:
        options: dict[str, Any] = {"prompt": prompt, "batch_size": batch_size, "convert_to_tensor": True, "show_progress_bar": False}
        if isinstance(self.model, CrossEncoder):
            found = self.model.predict([tuple(pair) for pair in inputs], **options)
        else:
            assert isinstance(self.model, EmbeddingModel)
            found = self.model.encode(inputs, **options, **({} if task is None else {"task": task}))
        return (found.to_dense() if found.layout != torch.strided else found).float().cpu().numpy()


def main(arguments: Sequence[str]) -> None:
    """Load and serve."""
    directory, backend, file_name, threads = arguments
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a runtime prints must not come between the answers
    torch.set_num_threads(int(threads))
    options: dict[str, Any] = {"model_kwargs": {"file_name": file_name, "export": False}} if backend != "torch" else {}
    serve(Served(load_model(Path(directory), device="cpu", backend=backend, **options)), sys.stdin, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
