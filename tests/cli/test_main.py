from __future__ import annotations

import json

import pytest

from stpipe.cli.main import VERBS, main
from stpipe.config.errors import DataError, PartialError


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert "Exit codes" in text and "75 preempted" in text
    assert main([]) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"stpipe {verb}")
    assert "Usage: stpipe" in text


def test_unknown_flag_is_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--dryrun"])
    assert caught.value.code == 2
    assert "--dryrun" in capsys.readouterr().err


def test_validate_says_what_a_configuration_resolves_to(capsys):
    assert main(["validate", "+recipe=multi_dataset"]) == 0
    text = capsys.readouterr().out
    for part in ("loss of nli", "no_duplicates (mixing=round_robin)", "sts_spearman_cosine", "outputs/multi_dataset/"):
        assert part in text


def test_validate_as_json(capsys):
    assert main(["validate", "+recipe=cosent_stsb", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is True
    assert found["config"]["loss"]["name"] == "cosent"
    assert found["metrics"] == ["dev_spearman_cosine", "dev_pearson_cosine"]


def test_problems_go_to_standard_error_with_place(capsys):
    assert main(["validate", "+recipe=cosent_stsb", "trainer.sed=1", "optimizer.lr=x"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert "2 problems" in out.err
    assert "trainer.sed: unknown key. Did you mean 'seed'?" in out.err
    assert "[optimizer.lr=x]" in out.err


def test_list(capsys):
    assert main(["list", "recipe"]) == 0
    text = capsys.readouterr().out
    assert "dense_quickstart" in text
    assert "A retrieval model on real text" in text
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {
        "recipe",
        "model",
        "loss",
        "dataset",
        "sampler",
        "evaluator",
        "optimizer",
        "scheduler",
        "strategy",
        "backend",
        "trainer",
        "profile",
    } <= set(found)
    assert all(line for options in found.values() for line in options.values())
    assert set(found["profile"]) == {"offline", "smoke"}
    assert main(["list", "los"]) == 2
    assert "Did you mean 'loss'?" in capsys.readouterr().err


def test_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"] != "missing"
    assert "cpu" in found["devices"]
    assert found["offline switches"]["HF_HUB_OFFLINE"] == "1"


def test_outcomes_become_exit_codes(monkeypatch, capsys):
    from stpipe.cli import doctor

    def failing(error):
        def run(arguments):
            raise error

        return run

    cases = [(DataError("row 3 is empty"), 3), (PartialError("saved, but"), 5), (KeyboardInterrupt(), 130), (ValueError("bug"), 1)]
    for error, code in cases:
        monkeypatch.setattr(doctor, "run", failing(error))
        assert main(["doctor"]) == code
    text = capsys.readouterr().err
    assert "row 3 is empty" in text
    assert text.count("Traceback") == 1  # of the ValueError only
    assert "unexpected ValueError: bug" in text


def test_shown_configuration_has_every_key(capsys):
    assert main(["train", "+recipe=cosent_stsb", "--cfg", "job"]) == 0
    text = capsys.readouterr().out
    for part in ("num_epochs: 2", "save_total_limit: 2", "name: cosent", "scale: 20.0"):
        assert part in text
    assert main(["train", "+recipe=cosent_stsb", "--cfg", "job", "--package", "loss"]) == 0
    assert "batch_size" not in capsys.readouterr().out
    assert main(["train", "+recipe=cosent_stsb", "card.language=${trainer.device}", "--cfg", "job", "--resolve", "-p", "card"]) == 0
    assert "language: auto" in capsys.readouterr().out
    assert main(["train", "--resolve"]) == 2
    assert main(["train", "--cfg", "job", "-m"]) == 2


def test_info_of_hydra(capsys):
    assert main(["train", "+recipe=cosent_stsb", "--info", "defaults"]) == 0
    assert "recipe/cosent_stsb" in capsys.readouterr().out


def test_multirun_runs_each_job_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "+recipe=cosent_stsb,mnrl_gooaq", "trainer.seed=1,2", "-m"]) == 0
    text = capsys.readouterr().out
    directories = {line for line in text.splitlines() if line.startswith("run.dir")}
    assert len(directories) == 4
    assert list(tmp_path.iterdir()) == []


def test_multirun_with_a_failing_job_is_partly_done(capsys):
    assert main(["validate", "+recipe=cosent_stsb", "loss=mnrl,cosent", "-m"]) == 5
    assert main(["validate", "+recipe=cosent_stsb", "loss=mnrl,triplet", "-m"]) == 2
    assert "trains on pair" in capsys.readouterr().err


def test_offline_sets_the_switches(monkeypatch):
    import os

    from stpipe.config.offline import SWITCHES

    for switch in SWITCHES:
        monkeypatch.setenv(switch, "0")
    assert main(["validate", "+recipe=cosent_stsb", "+profile=offline"]) == 0
    assert [os.environ[s] for s in SWITCHES] == ["1", "1", "1"]
