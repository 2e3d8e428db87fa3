"""Weights in eight bits, activations quantised while the graph runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stpipe.config.errors import ConfigError, MissingExtraError
from stpipe.config.registry import unknown_name
from stpipe.export.optimize import silent, size_of
from stpipe.models.runtimes.write import LARGEST_FILE

Instructions = Literal["arm64", "avx2", "avx512", "avx512_vnni"]


@dataclass(frozen=True)
class Target:
    """How weights are stored for an instruction set. signed: as int8, else as uint8; suffix: of the file name in the format.

    Products of unsigned activations with signed weights may saturate in AVX2, so the weights are unsigned there.
    """

    signed: bool
    suffix: str


INSTRUCTIONS: Mapping[str, Target] = {
    "arm64": Target(True, "qint8_arm64"),
    "avx2": Target(False, "quint8_avx2"),
    "avx512": Target(True, "qint8_avx512"),
    "avx512_vnni": Target(True, "qint8_avx512_vnni"),
}


def quantize_dynamic(file: Path, into: Path, *, instructions: str, per_channel: bool = True) -> None:
    """Write a copy of an ONNX file with quantised weights.

    Args:
        file: the graph, in float32.
        into: the copy.
        instructions: a key of INSTRUCTIONS.
        per_channel: a range for each column of a matrix.
    """
    if instructions not in INSTRUCTIONS:
        raise ConfigError(unknown_name("instruction set", instructions, list(INSTRUCTIONS)))
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", "quantising ONNX") from error
    kind = quantization.QuantType.QInt8 if INSTRUCTIONS[instructions].signed else quantization.QuantType.QUInt8
    with silent():
        quantization.quantize_dynamic(
            str(file),
            str(into),
            weight_type=kind,
            per_channel=per_channel,
            reduce_range=False,
            use_external_data_format=size_of(file) > LARGEST_FILE,
        )
