"""A user's own test collection in files: queries, documents and judgements, in the layouts of BEIR and TREC."""

from __future__ import annotations

import array
import json
import math
from collections.abc import Collection as Container
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from stpipe.config.errors import ConfigError, DataError
from stpipe.evaluation.ranking import Collection

ID_KEYS = ("_id", "id")
QREL_KEYS = (("query-id", "query_id", "qid"), ("corpus-id", "corpus_id", "doc_id", "docid"), ("score", "grade", "relevance", "label"))


class TextFile(Sequence[str]):
    """Texts of a .jsonl file ({"_id", "text", optional "title"}) or .tsv file (id, text; no header), read when asked for.

    Only ids and line offsets stay in memory. A title is put before its text with one space, as BEIR does. Lines with a text in
    `without` are left out.
    """

    def __init__(self, path: str, *, without: Container[str] = ()) -> None:
        self.path = open_path(path)
        self.ids: list[str] = []
        self._offsets = array.array("q")
        seen: set[str] = set()
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    name, text = self._parse(line, number)
                    if name in seen:
                        raise DataError(f"{self.path}:{number}: id '{name}' occurs twice")
                    seen.add(name)
                    if text not in without:
                        self.ids.append(name)
                        self._offsets.append(offset)
                offset += len(line)
        if not seen:
            raise DataError(f"{self.path} holds no texts")

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._read(self._offsets[index])
        return self._read([self._offsets[index]])[0]

    def _read(self, offsets: Sequence[int]) -> list[str]:
        texts = []
        with self.path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                texts.append(self._parse(file.readline(), 0)[1])
        return texts

    def _parse(self, line: bytes, number: int) -> tuple[str, str]:
        """(id, text) of one line."""
        if self.path.suffix == ".tsv":
            name, tab, text = _decoded(line, self.path, number).rstrip("\r\n").partition("\t")
            if not tab:
                raise DataError(f"{self.path}:{number}: no tab; expected an id, a tab and a text")
            return name, text
        record = _json_line(line, self.path, number)
        key = next((key for key in ID_KEYS if key in record), None)
        if key is None or not isinstance(record.get("text"), str):
            raise DataError(
                f"{self.path}:{number}: found keys {', '.join(map(str, record))}; expected '_id' (or 'id') and 'text', a string"
            )
        return str(record[key]), _unicode(f"{record.get('title') or ''} {record['text']}".strip(), self.path, number)


class Joined(Sequence[str]):
    """Two sequences of texts, one after the other."""

    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        cut = len(self.first)
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return [*self.first[start:stop], *self.second[max(start - cut, 0) : max(stop - cut, 0)]]
        return self.first[index] if index < cut else self.second[index - cut]


def read_collection(*, queries: str, corpus: str, qrels: str) -> Collection:
    """The test collection of three files; queries that qrels does not name are left out, as are judgements without text."""
    docs = TextFile(corpus)
    asked = TextFile(queries)
    number = {name: i for i, name in enumerate(docs.ids)}
    grades: dict[str, dict[int, float]] = {}
    missing = 0
    for query, doc, grade in read_qrels(qrels):
        missing += doc not in number
        if doc in number:
            grades.setdefault(query, {})[number[doc]] = grade
    keep = [i for i, name in enumerate(asked.ids) if name in grades]
    if not keep:
        raise DataError(
            f"{qrels} judges no query of {queries} with a document of {corpus} ({missing} judged documents are unknown); check the ids"
        )
    return Collection(
        query_ids=[asked.ids[i] for i in keep],
        queries=[asked[i] for i in keep],
        doc_ids=docs.ids,
        docs=docs,
        grades=[grades[asked.ids[i]] for i in keep],
    )


def add_corpus(collection: Collection, path: str) -> Collection:
    """The same queries over a larger corpus: the file's texts come after the known ones, unjudged, ids with `x:` in front."""
    extra = TextFile(path, without=set(collection.docs))
    return Collection(
        query_ids=collection.query_ids,
        queries=collection.queries,
        doc_ids=[*collection.doc_ids, *(f"x:{name}" for name in extra.ids)],
        docs=Joined(collection.docs, extra),
        grades=collection.grades,
        query_prompt=collection.query_prompt,
        doc_prompt=collection.doc_prompt,
    )


def read_qrels(path: str) -> Iterator[tuple[str, str, float]]:
    """(query id, document id, grade) of a .jsonl file, a BEIR .tsv (three columns, header optional), or TREC qrels (four)."""
    place = open_path(path)
    with place.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if place.suffix == ".jsonl":
                yield _json_qrel(_json_line(line, place, number), place, number)
                continue
            text = _decoded(line, place, number)
            fields = text.rstrip("\r\n").split("\t" if place.suffix == ".tsv" else None)
            fields = [fields[0], *fields[2:]] if len(fields) == 4 else fields
            grade = _number(fields[2]) if len(fields) == 3 else None
            if grade is None and number == 1 and len(fields) == 3:
                continue
            if grade is None:
                raise DataError(f"{place}:{number}: expected query id, document id and a number as grade, found {text.strip()[:80]!r}")
            yield fields[0], fields[1], grade


def _json_qrel(record: dict[str, object], place: Path, number: int) -> tuple[str, str, float]:
    found = [next((str(record[key]) for key in keys if key in record), None) for keys in QREL_KEYS]
    query, doc, grade = found[0], found[1], _number(found[2])
    if query is None or doc is None or grade is None:
        raise DataError(f"{place}:{number}: found keys {', '.join(record)}; expected query-id, corpus-id and score, a number")
    return query, doc, grade


def _number(text: str | None) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = None if text is None else float(text)
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def _json_line(line: bytes, path: Path, number: int) -> dict[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
    return record


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line); save the file as UTF-8") from error


def _unicode(text: str, path: Path, number: int) -> str:
    """The text; half a surrogate pair, which JSON can write, is no character that a tokenizer takes."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{path}:{number}: the text holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
    return text


def open_path(path: str) -> Path:
    """A local file; one that does not exist is an error of the configuration that names it."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise ConfigError(f"evaluation file '{path}' does not exist (looked in {place.absolute().parent})")
    return place
