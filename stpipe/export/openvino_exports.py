"""Exports that OpenVINO computes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stpipe.config.fields import option
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Precision
from stpipe.export.graphs import Graph, GraphExport, calibration_inputs
from stpipe.export.quantize_openvino import quantize_static
from stpipe.models.runtimes import write_openvino

INT8_SUFFIX = "qint8_quantized"


@EXPORTS.register("openvino", aliases=("OpenVINO",))
@dataclass(frozen=True, kw_only=True)
class OpenVinoExport(GraphExport):
    """OpenVINO's format, for processors and GPUs of Intel."""

    extra: ClassVar[str | None] = "openvino"
    runtime: ClassVar[str] = "openvino"

    half: bool = option(False, help="Store the weights in float16: half the size.")

    @property
    def precision(self) -> Precision:
        return "fp16" if self.half else "fp32"

    @property
    def suffix(self) -> str:
        return ""

    def write_graph(self, graph: Graph, file: Path) -> None:
        write_openvino(graph.program, file, inputs=graph.inputs, output=graph.output, half=self.half)


@EXPORTS.register("openvino_int8")
@dataclass(frozen=True, kw_only=True)
class OpenVinoInt8Export(GraphExport):
    """OpenVINO's format in eight bits, weights and activations, with the ranges of activations from real texts."""

    extra: ClassVar[str | None] = "openvino"
    runtime: ClassVar[str] = "openvino"

    calibration: int = option(300, ge=1, help="Texts, or pairs, of the training data that the ranges of activations are taken from.")

    @property
    def precision(self) -> Precision:
        return "int8"

    @property
    def suffix(self) -> str:
        return INT8_SUFFIX

    def write_graph(self, graph: Graph, file: Path) -> None:
        sample = calibration_inputs(graph, self.calibration)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            plain = Path(scratch) / "plain.xml"
            write_openvino(graph.program, plain, inputs=graph.inputs, output=graph.output)
            quantize_static(plain, file, sample=sample)
