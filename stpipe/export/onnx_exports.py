"""Exports that ONNX Runtime computes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stpipe.config.fields import option
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Precision
from stpipe.export.graphs import Graph, GraphExport
from stpipe.export.optimize import Level, optimize
from stpipe.export.quantize_onnx import INSTRUCTIONS, Instructions, quantize_dynamic
from stpipe.models.runtimes import write_onnx


@EXPORTS.register("onnx", aliases=("ONNX",))
@dataclass(frozen=True, kw_only=True)
class OnnxExport(GraphExport):
    """ONNX for ONNX Runtime, as recorded or optimised."""

    extra: ClassVar[str | None] = "onnx"
    runtime: ClassVar[str] = "onnx"

    optimize: Literal["O1", "O2", "O3", "O4"] | None = option(
        None,
        help="O1: ONNX Runtime's basic optimisations. O2: the extended ones and fusions for transformers. O3: O2 with an approximate GELU. O4: O3 in float16, meant for GPUs (on a CPU it runs, slowly). None: as recorded; ONNX Runtime optimises by itself when it loads a file.",
    )

    @property
    def precision(self) -> Precision:
        return "fp16" if self.optimize in ("O3", "O4") else "fp32"

    @property
    def suffix(self) -> str:
        return self.optimize or ""

    def write_graph(self, graph: Graph, file: Path) -> None:
        if self.optimize is None:
            write_onnx(graph.program, file, inputs=graph.inputs, output=graph.output)
            return
        level: Level = self.optimize
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            plain = Path(scratch) / "plain.onnx"
            write_onnx(graph.program, plain, inputs=graph.inputs, output=graph.output)
            optimize(plain, file, level=level, config=None if graph.backbone is None else graph.backbone.model.config)


@EXPORTS.register("onnx_int8")
@dataclass(frozen=True, kw_only=True)
class OnnxInt8Export(GraphExport):
    """ONNX with weights in eight bits; activations are quantised while it runs. Drift is the same on any processor that does not saturate,
    speed only counts on the one it is for."""

    extra: ClassVar[str | None] = "onnx"
    runtime: ClassVar[str] = "onnx"

    instructions: Instructions = option("avx512_vnni", help="Instruction set of the processors that it is for.")
    per_channel: bool = option(True, help="A range for each column of a matrix, which is closer to the model, instead of one for all.")

    @property
    def precision(self) -> Precision:
        return "int8"

    @property
    def suffix(self) -> str:
        return INSTRUCTIONS[self.instructions].suffix

    def write_graph(self, graph: Graph, file: Path) -> None:
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            plain = Path(scratch) / "plain.onnx"
            write_onnx(graph.program, plain, inputs=graph.inputs, output=graph.output)
            quantize_dynamic(plain, file, instructions=self.instructions, per_channel=self.per_channel)
