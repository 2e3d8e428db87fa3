"""Hashes of values and folders, and manifests that find damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.core.digest import digest, file_digest, folder_digest, is_complete, write_manifest


def test_digest_looks_at_content_and_not_at_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert len(digest("x")) == 32


def test_folder_digest_changes_with_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "inner" / "b.txt").write_text("two")
    first = folder_digest(tmp_path)
    assert first == folder_digest(tmp_path)
    (tmp_path / "a.txt").write_text("One")
    second = folder_digest(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    assert len({first, second, folder_digest(tmp_path)}) == 3
    assert file_digest(tmp_path / "c.txt") != file_digest(tmp_path / "inner" / "b.txt")


@pytest.mark.parametrize("harm", ["change", "change below", "remove", "no manifest", "odd manifest"])
def test_a_manifest_finds_harm(tmp_path: Path, harm: str) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(range(100)))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "data.bin").write_bytes(b"a")
    write_manifest(tmp_path)
    assert is_complete(tmp_path)
    match harm:
        case "change":
            (tmp_path / "data.bin").write_bytes(bytes(range(99)) + b"\0")
        case "change below":
            (tmp_path / "inner" / "data.bin").write_bytes(b"b")
        case "remove":
            (tmp_path / "data.bin").unlink()
        case "no manifest":
            (tmp_path / "manifest.json").unlink()
        case _:
            (tmp_path / "manifest.json").write_text("[]")
    assert not is_complete(tmp_path)
