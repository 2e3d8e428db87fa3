"""metrics.jsonl read while it is written."""

from __future__ import annotations

import json
import math

from stpipe.trackers import records
from stpipe.trackers.records import Tail
from tests.trackers.run_folder import line


def test_only_whole_lines_are_read_and_each_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    text = json.dumps(line(1, "loss", 0.5))
    path.write_text(text[:20])
    assert tail.read() == []
    path.write_text(text + "\n" + text.replace('"step": 1', '"step": 2') + "\n" + text[:5])
    assert [(r.key, r.step, r.value) for r in tail.read()] == [("train/loss", 1, 0.5), ("train/loss", 2, 0.5)]
    assert tail.read() == []


def test_a_file_in_its_place_is_read_from_the_start(tmp_path):
    """A resumed run drops what it does again: the file is another, and may be longer than what was read of the old one."""
    path, aside = tmp_path / "metrics.jsonl", tmp_path / "aside"
    path.write_text(json.dumps(line(1, "loss", 0.5)) + "\n")
    tail = Tail(path)
    assert len(tail.read()) == 1
    aside.write_text("".join(json.dumps(line(step, "loss", 0.25)) + "\n" for step in (1, 2, 3)))
    aside.replace(path)
    assert [r.step for r in tail.read()] == [1, 2, 3]
    path.write_text(json.dumps(line(7, "loss", 0.25)) + "\n")  # the same file, cut
    assert [r.step for r in tail.read()] == [7]


def test_what_is_no_record_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    found = [json.dumps(line(1, "loss", math.nan)), "{}", "[1]", "broken", json.dumps({**line(2, "loss", 1.0), "value": None})]
    path.write_text("\n".join(found) + "\n")
    values = Tail(path).read()
    assert [r.step for r in values] == [1, 2]
    assert all(math.isnan(r.value) for r in values)


def test_a_long_file_comes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line(step, "loss", 0.5)) + "\n" for step in range(50)))
    tail, parts = Tail(path), []
    while found := tail.read():
        parts.append([r.step for r in found])
    assert len(parts) == 5
    assert [step for part in parts for step in part] == list(range(50))
