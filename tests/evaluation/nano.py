"""Small collections in the layouts of NanoBEIR: one folder a set, or a copy of the Hub data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stpipe.evaluation.nano_files import NANO_SETS


def nano_set(name: str, *, num_docs: int = 40, num_queries: int = 10) -> dict[str, list[dict[str, Any]]]:
    """corpus, queries and qrels; the sets differ in their words, every third query has two relevant documents."""
    shift = len(name)
    corpus = [{"_id": f"d{i}", "text": f"w{(i + shift) % 40} answer {name} {i}"} for i in range(num_docs)]
    queries = [{"_id": f"q{i}", "text": f"w{(3 * i + shift) % 40} ask"} for i in range(num_queries)]
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{3 * i}"} for i in range(num_queries)]
    qrels += [{"query-id": f"q{i}", "corpus-id": f"d{3 * i + 1}"} for i in range(0, num_queries, 3)]
    return {"corpus": corpus, "queries": queries, "qrels": qrels}


def bm25_orders(name: str, *, num_docs: int = 40, num_queries: int = 10) -> list[dict[str, Any]]:
    """What BM25 would have found: 12 documents of each query, most of its relevant ones somewhere among them."""
    corpus = [row["_id"] for row in nano_set(name, num_docs=num_docs, num_queries=num_queries)["corpus"]]
    return [
        {"query-id": f"q{i}", "corpus-ids": [corpus[(3 * i + 7 + (11 * k if i % 2 else -k)) % num_docs] for k in range(12)]}
        for i in range(num_queries)
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A .jsonl or .parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_local_copy(root: Path, names: Sequence[str], *, suffix: str = ".jsonl", bm25: bool = False) -> Path:
    """root/NanoMSMARCO/corpus.jsonl, ..."""
    for name in names:
        for part, rows in (nano_set(name) | ({"bm25": bm25_orders(name)} if bm25 else {})).items():
            write_rows(root / f"Nano{NANO_SETS[name]}" / f"{part}{suffix}", rows)
    return root


def write_hub_copy(root: Path, names: Sequence[str], *, bm25: bool = False) -> Path:
    """What a clone of the Hub data set holds: parquet files, and a README that names subsets and splits."""
    lines = ["---", "configs:"]
    for part in ("corpus", "queries", "qrels", *(("bm25",) if bm25 else ())):
        lines += [f"- config_name: {part}", "  data_files:"]
        for name in names:
            split = f"Nano{NANO_SETS[name]}"
            rows = bm25_orders(name) if part == "bm25" else nano_set(name)[part]
            write_rows(root / part / f"{split}-00000-of-00001.parquet", rows)
            lines += [f"  - split: {split}", f"    path: {part}/{split}-*"]
    (root / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return root
