"""export.json: what a self-contained export is and how it is called; read by the run.py beside it, which knows nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from stpipe import __version__
from stpipe.config.errors import ConfigError
from stpipe.models import CrossEncoder
from stpipe.models.base_model import BaseModel, limit_of
from stpipe.models.embedding_model import EmbeddingModel

FILE = "export.json"
RUNNER = "run.py"


def routes_of(model: BaseModel) -> dict[str, str | None]:
    """Name of a route in the export -> route of the model; one nameless route where all texts go the same way."""
    names = model.encoder.routes
    return {name: name for name in names} if names else {"": None}


def manifest(model: BaseModel, *, runtime: str, routes: dict[str, dict[str, Any]], width: int) -> dict[str, Any]:
    """The content of export.json.

    Args:
        model: what was exported.
        runtime: onnx or openvino.
        routes: route -> graph and tokenizer, from `route_facts`.
        width: of an embedding, or number of scores.
    """
    embedding = model if isinstance(model, EmbeddingModel) else None
    return {
        "stpipe": __version__,
        "torch": torch.__version__,
        "kind": model.kind,
        "runtime": runtime,
        "width": width,
        "similarity": model.similarity_fn_name or None,
        "prompts": dict(model.prompts),
        "default_prompt": model.resolve_prompt(None, None),
        "query_prompt": model.prompts.get("query", "") if embedding else model.resolve_prompt(None, None),
        "document_prompt": embedding.document_prompt if embedding else "",
        "routes": routes,
        "tasks": {name: name for name in routes if name},
        "default_route": next((name for name in ("document", "") if name in routes), next(iter(routes))),
    }


def route_facts(model: BaseModel, route: str | None, *, graph: str, tokenizer: str, inputs: tuple[str, ...]) -> dict[str, Any]:
    """How the texts of one route become inputs of its graph. graph, tokenizer: names of files."""
    entry = model.encoder.input_of(route)
    used = entry.tokenizer
    pad = used.pad_token_id
    return {
        "graph": graph,
        "tokenizer": tokenizer,
        "inputs": list(inputs),
        "max_length": limit_of(used),
        "special_tokens": entry.special_tokens or isinstance(model, CrossEncoder),
        "pad_id": 0 if pad is None else pad,
        "ends": sorted({token for token in (used.sep_token_id, used.eos_token_id) if token is not None}),
    }


def write_tokenizer(tokenizer: Any, file: Path) -> None:
    """Write tokenizer.json, with padding and truncation left to the caller.

    Raises:
        ConfigError: the tokenizer is one in Python, which only transformers can run.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} has no tokenizer.json, so it runs in Python only. Use form=st_layout, which transformers loads"
        )
    clean = Tokenizer.from_str(backend.to_str())
    clean.no_padding()
    clean.no_truncation()
    file.write_text(clean.to_str(pretty=True), encoding="utf-8")


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """export.json and the runner."""
    (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    (folder / RUNNER).write_text(Path(__file__).with_name("standalone.py").read_text(encoding="utf-8"), encoding="utf-8")
