"""The 13 small retrieval sets of NanoBEIR, from the Hub or from a local copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, DataError
from stpipe.evaluation.ranking import Collection

HUB_ID = "sentence-transformers/NanoBEIR-en"
#: Name in a configuration -> name in the collection and in metrics.
NANO_SETS: Mapping[str, str] = {
    "climatefever": "ClimateFEVER",
    "dbpedia": "DBPedia",
    "fever": "FEVER",
    "fiqa2018": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quoraretrieval": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "arguana": "ArguAna",
    "scifact": "SciFact",
    "touche2020": "Touche2020",
}
PARTS = ("corpus", "queries", "qrels")
#: The order in which BM25 found the documents of each query; not every copy has it.
BM25_PART = "bm25"
COLUMNS = {
    "corpus": ("_id", "text"),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id"),
    BM25_PART: ("query-id", "corpus-ids"),
}
SUFFIXES = (".jsonl", ".parquet")


def read_set(dataset_id: str, name: str) -> Collection:
    """One set as a test collection. Empty texts and judgements of unknown documents are left out, queries without any as well.

    Args:
        dataset_id: a Hub id, or a directory: one with a folder a set (NanoMSMARCO/corpus.jsonl, queries and qrels, each
            .jsonl or .parquet), or a clone of the Hub data set.
        name: key of NANO_SETS.
    """
    parts = {part: _rows(dataset_id, name, part) for part in PARTS}
    docs, queries = (dict(_texts(parts[part])) for part in ("corpus", "queries"))
    number = {doc: i for i, doc in enumerate(docs)}
    grades: dict[str, dict[int, float]] = {}
    for query, doc, grade in _judgements(parts["qrels"]):
        if query in queries and doc in number:
            grades.setdefault(query, {})[number[doc]] = grade
    if not grades:
        raise DataError(f"nano_beir: set '{name}' of {dataset_id} judges no query with a document of its corpus; check the ids")
    return Collection(
        query_ids=list(grades),
        queries=[queries[query] for query in grades],
        doc_ids=list(docs),
        docs=list(docs.values()),
        grades=list(grades.values()),
    )


def read_bm25(dataset_id: str, name: str) -> dict[str, list[str]] | None:
    """Query id -> ids of the documents that BM25 found, best first, as the collection states them.

    None for a directory without such files; a Hub data set must have the subset `bm25`.
    """
    if not _has_bm25(dataset_id, name):
        return None
    return {str(row["query-id"]): [str(doc) for doc in row["corpus-ids"]] for row in _rows(dataset_id, name, BM25_PART)}


def _has_bm25(dataset_id: str, name: str) -> bool:
    folder = local_folder(dataset_id, name)
    if folder is not None:
        return any((folder / f"{BM25_PART}{suffix}").is_file() for suffix in SUFFIXES)
    root = Path(dataset_id).expanduser()
    return not root.is_dir() or (root / BM25_PART).is_dir()


def _rows(dataset_id: str, name: str, part: str) -> list[Mapping[str, Any]]:
    """The rows of one part of a set."""
    folder = local_folder(dataset_id, name)
    rows, origin = (_read_hub(dataset_id, name, part), dataset_id) if folder is None else _read_local(folder, part)
    missing = [column for column in COLUMNS[part] if not rows or column not in rows[0]]
    if missing:
        found = f"has columns {', '.join(rows[0])}" if rows else "is empty"
        raise DataError(f"nano_beir: {part} of set '{name}' in {origin} {found}; expected {', '.join(COLUMNS[part])}")
    return rows


def local_folder(dataset_id: str, name: str) -> Path | None:
    """The folder of a set in a local copy; None when dataset_id is no such copy."""
    root = Path(dataset_id).expanduser()
    known = {f"nano{s}": s for s in NANO_SETS} | {s: s for s in NANO_SETS}
    folders = {known[p.name.lower()]: p for p in root.iterdir() if p.is_dir() and p.name.lower() in known} if root.is_dir() else {}
    if not folders:
        return None
    if name not in folders:
        raise ConfigError(
            f"nano_beir: {root} has no folder for set '{name}' (expected Nano{NANO_SETS[name]}). It has: {', '.join(sorted(folders))}; "
            "name these in `datasets`, or add the folder"
        )
    return folders[name]


def _read_local(folder: Path, part: str) -> tuple[list[Mapping[str, Any]], Path]:
    import datasets

    file = next((folder / f"{part}{suffix}" for suffix in SUFFIXES if (folder / f"{part}{suffix}").is_file()), None)
    if file is None:
        raise ConfigError(f"nano_beir: {folder} has no {' or '.join(part + s for s in SUFFIXES)}; a set needs {', '.join(PARTS)}")
    kind = "json" if file.suffix == ".jsonl" else "parquet"
    try:
        loaded = datasets.load_dataset(kind, data_files=str(file), split="train")
    except Exception as error:  # builders raise many types for a file that they cannot read
        raise DataError(
            f"nano_beir: {file} cannot be read ({str(error).splitlines()[0][:200]}); expected one JSON object a line, or parquet"
        ) from error
    return list(loaded), file


def _read_hub(dataset_id: str, name: str, part: str) -> list[Mapping[str, Any]]:
    import datasets

    split = f"Nano{NANO_SETS[name]}"
    try:
        return list(datasets.load_dataset(dataset_id, part, split=split))
    except Exception as error:  # load_dataset raises many types for few causes: no connection, no such name, no such split
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ConfigError(
            f"nano_beir needs subset '{part}', split '{split}' of the data set '{dataset_id}', which is neither in the local cache nor "
            f"reachable ({type(error).__name__}: {reason}). Connect, fetch it while online, or set `dataset_id` to a local copy: a folder "
            f"with {split}/corpus.jsonl, queries.jsonl and qrels.jsonl (or .parquet) for each set"
        ) from error


def _texts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(id, text), a title before its text."""
    for row in rows:
        text = f"{row.get('title') or ''} {row['text'] or ''}".strip()
        if text:
            yield str(row["_id"]), text


def _judgements(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """(query, document, grade); a row may list several documents, and without a score a document is relevant."""
    for row in rows:
        docs = row["corpus-id"] if isinstance(row["corpus-id"], list) else [row["corpus-id"]]
        score = row.get("score")
        for doc in docs:
            yield str(row["query-id"]), str(doc), 1.0 if score is None else float(score)
