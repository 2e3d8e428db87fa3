"""Which file of a model directory holds the graph of a backend, by the rules of the sentence-transformers documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name

#: Backend -> (name of its file when none is named, pattern of its files).
BACKENDS = {"onnx": ("model.onnx", "*.onnx"), "openvino": ("openvino_model.xml", "openvino*.xml")}
#: Keys of model_kwargs that are about the graph, and not about transformers' own model.
RUNTIME_KEYS = ("file_name", "subfolder", "export", "provider", "provider_options", "session_options", "ov_config", "device")


@dataclass(frozen=True)
class GraphFile:
    """A graph on disk. file: of the graph; None: there is none, and one has to be made."""

    backend: str
    file: Path | None

    @staticmethod
    def find(directory: Path, backend: str, options: Mapping[str, Any]) -> GraphFile:
        """The graph that options name, in the directory, in its subfolder, or below either in the folder `onnx` or `openvino`.

        Args:
            directory: of the backbone.
            backend: onnx or openvino.
            options: `file_name` (model.onnx, openvino_model.xml; may hold folders), `subfolder`, `export`: True makes a new graph, False
                never does, None does where there is none.

        Raises:
            ConfigError: export is False and there is no such file.
        """
        if backend not in BACKENDS:
            raise ConfigError(unknown_name("backend", backend, ["torch", *BACKENDS]))
        default, pattern = BACKENDS[backend]
        name, export = str(options.get("file_name") or default), options.get("export")
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise ConfigError(f"file_name '{name}' leaves the model directory {directory}")
        root = directory / (options.get("subfolder") or "")
        file = next((place for place in (root / name, root / backend / name) if place.is_file()), None)
        if export or (file is None and export is None and "file_name" not in options):
            return GraphFile(backend, None)
        if file is None:
            there = sorted(path.relative_to(root).as_posix() for path in root.rglob(pattern)) if root.is_dir() else []
            raise ConfigError(
                f"{directory} has no {backend} graph '{name}' (looked for {root / name} and {root / backend / name}). "
                f"There: {', '.join(there) or 'none'}. Name one of them as model_kwargs={{'file_name': ...}}, "
                f"or make one: `stpipe export {directory} export={backend} export.{backend}.form=st_layout`"
            )
        return GraphFile(backend, file)
