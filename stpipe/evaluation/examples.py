"""A few queries with the documents that each system found for them, so that a reader sees what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.ranking import Collection

EDGE = 5  # queries that gained most, and that lost most
SPREAD = 5  # queries at even distances, whatever happened to them
NEIGHBOURS = 3
RELEVANT = 2
LONGEST = 300
#: What `after` is compared with, the first that there is.
REFERENCES = ("before", "base", "bm25")


@dataclass(frozen=True)
class DocTexts:
    """Texts of documents by their ids, read from the collection when they are asked for."""

    collection: Collection

    def __call__(self, wanted: Sequence[str]) -> dict[str, str]:
        """Id -> text. One pass over the ids, so that no index of a large corpus is built for a few texts."""
        names = set(wanted)
        return {name: self.collection.docs[i] for i, name in enumerate(self.collection.doc_ids) if name in names}


def example_records(systems: Mapping[str, Evaluation], *, main: Evaluation) -> list[dict[str, Any]]:
    """The content of examples.json; empty where nothing is ranked or texts are not known.

    A record has the query, its best judged documents, and the first documents of each system with score and grade. The
    queries are those that gained and lost most against `before` (else the data's order, else BM25) and some at even distances.
    """
    if main.run is None or main.per_query is None or main.texts is None:
        return []
    chosen = _chosen(systems, main)
    qrels = main.qrels or {}
    best = {q: sorted(qrels.get(q, {}).items(), key=lambda pair: (-pair[1], pair[0]))[:RELEVANT] for q in chosen}
    found = {
        name: {q: list(result.run.get(q, {}).items())[:NEIGHBOURS] for q in chosen}
        for name, result in systems.items()
        if result.run is not None
    }
    wanted = [doc for by_query in (best, *found.values()) for pairs in by_query.values() for doc, _ in pairs]
    texts = main.texts(wanted)

    def document(doc: str, query: str, **more: float) -> dict[str, Any]:
        return {"id": doc, "text": shortened(texts.get(doc, "")), "grade": qrels.get(query, {}).get(doc), **more}

    return [
        {
            "query_id": query,
            "query": shortened(text),
            "chosen": why,
            "relevant": [document(doc, query) for doc, grade in best[query] if grade > 0],
            "systems": {name: [document(doc, query, score=score) for doc, score in by[query]] for name, by in found.items()},
        }
        for query, (text, why) in chosen.items()
    ]


def _chosen(systems: Mapping[str, Evaluation], main: Evaluation) -> dict[str, tuple[str, str]]:
    """Query id -> (text, why it was chosen: "gain", "loss" or "spread"), in that order."""
    lines = main.per_query or []
    texts = {line["query_id"]: line["query"] for line in lines}
    key = main.query_metric or ""
    others = (systems[name] for name in REFERENCES if name in systems and systems[name] is not main)
    other = next((result.per_query for result in others if result.per_query is not None), None)
    chosen: dict[str, str] = {}
    if other is not None:
        old = {line["query_id"]: line[key] for line in other}
        changes = sorted((old[line["query_id"]] - line[key], line["query_id"]) for line in lines if line["query_id"] in old)
        chosen |= {query: "gain" for change, query in changes[:EDGE] if change < 0}
        chosen |= {query: "loss" for change, query in changes[: -EDGE - 1 : -1] if change > 0}
    step = max(1, len(lines) // SPREAD)
    for line in lines[::step][:SPREAD]:
        chosen.setdefault(line["query_id"], "spread")
    return {query: (texts[query], why) for query, why in chosen.items()}


def shortened(text: str) -> str:
    """White space as one blank, at most LONGEST characters."""
    line = " ".join(text[: 4 * LONGEST].split())
    return line if len(line) <= LONGEST else line[:LONGEST].rstrip() + " \u2026"
