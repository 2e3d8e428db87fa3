"""The three functions of the sentence-transformers documentation that write a further graph of a model: optimised, or in eight bits."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.export.openvino_exports import INT8_SUFFIX
from stpipe.export.optimize import Level, optimize
from stpipe.export.quantize_onnx import INSTRUCTIONS, quantize_dynamic
from stpipe.export.quantize_openvino import quantize_static
from stpipe.models.base_model import BaseModel
from stpipe.models.runtimes import RuntimeModel, graph_name
from stpipe.models.runtimes.runtime_model import graph_files

CALIBRATION = ("nyu-mll/glue", "sst2", "train", "sentence")
SAMPLES = 300
LONGEST = 384  # tokens of a text for calibration


def export_optimized_onnx_model(
    model: BaseModel,
    optimization_config: str,
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
) -> None:
    """Write an optimised graph of a model into DIRECTORY/onnx/model_LEVEL.onnx, or publish it.

    Args:
        model: loaded with backend="onnx".
        optimization_config: O1, O2, O3 or O4; see stpipe/export/optimize.py.
        model_name_or_path: directory of the model, or its name on the Hub.
        push_to_hub: upload the file there instead of writing it.
        create_pr: as a pull request.
        file_suffix: what is put behind `model_`; None is the level.
    """
    if optimization_config not in get_args(Level):
        raise ConfigError(unknown_name("level of optimisation", optimization_config, list(get_args(Level))))
    graph = graph_of(model, "onnx")
    name = graph_name("onnx", file_suffix or optimization_config)
    level: Any = optimization_config

    def write(file: Path) -> None:
        optimize(graph.file, file, level=level, config=graph.config)

    deliver(write, name, backend="onnx", address=str(model_name_or_path), publish=push_to_hub, pull_request=create_pr)


def export_dynamic_quantized_onnx_model(
    model: BaseModel,
    quantization_config: str | Mapping[str, Any],
    model_name_or_path: str | Path,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str | None = None,
) -> None:
    """Write a graph with weights in eight bits into DIRECTORY/onnx/model_qint8_avx512_vnni.onnx or the like, or publish it.

    Args:
        model: loaded with backend="onnx".
        quantization_config: arm64, avx2, avx512 or avx512_vnni; or a mapping with that under `instructions`, and `per_channel`.
        model_name_or_path, push_to_hub, create_pr: as for export_optimized_onnx_model.
        file_suffix: what is put behind `model_`; None is the type of the weights and the instruction set.
    """
    given = {"instructions": quantization_config} if isinstance(quantization_config, str) else dict(quantization_config)
    instructions = str(given.pop("instructions", None))
    if instructions not in INSTRUCTIONS:
        raise ConfigError(unknown_name("instruction set", instructions, list(INSTRUCTIONS)))
    unknown = sorted(given.keys() - {"per_channel"})
    if unknown:
        raise ConfigError(f"quantization_config: {', '.join(unknown)} is unknown; it takes instructions and per_channel")
    graph = graph_of(model, "onnx")
    name = graph_name("onnx", file_suffix or INSTRUCTIONS[instructions].suffix)

    def write(file: Path) -> None:
        quantize_dynamic(graph.file, file, instructions=instructions, per_channel=bool(given.get("per_channel", True)))

    deliver(write, name, backend="onnx", address=str(model_name_or_path), publish=push_to_hub, pull_request=create_pr)


def export_static_quantized_openvino_model(
    model: BaseModel,
    quantization_config: Mapping[str, Any] | None,
    model_name_or_path: str | Path,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_split: str | None = None,
    column_name: str | None = None,
    push_to_hub: bool = False,
    create_pr: bool = False,
    file_suffix: str = INT8_SUFFIX,
) -> None:
    """Write a graph in eight bits into DIRECTORY/openvino/openvino_model_qint8_quantized.xml, or publish it.

    Args:
        model: loaded with backend="openvino".
        quantization_config: a mapping with `num_samples`, the number of texts for calibration; None is 300.
        model_name_or_path, push_to_hub, create_pr: as for export_optimized_onnx_model.
        dataset_name, dataset_config_name, dataset_split, column_name: texts for calibration, as datasets.load_dataset takes them; all
            or none. None are the sentences of glue's sst2.
        file_suffix: what is put behind `openvino_model_`.
    """
    place = (dataset_name, dataset_config_name, dataset_split, column_name)
    if any(part is not None for part in place) and any(part is None for part in place):
        raise ConfigError("give all of dataset_name, dataset_config_name, dataset_split and column_name, or none of them")
    count = int((quantization_config or {}).get("num_samples") or SAMPLES)
    graph = graph_of(model, "openvino")
    texts = calibration_texts(*(place if dataset_name is not None else CALIBRATION), count=count)  # type: ignore[arg-type]
    sample = [inputs_of(graph, model.tokenizer, text) for text in texts]

    def write(file: Path) -> None:
        quantize_static(graph.file, file, sample=sample)

    name = graph_name("openvino", file_suffix)
    deliver(write, name, backend="openvino", address=str(model_name_or_path), publish=push_to_hub, pull_request=create_pr)


def graph_of(model: BaseModel, backend: str) -> RuntimeModel:
    """The graph of a model that was loaded with a backend."""
    network: Any = model.encoder.backbone.model
    if not isinstance(network, RuntimeModel) or network.backend != backend:
        raise ConfigError(
            f"the model was not loaded with backend='{backend}'. Load it so: {type(model).__name__}(..., backend='{backend}')"
        )
    return network


def calibration_texts(name: str, config: str, split: str, column: str, *, count: int) -> list[str]:
    """`count` texts of a column, drawn by a fixed seed."""
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub client lets the types of its HTTP library through
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the data set '{name}' for calibration cannot be loaded: {first}. Name another one as dataset_name, ..."
        ) from error
    if column not in rows.column_names:
        raise ConfigError(unknown_name("column", column, list(rows.column_names)))
    return [str(text) for text in rows.shuffle(seed=12).select(range(min(count, len(rows))))[column]]


def inputs_of(graph: RuntimeModel, tokenizer: Any, text: str) -> dict[str, Any]:
    """Inputs of a graph for one text."""
    limit = min(LONGEST, tokenizer.model_max_length)
    found = tokenizer([text], truncation=True, max_length=limit, return_token_type_ids=True, return_tensors="np")
    return {name: found[name].astype("int64") for name in graph.input_names}


def deliver(write: Callable[[Path], None], name: str, *, backend: str, address: str, publish: bool, pull_request: bool) -> None:
    """Write a graph aside, and put its files below the folder of the backend in a directory, or into a repository of the Hub.

    Args:
        write: writes the graph under a name.
        name: its file name.
        backend: onnx or openvino, the folder.
        address: directory, or name on the Hub.
        publish: to the Hub; pull_request: as one.
    """
    folder = Path(address, backend)
    if not publish:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=None if publish else folder) as scratch:
        write(Path(scratch) / name)
        files = graph_files(Path(scratch) / name)
        if not publish:
            for file in reversed(files):  # weights first, so that the graph is there when they are
                os.replace(file, folder / file.name)
            return
        aside = Path(scratch) / "upload"
        aside.mkdir()
        for file in files:
            shutil.move(file, aside / file.name)
        from huggingface_hub import HfApi

        HfApi().upload_folder(
            folder_path=aside,
            path_in_repo=backend,
            repo_id=address,
            commit_message=f"Add the {backend} graph {name}",
            create_pr=pull_request,
        )
