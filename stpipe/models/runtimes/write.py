"""Recorded graphs as files: ONNX and OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export import ExportedProgram

from stpipe.config.errors import MissingExtraError
from stpipe.config.variables import variables
from stpipe.models.runtimes.files import BACKENDS
from stpipe.models.runtimes.graph import quiet

LARGEST_FILE = 1_800_000_000  # bytes of weights inside one ONNX file; the format itself ends at 2 GB


def graph_name(backend: str, suffix: str = "") -> str:
    """File name of a graph in the format: model.onnx, model_O3.onnx, openvino_model_qint8_quantized.xml."""
    stem, _, end = BACKENDS[backend][0].rpartition(".")
    return f"{stem}_{suffix}.{end}" if suffix else f"{stem}.{end}"


def write_graph(program: ExportedProgram, file: Path, *, backend: str, inputs: Sequence[str], output: str, half: bool = False) -> None:
    """Write a recorded graph for a backend; see write_onnx and write_openvino."""
    if backend == "onnx":
        write_onnx(program, file, inputs=inputs, output=output)
    else:
        write_openvino(program, file, inputs=inputs, output=output, half=half)


def write_onnx(program: ExportedProgram, file: Path, *, inputs: Sequence[str], output: str) -> None:
    """Write ONNX by torch's exporter of recorded graphs; the older one of TorchScript is wrong for these models without saying so.

    Args:
        program: from `trace`.
        file: its folder must exist. Weights above 1.8 GB go into a file beside it.
        inputs, output: names.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx", "writing ONNX")
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with torch.no_grad(), quiet():
        torch.onnx.export(
            program,
            (),
            file,
            input_names=list(inputs),
            output_names=[output],
            dynamo=True,
            external_data=size > LARGEST_FILE,
            verbose=False,
        )


def write_openvino(program: ExportedProgram, file: Path, *, inputs: Sequence[str], output: str, half: bool = False) -> None:
    """Write OpenVINO's .xml and .bin, straight from the recorded graph, or by way of ONNX where OpenVINO cannot read that.

    Args:
        program: from `trace`.
        file: the .xml file; its folder must exist.
        inputs, output: names.
        half: store the weights in float16; they are computed with in what the runtime chooses.
    """
    with quiet_tools(), torch.no_grad(), quiet():
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", "writing OpenVINO models") from error
        with tempfile.TemporaryDirectory(prefix="stpipe-graph-") as scratch:
            try:
                model = openvino.convert_model(program)
            except Exception:  # some operations of decoders are known to its reader of ONNX only
                by_way = Path(scratch, "graph.onnx")
                write_onnx(program, by_way, inputs=inputs, output=output)
                model = openvino.convert_model(by_way)
            for port, name in zip((*model.inputs, *model.outputs), (*inputs, output), strict=True):
                port.get_tensor().set_names({name})
            openvino.save_model(model, file, compress_to_fp16=half)


def quiet_tools() -> AbstractContextManager[None]:
    """Keep OpenVINO's tools from reporting their use over the network, as they do unless told that this is an automated job."""
    return variables({"CI": "true", "NNCF_CI": "1"})
