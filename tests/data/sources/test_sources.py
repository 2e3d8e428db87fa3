from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from stpipe.config.errors import ConfigError
from stpipe.data.sources import SourceRequest, open_source

ROWS = [{"anchor": f"a{i}", "positive": f"b{i}"} for i in range(4)]


def write(path: Path, rows: list[dict[str, str]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def request(path: Path | str, *splits: str, given: bool = False) -> SourceRequest:
    return SourceRequest(str(path), splits=splits or ("train",), optional_split=not given)


def test_a_saved_dataset_is_loaded(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert open_source(request(tmp_path / "saved")).table.to_pylist() == ROWS


def test_a_saved_dict_has_splits(tmp_path: Path) -> None:
    parts = {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert len(open_source(request(tmp_path / "saved"))) == 4
    assert len(open_source(request(tmp_path / "saved", "validation", "dev"))) == 1
    with pytest.raises(ConfigError, match=r"no split 'other'. Splits: train, validation"):
        open_source(request(tmp_path / "saved", "other", given=True))


def test_selected_rows_of_a_dataset_are_respected(tmp_path: Path) -> None:
    features = datasets.Features({"anchor": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"anchor": ["a", "b", "c"], "label": [0, 1, 1]}, features=features).select([2, 0])
    rows.save_to_disk(tmp_path / "saved")
    raw = open_source(request(tmp_path / "saved"))
    assert raw.table["anchor"].to_pylist() == ["c", "a"]
    assert raw.class_names == {"label": ["no", "yes"]}


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train.jsonl", "dev.jsonl"], "dev", 4),
        (["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test.jsonl"], "train", 8),
        (["data/train/part1.jsonl", "data/validation/part1.jsonl", "README.md"], "validation", 4),
        (["a.jsonl", "b.jsonl"], "train", 8),
        (["val.jsonl", "train.jsonl"], "validation", 4),
        (["trained.jsonl"], "train", 4),
    ],
)
def test_file_names_of_a_directory_say_the_split(tmp_path: Path, names: list[str], split: str, expected: int) -> None:
    for name in names:
        write(tmp_path / name)
    assert len(open_source(request(tmp_path, split, given=True))) == expected


def test_a_pattern_names_several_files(tmp_path: Path) -> None:
    write(tmp_path / "a1.jsonl")
    write(tmp_path / "a2.jsonl", ROWS[:2])
    raw = open_source(request(tmp_path / "a*.jsonl"))
    assert len(raw) == 6
    assert raw.place(5) == f"{tmp_path / 'a2.jsonl'} line 2"


def test_files_of_a_package_are_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "some_data_package" / "data" / "train.jsonl")
    (tmp_path / "some_data_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(open_source(request("package://some_data_package/data/train.jsonl"))) == 4
    assert "some_data_package" not in sys.modules
    with pytest.raises(ConfigError, match="has no 'data/other"):
        open_source(request("package://some_data_package/data/other.jsonl"))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("./nowhere.jsonl", "there is no file or directory"),
        ("nowhere.csv", "there is no file or directory"),
        ("/nowhere/at/all", "there is no file or directory"),
        ("nowhere/*.jsonl", "no file matches"),
        ("package://no_such_package/a", "the Python package 'no_such_package' is not installed"),
        ("s3://bucket/a", "unknown scheme 's3://'"),
        ("stdlib://modules", "stdlib://docstrings"),
        ("stdlib://docstrings?negative=2", "unknown option 'negative'"),
        ("stdlib://docstrings?format=tripel", "format 'tripel' cannot be made"),
        ("stdlib://docstrings?format=triplet&negatives=0", "expected an integer of at least 1"),
    ],
)
def test_what_does_not_exist_is_a_configuration_error(uri: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source(request(uri))
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].key == "dataset.train"
    assert expected in str(caught.value) and uri in str(caught.value)


def test_an_unreachable_hub_names_the_asset_and_the_offline_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = SourceRequest("sentence-transformers/all-nli", subset="pair", revision="abc", offline=True)
    with pytest.raises(ConfigError) as caught:
        open_source(asked)
    for part in ("sentence-transformers/all-nli", "subset 'pair'", "revision 'abc'", "+profile=offline"):
        assert part in str(caught.value)


def test_a_single_file_has_no_splits(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="single file and has no split 'validation'"):
        open_source(request(tmp_path / "a.jsonl", "validation", given=True))


def test_an_empty_directory_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no data"):
        open_source(request(tmp_path))
