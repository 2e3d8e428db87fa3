"""What a configuration names that lies on a hub: models, data sets, teachers, guides, collections of evaluators. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Literal
from urllib.parse import parse_qsl

from stpipe.config.data_format import sources
from stpipe.config.origins import Path, dotted
from stpipe.config.places import exists

#: Keys that name a model, wherever they stand; `model` also names the section of that name, which is no text.
MODEL_KEYS = ("name_or_path", "decoder_name_or_path", "model", "cross_encoder", "other")
#: What such a key may say without naming a model.
NO_MODEL = ("bm25",)
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".arrow")
#: Subsets of the collections that evaluators read, and a further one of those that rerank.
COLLECTION, RANKED = ("corpus", "queries", "qrels"), "bm25"
#: Keys that a data set takes over from the top of the section where it says nothing.
INHERITED = ("eval", "joins", "subset", "revision", "teacher")


@dataclass(frozen=True)
class Asset:
    """Something that a run reads and that may have to be downloaded.

    kind: what it is; name: Hub id, path or address as configured; keys: that name it; revision, subset: as configured; on_hub: whether it
    lies on a hub, else it is or is expected to be on this machine.
    """

    kind: Literal["model", "data set"]
    name: str
    keys: tuple[str, ...]
    revision: str | None = None
    subset: str | None = None
    on_hub: bool = True

    @property
    def shown(self) -> str:
        """Name and subset."""
        return f"{self.name} ({self.subset})" if self.subset else self.name


def assets(values: Mapping[str, Any]) -> list[Asset]:
    """All assets of a decoded and settled configuration, in the order in which it names them; what several keys name comes once.

    Components of the user are looked at, too: a key called as in MODEL_KEYS names a model, `dataset_id` a collection.
    """
    found: dict[Asset, tuple[str, ...]] = {}
    for asset in (*_models(values, ()), *_data(values), *_collections(values.get("evaluator") or {}, ("evaluator",))):
        bare = replace(asset, keys=())
        found[bare] = (*found.get(bare, ()), *(key for key in asset.keys if key not in found.get(bare, ())))
    return [replace(bare, keys=keys) for bare, keys in found.items()]


def _models(values: Mapping[str, Any], path: Path) -> Iterator[Asset]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _models(value, (*path, key))
        elif key in MODEL_KEYS and isinstance(value, str) and value not in NO_MODEL and path != ("run",):
            yield Asset("model", value, (dotted((*path, key)),), values.get("revision"), on_hub=is_on_hub(value))


def _data(values: Mapping[str, Any]) -> Iterator[Asset]:
    dataset = values["dataset"]
    for _, path, section in sources(dataset):
        own = {key: section.get(key) or dataset.get(key) for key in INHERITED}
        for key, name in (("train", section.get("train")), ("eval", own["eval"])):
            if name is not None:
                yield _data_set(name, (*path, key), own["revision"], own["subset"])
        for role, table in (own["joins"] or {}).items():
            name, _, query = table.partition("?")
            yield _data_set(name, (*path, "joins", role), None, dict(parse_qsl(query)).get("subset"))
    mine = values.get("mine")
    if mine is not None and mine.get("corpus"):
        yield _data_set(mine["corpus"], ("mine", "corpus"), None, None)


def _data_set(name: str, path: Path, revision: str | None, subset: str | None) -> Asset:
    if not is_on_hub(name, data=True):
        return Asset("data set", name, (dotted(path),), on_hub=False)
    return Asset("data set", name.removeprefix("hf://"), (dotted(path),), revision, subset)


def _collections(values: Mapping[str, Any], path: Path) -> Iterator[Asset]:
    """Collections of evaluators, also of evaluators inside others."""
    name = values.get("dataset_id")
    if isinstance(name, str):
        key = (dotted((*path, "dataset_id")),)
        if not is_on_hub(name):
            yield Asset("data set", name, key, on_hub=False)
        else:
            parts = (*COLLECTION, RANKED) if str(values.get("name", "")).startswith("cross_encoder") else COLLECTION
            yield from (Asset("data set", name, key, subset=part) for part in parts)
    for inner, value in values.items():
        if isinstance(value, Mapping):
            yield from _collections(value, (*path, inner))


def is_on_hub(address: str, *, data: bool = False) -> bool:
    """Whether an address can only mean something on a hub: no scheme of another kind, no path, nothing that is here.

    data: it names a data set, so a name like `pairs.jsonl` is a file.
    """
    if address.startswith("hf://"):
        return True
    if "://" in address or address.startswith((".", "/", "~")) or address.count("/") > 1 or any(c in address for c in "*?[\\\0"):
        return False
    if data and FilePath(address).suffix.lower() in DATA_SUFFIXES:
        return False
    return not exists(address)
