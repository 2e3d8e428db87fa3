"""Backbones that another runtime computes: how they are written as a graph, found on disk, and put in the place of transformers' own."""

from __future__ import annotations

from stpipe.models.runtimes.files import BACKENDS, RUNTIME_KEYS, GraphFile
from stpipe.models.runtimes.graph import TASK_OUTPUTS, BackboneGraph, backbone_graph, trace
from stpipe.models.runtimes.load import load_runtime
from stpipe.models.runtimes.runtime_model import RuntimeModel
from stpipe.models.runtimes.write import graph_name, write_graph, write_onnx, write_openvino

__all__ = [
    "BACKENDS",
    "RUNTIME_KEYS",
    "TASK_OUTPUTS",
    "BackboneGraph",
    "GraphFile",
    "RuntimeModel",
    "backbone_graph",
    "graph_name",
    "load_runtime",
    "trace",
    "write_graph",
    "write_onnx",
    "write_openvino",
]
