"""Exports: a trained model for other runtimes, each verified against the model it was made of. Importing it registers the components."""

from __future__ import annotations

from stpipe.export.base import Export, ToleranceSection
from stpipe.export.embeddings import EmbeddingsExport
from stpipe.export.onnx_exports import OnnxExport, OnnxInt8Export
from stpipe.export.openvino_exports import OpenVinoExport, OpenVinoInt8Export
from stpipe.export.plain import SafetensorsExport
from stpipe.export.run import export_all
from stpipe.export.source import Source
from stpipe.export.static import StaticExport
from stpipe.export.table import verification_rows

__all__ = [
    "EmbeddingsExport",
    "Export",
    "OnnxExport",
    "OnnxInt8Export",
    "OpenVinoExport",
    "OpenVinoInt8Export",
    "SafetensorsExport",
    "Source",
    "StaticExport",
    "ToleranceSection",
    "export_all",
    "verification_rows",
]
