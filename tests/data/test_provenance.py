"""Where rows came from: files with checksums, Hub id and commit, and no folder of this machine."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import constants

from stpipe.data import provenance as module
from stpipe.data.provenance import hub_provenance, local_files, provenance
from stpipe.data.sources.files import read_file
from stpipe.data.table import concatenate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = {"anchor": ["a", "b"], "positive": ["c", "d"]}


def write(path: Path, rows: int) -> Path:
    text = "".join(json.dumps({"anchor": f"a{i}", "positive": "p"}) + "\n" for i in range(rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_local_files(tmp_path: Path) -> None:
    paths = [write(tmp_path / "one.jsonl", 3), write(tmp_path / "two.jsonl.gz", 4)]
    table = concatenate([read_file(p) for p in paths])
    sums = {p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in paths}
    assert provenance(table) == {"files": sums}
    assert provenance(table.flattened()) == {"files": sums}
    assert str(tmp_path) not in json.dumps(provenance(table))


def test_large_files_are_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = write(tmp_path / "small.jsonl", 1), write(tmp_path / "large.jsonl", 100)
    monkeypatch.setattr(module, "MOST_BYTES", small.stat().st_size + 10)
    found = local_files([small, large])
    assert set(found["small.jsonl"]) == {"bytes", "sha256"} and set(found["large.jsonl"]) == {"bytes"}


def hub_cache(folder: Path, name: str, path: str, content: bytes, *, blob: str) -> None:
    """A file of a data set as the Hub cache keeps it: a link to what is named by its checksum."""
    root = folder / f"datasets--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (root / "blobs" / blob).write_bytes(content)
    link = root / "snapshots" / COMMIT / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(root / "blobs" / blob)


def test_data_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sha256, git = hashlib.sha256(b"rows").hexdigest(), hashlib.sha1(b"small").hexdigest()
    hub_cache(tmp_path, "someone/pairs", "data/train.parquet", b"rows", blob=sha256)
    hub_cache(tmp_path, "someone/pairs", "data/dev.csv", b"small", blob=git)
    data = datasets.Dataset.from_dict(ROWS, split="train")
    data.info.config_name = "clean"
    data.info.download_checksums = {
        f"hf://datasets/someone/pairs@{COMMIT}/data/train.parquet": {"num_bytes": 4, "checksum": None},
        f"hf://datasets/someone/pairs@{COMMIT}/data/dev.csv": {"num_bytes": 5, "checksum": None},
        f"hf://datasets/someone/pairs@{COMMIT}/data/gone.csv": {"num_bytes": 6, "checksum": None},
        f"hf://datasets/someone/pairs@{COMMIT}/data/known.csv": {"num_bytes": 7, "checksum": "abc"},
        "https://example.org/other.csv": {"num_bytes": 8, "checksum": None},
    }
    assert hub_provenance("someone/pairs", data) == {
        "id": "someone/pairs",
        "subset": "clean",
        "split": "train",
        "revision": COMMIT,
        "files": {
            "data/train.parquet": {"bytes": 4, "sha256": sha256},
            "data/dev.csv": {"bytes": 5, "git_sha1": git},
            "data/gone.csv": {"bytes": 6},
            "data/known.csv": {"bytes": 7, "sha256": "abc"},
        },
    }


def test_data_without_a_record_of_files() -> None:
    found = hub_provenance("someone/pairs", datasets.Dataset.from_dict(ROWS))
    assert (found["id"], found["revision"], found["files"], found["split"]) == ("someone/pairs", None, {}, None)


def test_a_sample_of_prepared_rows(tmp_path: Path) -> None:
    """PreparedSource.sample: the rows that are asked for, as `rows` has them."""
    from stpipe.config.sections import DatasetSection
    from stpipe.core.tokenize import RoleTokenizer
    from stpipe.data.prepare import prepare
    from tests.models.tiny import make_tokenizer

    path = tmp_path / "lists.jsonl"
    lines = [{"query": f"w{i}", "documents": [f"w{i + k}" for k in range(1 + i % 3)]} for i in range(20)]
    path.write_text("".join(json.dumps({**r, "label": [float(k) for k in range(len(r["documents"]))]}) + "\n" for r in lines))
    tokenizer = make_tokenizer()
    section = DatasetSection(train=str(path), format="query-documents", eval_rows=0, cache_dir=str(tmp_path / "cache"))
    source = prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer, True, 32)).train["default"]
    numbers = np.array([7, 0, 19])
    sample, rows = source.sample(numbers), source.rows()
    assert len(sample) == 3
    for role in ("query", "documents"):
        assert list(sample.columns[role]) == [rows.columns[role][int(i)] for i in numbers]
    assert rows.labels is not None and sample.labels == [rows.labels[i] for i in numbers]
