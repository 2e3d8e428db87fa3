"""The exports of a run in its card: what verification found, and how each is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stpipe.reports import text

FOLDER = "exports"
FILE = "verification.json"
CLASSES: Mapping[str, str] = {"dense": "SentenceTransformer", "sparse": "SparseEncoder", "cross_encoder": "CrossEncoder"}
SELF_CONTAINED, LAYOUT = "self_contained", "st_layout"
PEER = "sentence-transformers"
PACKAGES: Mapping[str, str] = {"onnx": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True, slots=True)
class Snippet:
    """Python that uses an export, run in the folder of the card. needs: packages."""

    name: str
    needs: str
    code: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What snippets show: kind of model, texts (at least three), whether queries and documents differ."""

    kind: str
    texts: Sequence[str]
    retrieval: bool


def export_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of stpipe.export.verification_rows; without exports nothing of them is imported."""
    if not (run_dir / FOLDER).is_dir():
        return []
    from stpipe.export.table import verification_rows

    return verification_rows(run_dir)


def export_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The same as text, column by column, for Markdown."""
    return [
        {
            "Export": f"{row['name']} ({row['runtime']}, {row['form']}, {row['precision']})",
            "Verified": "yes" if row["passed"] else "rejected: " + "; ".join(map(str, row["problems"])),
            "Largest difference": _scientific(row["max_abs"]),
            "Cosine or rank correlation": _agreement(row),
            "Metric (model, export)": _metric(row),
            "ms, 1 text (torch)": _pair(row, "latency_1_ms", "torch_latency_1_ms"),
            "ms, 32 texts (torch)": _pair(row, "latency_32_ms", "torch_latency_32_ms"),
            "Speed against torch, 1 text, 32 texts": _speeds(row),
            "MB (model)": _pair(row, "size_mb", "model_size_mb"),
            "Compared on": f"{row['texts']} texts of {row['min_length']} to {row['max_length']} tokens",
        }
        for row in rows
    ]


def export_snippets(run_dir: Path, rows: Sequence[Mapping[str, Any]], usage: Usage) -> list[Snippet]:
    """One for each export that passed, of graphs that sentence-transformers loads a second one."""
    found: list[Snippet] = []
    for row in rows:
        if row["passed"]:
            found.append(_snippet(run_dir / str(row["path"]), row, usage))
            if row["form"] == LAYOUT and row["runtime"] in PACKAGES:
                found.append(_for_peer(found[-1], str(row["runtime"])))
    return found


def _for_peer(snippet: Snippet, runtime: str) -> Snippet:
    """The same with sentence-transformers, which takes the same calls."""
    code = snippet.code.replace("from stpipe import", "from sentence_transformers import", 1)
    return Snippet(f"{snippet.name} with {PEER}", f"{PEER}[{runtime}]", code)


def _snippet(folder: Path, row: Mapping[str, Any], usage: Usage) -> Snippet:
    place = json.dumps(f"../{row['path']}")
    if row["form"] == SELF_CONTAINED:
        package = PACKAGES[row["runtime"]]
        return Snippet(
            row["name"], f"{package}, tokenizers and numpy", _lines(*_import_run(place, "Model"), "", "model = Model()", *_calls(usage))
        )
    maker = MAKERS.get(str(row["runtime"]), _loaded)
    return maker(folder, place, row, usage)


def _import_run(place: str, name: str) -> list[str]:
    return ["import sys", "", f"sys.path.insert(0, {place})  # the folder of the export", f"from run import {name}"]


def _loaded(folder: Path, place: str, row: Mapping[str, Any], usage: Usage) -> Snippet:
    """A directory that stpipe and sentence-transformers load, with a runtime in the place of torch where it holds a graph."""
    name, arguments = CLASSES[usage.kind], [place]
    if row["runtime"] in PACKAGES:
        arguments.append(f'backend="{row["runtime"]}"')
        file = _facts(folder).get("file_name")
        arguments += [f"model_kwargs={{{json.dumps('file_name')}: {json.dumps(file)}}}"] if file else []
    load = f"model = {name}({', '.join(arguments)})  # the folder of the export"
    needs = ", ".join(["stpipe", *([PACKAGES[row["runtime"]]] if row["runtime"] in PACKAGES else [])])
    return Snippet(row["name"], needs, _lines(f"from stpipe import {name}", "", load, *_calls(usage)))


def _quantised(folder: Path, place: str, row: Mapping[str, Any], usage: Usage) -> Snippet:
    """Ranges, and a function that stores embeddings in fewer bits by them."""
    head = ["import sys", "", "from stpipe import SentenceTransformer", "", *_import_run(place, "quantize")[2:], ""]
    body = [
        'model = SentenceTransformer(".")  # the folder that holds this file',
        f"small = quantize(model.encode([{_listed(usage.texts[:3])}]))",
    ]
    return Snippet(row["name"], "stpipe and numpy", _lines(*head, *body, "print(small.shape, small.dtype)"))


MAKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any], Usage], Snippet]] = {"numpy": _quantised}


def _calls(usage: Usage) -> list[str]:
    """What is done with a loaded model, the same with every runtime."""
    texts = usage.texts
    if usage.kind == "cross_encoder":
        pairs = ", ".join(f"({_listed(texts[:1])}, {_listed([other])})" for other in texts[1:3])
        return [f"scores = model.predict([{pairs}])", "print(scores.shape)"]
    if usage.retrieval:
        return [
            f"query_embeddings = model.encode_query([{_listed(texts[:1])}])",
            f"document_embeddings = model.encode_document([{_listed(texts[1:3])}])",
            "print(query_embeddings.shape, document_embeddings.shape)",
        ]
    return [f"embeddings = model.encode([{_listed(texts[:3])}])", "print(embeddings.shape)"]


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(json.dumps(t, ensure_ascii=False) for t in texts)


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def _facts(folder: Path) -> Mapping[str, Any]:
    found = json.loads((folder / FILE).read_text(encoding="utf-8")).get("facts")
    return found if isinstance(found, dict) else {}


def _scientific(value: float | None) -> str:
    return text.DASH if value is None else f"{value:.1e}"


def _agreement(row: Mapping[str, Any]) -> str:
    value = row["mean_cosine"] if row["mean_cosine"] is not None else row["spearman"]
    return text.DASH if value is None else f"{value:.4f}"


def _metric(row: Mapping[str, Any]) -> str:
    if row["metric"] is None:
        return text.DASH
    found = f"{row['metric']}: {text.score(row['metric_model'])}, {text.score(row['metric_export'])}"
    if row["metric_low"] is None or row["metric_high"] is None:
        return found
    return f"{found} ({text.signed(row['metric_low'])} to {text.signed(row['metric_high'])})"


def _speeds(row: Mapping[str, Any]) -> str:
    """How many times as fast as torch, in batches of both sizes."""
    found = [text.DASH if row[key] is None else f"{row[key]:.1f}x" for key in ("speed_1", "speed_32")]
    return ", ".join(found) if any(row[key] is not None for key in ("speed_1", "speed_32")) else text.DASH


def _pair(row: Mapping[str, Any], own: str, other: str) -> str:
    if row[own] is None:
        return text.DASH
    return f"{row[own]:.1f}" + ("" if row[other] is None else f" ({row[other]:.1f})")
