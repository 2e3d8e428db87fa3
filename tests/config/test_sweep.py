from __future__ import annotations

import json

from stpipe.config.sweep import VARIABLE, Sweep


def test_the_same_sweep_in_the_same_place_has_the_same_identity(monkeypatch, tmp_path):
    overrides = ["trainer.seed=1,2", "tracker.own.api_key=swordfish"]
    monkeypatch.chdir(tmp_path)
    sweep = Sweep.of(overrides)
    assert Sweep.of(overrides) == sweep
    assert Sweep.of([*overrides, "trainer.max_steps=3"]).id != sweep.id
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Sweep.of(overrides).id != sweep.id


def test_jobs_learn_of_it_by_their_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Sweep.of_environment() is None
    sweep = Sweep.of(["trainer.seed=1,2", "tracker.own.api_key=swordfish"])
    monkeypatch.setenv(VARIABLE, sweep.variable()[VARIABLE])
    assert Sweep.of_environment() == sweep == Sweep.from_json(json.loads(json.dumps(sweep.as_json())))
    assert "swordfish" not in sweep.variable()[VARIABLE]
    assert sweep.name == f"sweep-{sweep.id[:8]}"
