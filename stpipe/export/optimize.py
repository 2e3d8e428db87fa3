"""The four levels of optimisation of the documentation, by ONNX Runtime's own optimisers."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args

from stpipe.config.errors import ConfigError, MissingExtraError
from stpipe.config.registry import unknown_name
from stpipe.models.runtimes.runtime_model import graph_files
from stpipe.models.runtimes.write import LARGEST_FILE

Level = Literal["O1", "O2", "O3", "O4"]


def optimize(file: Path, into: Path, *, level: Level, config: Any = None) -> None:
    """Write an optimised copy of an ONNX file.

    O1: ONNX Runtime's basic optimisations. O2: its extended ones, and fusions made for transformers. O3: O2 with GELU by its
    approximation through tanh. O4: O3 in float16, inputs and outputs left as they are.

    Args:
        file: the graph.
        into: the copy.
        level: O1 to O4.
        config: of the transformers model, whose heads and width help to find attention; None lets the optimiser look for them.
    """
    if level not in get_args(Level):
        raise ConfigError(unknown_name("level of optimisation", level, list(get_args(Level))))
    try:
        with silent():
            from onnxruntime.transformers.fusion_options import FusionOptions
            from onnxruntime.transformers.optimizer import optimize_model
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx", "optimising ONNX") from error
    text = None if config is None else config.get_text_config()
    options = FusionOptions("bert")
    options.enable_gelu_approximation = level in ("O3", "O4")
    with silent():
        model = optimize_model(
            str(file),
            model_type="bert",
            num_heads=getattr(text, "num_attention_heads", None) or 0,
            hidden_size=getattr(text, "hidden_size", None) or 0,
            optimization_options=options,
            opt_level=1 if level == "O1" else 2,
            use_gpu=False,
            only_onnxruntime=level == "O1",
        )
        if level == "O4":
            model.convert_float_to_float16(keep_io_types=True, use_symbolic_shape_infer=False)
        model.save_model_to_file(str(into), use_external_data_format=size_of(file) > LARGEST_FILE)


def size_of(file: Path) -> int:
    """Bytes of a graph with the weights beside it."""
    return sum(part.stat().st_size for part in graph_files(file))


@contextmanager
def silent() -> Iterator[None]:
    """The optimiser reports each fusion to the root logger, and prints what it tries in vain."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
