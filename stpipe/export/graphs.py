"""What exports as ONNX and OpenVINO have in common: the two forms, and which files they consist of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.core.tokenize import prompt_length, tokenize
from stpipe.core.tokens import Tokens
from stpipe.export.base import Export, FormName, Written
from stpipe.export.manifest import FILE, RUNNER, manifest, route_facts, routes_of, write_manifest, write_tokenizer
from stpipe.export.source import Source
from stpipe.export.whole import EMBEDDING, SCORES, whole_graph
from stpipe.models import CrossEncoder
from stpipe.models.base_model import BaseModel
from stpipe.models.modules import Transformer
from stpipe.models.runtimes import backbone_graph, graph_name, trace
from stpipe.models.runtimes.graph import vocabulary_of
from stpipe.models.runtimes.runtime_model import graph_files


@dataclass(frozen=True)
class Graph:
    """A recorded graph that is about to be written. route: of the model; inputs, output: names."""

    program: ExportedProgram
    inputs: tuple[str, ...]
    output: str
    source: Source
    route: str | None = None

    @property
    def backbone(self) -> Transformer | None:
        """The transformer in it; None for a look-up."""
        first = self.source.model.encoder.input_of(self.route)
        return first if isinstance(first, Transformer) else None


@dataclass(frozen=True, kw_only=True)
class GraphExport(Export):
    """Exports that another runtime computes."""

    form: FormName = option(
        "self_contained",
        help="self_contained: everything inside one graph (pooling, normalisation, SPLADE head, activation), run by the run.py beside it. st_layout: the bare backbone in a sentence-transformers directory, for `backend=` there and here.",
    )

    @property
    def form_name(self) -> str:
        return self.form

    @property
    @abstractmethod
    def suffix(self) -> str:
        """What the format puts behind the name of such a graph, like O3; empty for a plain one."""

    @abstractmethod
    def write_graph(self, graph: Graph, file: Path) -> None:
        """Write a graph under a name whose folder exists."""

    def write(self, source: Source, folder: Path) -> Written:
        return self.self_contained(source, folder) if self.form == "self_contained" else self.st_layout(source, folder)

    def self_contained(self, source: Source, folder: Path) -> Written:
        """One graph for each route, tokenizer.json, export.json and run.py."""
        model = source.model
        if isinstance(model, CrossEncoder) and model.pair_input.message_format is not None:
            raise ConfigError("pairs of this model are laid out by a chat template, which needs transformers. Use form=st_layout")
        end = graph_name(self.runtime).rpartition(".")[2]
        routes: dict[str, dict[str, Any]] = {}
        files: list[str] = []
        for name, route in routes_of(model).items():
            before = f"{name}_" if name else ""
            graph, inputs = whole_graph(model, route)
            entry = model.encoder.input_of(route)
            network = isinstance(entry, Transformer)
            words = vocabulary_of(entry.model) if network else len(entry.tokenizer)
            program = trace(graph, inputs=inputs, vocabulary=words, longest=entry.position_limit if network else None)
            output = SCORES if isinstance(model, CrossEncoder) else EMBEDDING
            file = folder / f"{before}model.{end}"
            self.write_graph(Graph(program, inputs, output, source, route), file)
            write_tokenizer(entry.tokenizer, folder / f"{before}tokenizer.json")
            routes[name] = route_facts(model, route, graph=file.name, tokenizer=f"{before}tokenizer.json", inputs=inputs)
            files += [path.name for path in graph_files(file)]
        write_manifest(folder, manifest(model, runtime=self.runtime, routes=routes, width=width_of(model)))
        return Written((RUNNER, "--serve", str(torch.get_num_threads())), tuple(files), facts={"manifest": FILE})

    def st_layout(self, source: Source, folder: Path) -> Written:
        """The model directory with the graph in the place of the weights of its backbone."""
        model = source.model
        backbone = model.encoder.first
        if not isinstance(backbone, Transformer):
            raise ConfigError(
                f"form=st_layout is for models that begin with a Transformer, not with {type(backbone).__name__}; use self_contained"
            )
        model.save_pretrained(folder)
        for path in weights_of_backbone(folder):
            path.unlink()
        backbone.layout = "padded"
        graph, inputs = backbone_graph(backbone)
        program = trace(graph, inputs=inputs, vocabulary=vocabulary_of(backbone.model), longest=backbone.position_limit)
        file = folder / self.runtime / graph_name(self.runtime, self.suffix)
        file.parent.mkdir()
        self.write_graph(Graph(program, inputs, graph.output, source), file)
        name = file.relative_to(folder).as_posix()
        command = ("-m", "stpipe.export.serve", ".", self.runtime, name, str(torch.get_num_threads()))
        return Written(command, tuple(path.relative_to(folder).as_posix() for path in graph_files(file)), facts={"file_name": name})


def weights_of_backbone(folder: Path) -> list[Path]:
    """The files of weights at the top of a model directory, where the backbone has its own."""
    return sorted(
        path for pattern in ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin") for path in folder.glob(pattern)
    )


def width_of(model: BaseModel) -> int:
    """Width of what the graph gives: of an embedding as it is cut, or the number of scores."""
    dim = getattr(model, "truncate_dim", None)
    return min(dim, model.encoder.embedding_dim) if dim else model.encoder.embedding_dim


def calibration_inputs(graph: Graph, count: int) -> list[dict[str, Any]]:
    """Inputs of a graph for `count` real texts or pairs, one each, as arrays.

    Raises:
        ConfigError: the graph has no backbone, so that there is nothing to calibrate.
    """
    backbone, model = graph.backbone, graph.source.model
    if backbone is None:
        raise ConfigError("a model that looks up weights has nothing to calibrate; use openvino or onnx")
    sample: Sequence[Any] = graph.source.calibration_sample(count)
    if not sample:
        raise ConfigError("calibration needs real texts, and there are none: name data (dataset=..., or a run directory)")
    found = []
    for item in sample:
        tokens, skip = tokens_of(model, item, graph.route)
        given, _ = backbone.padded_inputs({"input_ids": tokens.ids, "lengths": tokens.lengths, "type_ids": tokens.type_ids})
        arrays = {name: value.numpy() for name, value in given.items()}
        arrays.setdefault("token_type_ids", torch.zeros_like(given["input_ids"]).numpy())
        arrays["prompt_lengths"] = torch.tensor([skip]).numpy()
        found.append({name: arrays[name] for name in graph.inputs})
    return found


def tokens_of(model: BaseModel, item: Any, route: str | None) -> tuple[Tokens, int]:
    """Tokens of one text or pair with the default prompt, and how many of them belong to the prompt."""
    prompt = model.resolve_prompt(None, None)
    if isinstance(model, CrossEncoder):
        return model.pair_tokens([item], prompt), 0
    entry = model.encoder.input_of(route)
    ids = tokenize(entry.tokenizer, [item], prompt=prompt, special_tokens=entry.special_tokens)
    return Tokens.from_lists(ids), prompt_length(entry.tokenizer, prompt, special_tokens=entry.special_tokens)
