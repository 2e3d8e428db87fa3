"""Stages one by one: what each reads and writes, what is left of a run, and the commands that do it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stpipe.cli.arguments import STAGE_NAMES
from stpipe.cli.main import main
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.pipeline import later
from stpipe.pipeline.stage_table import BY_NAME, LATER, STAGES
from tests.pipeline.conftest import Command

SHARED = ("trainer.max_steps=4", "trainer.save_steps=2", "trainer.log_steps=1", "+evaluator.dev.name=information_retrieval")


def status(run: str = "out") -> dict:
    found: dict = json.loads(Path(run, "status.json").read_text())
    return found


def weights(run: str) -> bytes:
    return Path(run, "model", "model.safetensors").read_bytes()


def metrics(run: str) -> list[tuple]:
    """Everything that was measured of the model, without clocks."""
    records = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    found = [(r["split"], r["step"], r["name"], r["value"]) for r in records if r["split"] != "train"]
    assert {split for split, *_ in found} == {"eval", "final"}
    return sorted(found)


def systems(run: str) -> dict:
    found: dict = json.loads(Path(run, "evaluation", "dev", "metrics.json").read_text())["systems"]
    assert set(found) == {"before", "after", "bm25"}
    return found


def contents(run: str) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(Path(run).rglob("*")) if p.is_file()}


def test_the_table_is_what_the_command_offers() -> None:
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES
    for stage in STAGES:
        assert stage.reads or stage.name == "train"
        for place in stage.reads:
            writers = [s for s in STAGES if place in s.writes]
            assert place in ("config.yaml", "status.json") or {s.name for s in writers} <= set(stage.after), (
                "an input comes from a stage before"
            )


def test_stage_by_stage_is_the_whole_run(stpipe: Command) -> None:
    """Each stage changes what it declares, and nothing else; in the end there is what one command would have left."""
    assert stpipe("train", "run.dir=whole", *SHARED) == 0
    assert stpipe("train", "run.dir=out", *SHARED, "--stage", "train") == 0
    assert status()["state"] == "partial" and status()["exit_code"] == 0
    assert status()["error"].startswith("left to do: save, evaluate, card.")
    assert status()["stages"]["train"]["writes"] == ["checkpoints", "metrics.jsonl"]
    allowed = {"status.json", "report.html", "report.json"}
    for name in ("save", "evaluate", "card"):
        before = contents("out")
        assert main(["train", "--from", "out", "--stage", name]) == 0
        after = contents("out")
        changed = {p for p in {*before, *after} if before.get(p) != after.get(p)} - allowed
        if name == "save":
            changed -= {"environment.json", "plan.json", "data.json", "card.json"}  # notes of what is continued, and where
        assert changed, name
        assert all(any(p == w or p.startswith(f"{w}/") for w in BY_NAME[name].writes) for p in changed), changed
    assert (status()["state"], status()["exit_code"], status()["error"]) == ("finished", 0, None)
    assert weights("out") == weights("whole")
    assert metrics("out") == metrics("whole") and systems("out") == systems("whole")
    assert json.loads(Path("out/report.json").read_text())["run"]["state"] == "finished"
    assert not [p for p in Path("out").rglob("*") if p.name.startswith(".")], "something unfinished was left behind"


def test_a_stage_without_its_inputs_is_refused_with_what_comes_first(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", "run.dir=out", *SHARED, "--stage", "evaluate") == 2
    message = capsys.readouterr().err
    assert "'evaluate' comes after 'save'" in message and "stpipe train --from out --stage save" in message
    assert not Path("out").exists()
    assert stpipe("train", "run.dir=out", *SHARED, "--stage", "train") == 0
    capsys.readouterr()
    assert main(["train", "--from", "out", "--stage", "export"]) == 2
    assert "no stage 'export': its section `export` is empty" in capsys.readouterr().err
    assert main(["train", "--from", "out", "--stage", "card"]) == 2
    assert "First run: stpipe train --from out --stage save" in capsys.readouterr().err
    shutil.rmtree("out/checkpoints")
    assert main(["train", "--from", "out", "--stage", "save"]) == 2
    assert "reads checkpoints of out, which is not there. First run: stpipe train --from out --stage train" in capsys.readouterr().err


BROKEN = {"evaluate": "write_evaluation", "card": "write_card"}


@pytest.mark.parametrize("stage", list(BROKEN))
def test_a_stage_that_failed_is_finished_by_the_command_that_it_printed(
    stage: str, stpipe: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: object) -> None:
        raise ValueError("no room for it")

    with monkeypatch.context() as patch:
        patch.setattr(later, BROKEN[stage], broken)
        assert stpipe("train", "run.dir=out", *SHARED) == 5
    message = capsys.readouterr().err
    assert f"the model is saved in out/model, but stage '{stage}' failed: no room for it" in message
    assert (status()["state"], status()["exit_code"]) == ("partial", 5)
    assert status()["stages"][stage]["state"] == "failed"
    assert SentenceTransformer("out/model").encode(["w1 w2"]).shape == (1, 32), "the model is there"
    saved, trained = weights("out"), status()["stages"]["train"]
    Path("out").rename("moved")  # a run is where it lies
    command = shlex.split(message.split("Finish the run with ")[1].splitlines()[0].replace("--from out", "--from moved"))
    assert command[:3] == ["stpipe", "train", "--from"]
    assert main(command[1:]) == 0
    assert (status("moved")["state"], status("moved")["exit_code"], status("moved")["error"]) == ("finished", 0, None)
    assert status("moved")["stages"]["train"] == trained and weights("moved") == saved, "nothing was trained again"
    assert not Path("out").exists()
    assert len({name for split, *_, name, _ in metrics("moved") if split == "final"}) == len(
        [m for m in metrics("moved") if m[0] == "final"]
    )
    systems("moved")


def test_a_template_that_fails_is_corrected(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """It passes the check before training, which knows no metrics, and fails where there are some."""
    template = Path("card.md.j2")
    template.write_text("# {{ title }}\n{% for e in evaluations %}{{ 1 // 0 }}{% endfor %}\n")
    assert stpipe("train", "run.dir=out", *SHARED, f"card.template={template}") == 5
    assert "stage 'card' failed" in capsys.readouterr().err
    assert status()["stages"]["evaluate"]["state"] == "finished"
    template.write_text("---\n{{ front_matter }}\n---\n# {{ title }}, corrected\n")
    assert main(["train", "--from", "out", "trainer.resume=auto"]) == 0
    assert Path("out/model/README.md").read_text().rstrip().endswith("corrected")
    assert status()["state"] == "finished"


def test_one_stage_again_of_a_finished_run(stpipe: Command) -> None:
    assert stpipe("train", "run.dir=out", *SHARED) == 0
    first = metrics("out")
    for name in ("evaluate", "report"):
        assert name in LATER
        assert main(["train", "--from", "out", "--stage", name]) == 0
        assert status()["state"] == "finished"
    assert metrics("out") == first, "an evaluation that is done again is logged once"


def test_a_report_that_fails_is_partial_and_is_finished(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.pipeline import run

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_report", raising(ValueError("no ink")))
        assert stpipe("train", "run.dir=out", *SHARED) == 5
    assert status()["state"] == "partial" and status()["stages"]["report"]["state"] == "failed"
    assert main(["train", "--from", "out", "trainer.resume=auto"]) == 0
    assert status()["state"] == "finished" and Path("out/report.html").exists()


def raising(error: Exception) -> Callable[..., None]:
    def fail(*given: object, **named: object) -> None:
        raise error

    return fail


def test_a_repeated_run_is_another_run(stpipe: Command) -> None:
    assert stpipe("train", "run.dir=out", "run.name=first", *SHARED) == 0
    assert main(["train", "--from", "out"]) == 0
    assert weights("out-repeat") == weights("out") and metrics("out-repeat") == metrics("out")
