"""The tracker of a user that docs/tracking.md shows, as it stands there."""

from __future__ import annotations

import re
import sys
import threading
import types

from stpipe.config.registry import TRACKERS
from stpipe.trackers import Memory, TrackedRun
from stpipe.trackers.follow import Follower
from tests.trackers.run_folder import CONFIG, LINES, make_run


def test_a_tracker_of_ones_own(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(TRACKERS, "_classes", dict(TRACKERS._classes))
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "tracking.md").read_text(), re.S)
    module = types.ModuleType("users_module")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/tracking.md", "exec"), module.__dict__)
    tracker = TRACKERS.get("lines")(file=str(tmp_path / "lines"))
    over = threading.Event()
    over.set()
    assert Follower(tracker, TrackedRun(make_run(tmp_path / "out"), CONFIG), Memory(tmp_path / "memory.json"), over).follow()
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines == [*(f"{r['step']} {r['split']}/{r['name']} {r['value']}" for r in LINES), "finished"]
