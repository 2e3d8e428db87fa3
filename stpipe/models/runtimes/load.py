"""The graph of a model directory, made on the spot where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedConfig

from stpipe.models.modules.transformer import Transformer
from stpipe.models.runtimes.files import RUNTIME_KEYS, GraphFile
from stpipe.models.runtimes.graph import backbone_graph, trace, vocabulary_of
from stpipe.models.runtimes.runtime_model import OnnxModel, OpenVinoModel, RuntimeModel
from stpipe.models.runtimes.write import graph_name, write_graph

CLASSES: Mapping[str, type[OnnxModel] | type[OpenVinoModel]] = {"onnx": OnnxModel, "openvino": OpenVinoModel}

logger = logging.getLogger("stpipe")


def load_runtime(
    directory: Path, *, config: PreTrainedConfig, backend: str, options: Mapping[str, Any], torch_backbone: Callable[[], Transformer]
) -> RuntimeModel:
    """The graph of a backbone, for the place of its transformers model.

    Args:
        directory: of the backbone.
        config: its configuration.
        backend: onnx or openvino.
        options: model_kwargs; see GraphFile.find, OnnxModel and OpenVinoModel.
        torch_backbone: loads the backbone for torch, with its tokenizer; called only where there is no graph yet, which is then made.
    """
    found = GraphFile.find(directory, backend, options)
    own = {key: options[key] for key in RUNTIME_KEYS if key in options}
    if found.file is not None:
        return CLASSES[backend](config, file=found.file, options=own)
    logger.warning(f"{directory} has no {backend} graph yet, so one is made now. Save the model to keep it: model.save_pretrained(...)")
    made = TemporaryDirectory(prefix="stpipe-graph-")
    file = Path(made.name) / graph_name(backend)
    write_backbone(torch_backbone(), file, backend=backend)
    return CLASSES[backend](config, file=file, options=own, made=made)


def write_backbone(backbone: Transformer, file: Path, *, backend: str, half: bool = False) -> tuple[str, ...]:
    """Write the graph of a backbone alone, as the format has it; returns the names of its inputs. The layout of the backbone becomes padded."""
    backbone.eval()
    backbone.layout = "padded"
    graph, inputs = backbone_graph(backbone)
    program = trace(graph, inputs=inputs, vocabulary=vocabulary_of(backbone.model), longest=backbone.position_limit)
    write_graph(program, file, backend=backend, inputs=inputs, output=graph.output, half=half)
    return inputs
