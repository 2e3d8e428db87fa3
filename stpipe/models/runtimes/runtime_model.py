"""A graph in the place of a transformers model: the same calls, computed by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import functools
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from stpipe.config.errors import ConfigError, MissingExtraError
from stpipe.models.runtimes.graph import INPUTS
from stpipe.models.runtimes.write import quiet_tools

#: Architectures that number positions from behind that of the padding token.
RESERVES_POSITIONS = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "mpnet",
        "data2vec-text",
        "roberta-prelayernorm",
        "longformer",
        "xmod",
        "ibert",
    }
)


class RuntimeModel(nn.Module):
    """What the modules of a model ask of a transformers model, answered by a graph on disk. Only for inference.

    config: of the transformers model that the graph was made of; file: the graph; made: the temporary folder it lies in when it was
    made at loading, which goes when the model goes.
    """

    base_model_prefix = ""
    backend: str

    def __init__(self, config: PreTrainedConfig, *, file: Path, made: TemporaryDirectory[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.file = file
        self.made = made
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # tells where results go; the graph computes where it was put

    @property
    @abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the graph."""

    @abstractmethod
    def compute(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The first output of the graph."""

    @property
    def device(self) -> torch.device:
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def position_offset(self) -> int:
        """Number of the first position."""
        pad = getattr(self.config, "pad_token_id", None)
        return (pad or 0) + 1 if self.config.model_type in RESERVES_POSITIONS else 0

    def get_output_embeddings(self) -> nn.Module:
        """The head is part of the graph; this is no linear layer, so nobody takes it apart."""
        return self

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, output_hidden_states: bool = False
    ) -> Any:
        """The output of the graph, under both names that transformers' models use: last_hidden_state and logits.

        Args:
            input_ids, attention_mask, token_type_ids: (N, L) int64; no segments are all zero.
            output_hidden_states: refused, for a graph holds only what it was made for.
        """
        if output_hidden_states:
            raise ConfigError(f"{self.file} holds no hidden states of inner layers; use backend='torch'")
        if self.training and torch.is_grad_enabled():
            raise ConfigError(f"a model with backend='{self.backend}' cannot be trained; use backend='torch'")
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        given = dict(zip(INPUTS, (input_ids, attention_mask, types), strict=True))
        unknown = [name for name in self.input_names if name not in given]
        if unknown:
            raise ConfigError(f"{self.file} takes {', '.join(unknown)}, which the backbone of an embedding model does not have")
        values = self.compute({name: given[name].cpu().numpy() for name in self.input_names})
        out = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        out = out if out.dtype == torch.float32 else out.float()
        return RuntimeOutput(last_hidden_state=out)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the configuration, and the graph below it in the folder of its backend."""
        folder = Path(directory) / self.backend
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(directory)
        for file in graph_files(self.file):
            shutil.copyfile(file, folder / file.name)


class RuntimeOutput(BaseModelOutput):
    """The one output of a graph."""

    @property
    def logits(self) -> Tensor:
        values: Tensor = self["last_hidden_state"]
        return values


class OnnxModel(RuntimeModel):
    """A graph that ONNX Runtime computes.

    options: `provider` (None: the first that is there), `provider_options`, `session_options`, as onnxruntime.InferenceSession takes them.
    """

    backend = "onnx"

    def __init__(self, config: PreTrainedConfig, *, file: Path, options: Mapping[str, Any], made: TemporaryDirectory[str] | None = None):
        super().__init__(config, file=file, made=made)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx", "backend='onnx'") from error
        there = [name for name in onnxruntime.get_available_providers() if name != "AzureExecutionProvider"]
        provider = options.get("provider") or there[0]
        if provider not in there:
            raise ConfigError(f"provider '{provider}' is not part of this onnxruntime. There: {', '.join(there)}")
        providers = [(provider, dict(options.get("provider_options") or {}))]
        if provider != "CPUExecutionProvider":
            providers.append(("CPUExecutionProvider", {}))  # for what the provider cannot compute
        session_options = options.get("session_options")
        if session_options is None:
            session_options = onnxruntime.SessionOptions()
            session_options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), session_options, providers=providers)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.session.get_inputs())

    def compute(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = self.session.run([self.session.get_outputs()[0].name], dict(inputs))[0]
        return values


class OpenVinoModel(RuntimeModel):
    """A graph that OpenVINO computes.

    options: `device` (CPU), `ov_config`: settings of the runtime, or a JSON file of them. Unless they say otherwise it computes in
    float32, where OpenVINO by itself takes bfloat16 on processors that have it.
    """

    backend = "openvino"

    def __init__(self, config: PreTrainedConfig, *, file: Path, options: Mapping[str, Any], made: TemporaryDirectory[str] | None = None):
        super().__init__(config, file=file, made=made)
        settings = read_settings(options.get("ov_config"))
        settings = {"INFERENCE_PRECISION_HINT": "f32", **settings}
        with quiet_tools():
            self.compiled = openvino_core().compile_model(str(file), str(options.get("device") or "CPU").upper(), settings)
        self.request = self.compiled.create_infer_request()

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(item.get_any_name() for item in self.compiled.inputs)

    def compute(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = self.request.infer(dict(inputs))[self.compiled.outputs[0]].copy()  # the next call writes there again
        return values


@functools.cache
def openvino_core() -> Any:
    """The one core of OpenVINO in this process, which lives as long as it does.

    A core gives its thread another signal stack and puts the former one back when it goes. Where two go in the order they came, the
    former one of the second is freed already, and the next signal ends the process.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "backend='openvino'") from error
    return openvino.Core()


def read_settings(value: Any) -> dict[str, Any]:
    """Settings given as a mapping or as a JSON file."""
    if value is None:
        return {}
    if isinstance(value, (str, os.PathLike)):
        file = Path(value)
        if not file.is_file():
            raise ConfigError(f"ov_config '{value}' is no file; give a JSON file of OpenVINO's settings, or a dict")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    return dict(value)


def graph_files(file: Path) -> list[Path]:
    """All files of a graph: weights may lie beside it."""
    weights = [file.with_suffix(".bin")] if file.suffix == ".xml" else [file.with_name(f"{file.name}{end}") for end in (".data", "_data")]
    return [file, *(path for path in weights if path.is_file())]
