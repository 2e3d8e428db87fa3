"""The model card of whole runs: what is collected when it happens, for each kind of model, and a card that fails costs no model."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpipe.cards.card import write_card
from stpipe.config.errors import StpipeError
from stpipe.models.sentence_transformer import SentenceTransformer
from tests.cards.reading import assert_publishable, execute, head, snippets
from tests.models.tiny_splade import save_checkpoint
from tests.pipeline.conftest import Command, word
from tests.pipeline.test_resume import stop_after

SHORT = ("run.dir=out", "trainer.max_steps=4", "trainer.log_steps=1", "trainer.eval_steps=2", "card.license=apache-2.0", "card.language=en")
RETRIEVAL = "+evaluator.dev.name=information_retrieval"


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mlm"))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"dataset.train={path}"


def lists(tmp_path: Path) -> str:
    documents = [[f"{word(i + k)} {word(i * 3 + k)}" for k in range(2 + i % 4)] for i in range(56)]
    rows = [
        {"query": f"{word(i)} {word(i + 9)}", "documents": d, "label": [float(k == 0) for k in range(len(d))]}
        for i, d in enumerate(documents)
    ]
    return write(tmp_path / "lists.jsonl", rows)


def classes(tmp_path: Path) -> str:
    rows = [{"anchor": f"{word(i)} w5", "positive": f"{word(i + i % 3)} w6", "label": ("no", "perhaps", "yes")[i % 3]} for i in range(57)]
    return write(tmp_path / "classes.jsonl", rows)


def collected() -> dict[str, Any]:
    return json.loads(Path("out/card.json").read_text(encoding="utf-8"))


def card() -> str:
    return Path("out/model/README.md").read_text(encoding="utf-8")


def run_snippets(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, dict[str, Any]]]:
    """Output and names of each snippet of the card, as it stands there, in the folder of the card."""
    codes = snippets(card())
    assert sorted(codes) == ["sentence_transformers", "stpipe"]
    with monkeypatch.context() as patch:
        patch.chdir("out/model")
        return {package: execute(code) for package, code in codes.items()}


def test_dense(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stpipe("train", *SHORT, RETRIEVAL, "card.model_name=Tiny search", "card.examples=true") == 0
    text, stored = card(), collected()
    assert_publishable(text)
    matter = head(text)
    assert (matter["license"], matter["language"], matter["pipeline_tag"]) == ("apache-2.0", "en", "sentence-similarity")
    assert {"dataset_size:48", "loss:MultipleNegativesRankingLoss", "generated_from_trainer"} <= set(matter["tags"])
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    (train,), (held_out,) = stored["train_datasets"], stored["eval_datasets"]
    assert (train["size"], held_out["size"], train["columns"]) == (48, 8, ["anchor", "positive"])
    assert train["files"]["pairs.jsonl"]["bytes"] == Path("pairs.jsonl").stat().st_size
    assert train["loss"]["name"] == "MultipleNegativesRankingLoss" and train["loss"]["config"]["scale"] == 20.0
    assert held_out["loss"] is None and train["fingerprint"] != held_out["fingerprint"]
    assert all(row in [{k: r[k] for k in ("anchor", "positive")} for r in rows] for row in train["samples"]) and len(train["samples"]) == 3
    texts = [r["anchor"] for r in rows] + [r["positive"] for r in rows]
    assert set(stored["usage_examples"]) <= set(texts) and len(stored["usage_examples"]) == 4
    (entry,) = matter["widget"]
    assert [entry["source_sentence"], *entry["sentences"]] == stored["usage_examples"]
    # Tokens of all 48 rows, counted again by the model's tokenizer.
    lengths = [len(ids) for ids in SentenceTransformer("out/model", device="cpu").tokenizer([r["positive"] for r in rows])["input_ids"]]
    assert train["stats"]["positive"]["tokens"]["max"] <= max(lengths)
    whole = 48 * train["stats"]["positive"]["tokens"]["mean"] + 8 * held_out["stats"]["positive"]["tokens"]["mean"]
    assert whole == pytest.approx(sum(lengths)) and sum(lengths) > 100
    found = run_snippets(monkeypatch)
    theirs, ours = (found[package][1]["similarities"] for package in ("sentence_transformers", "stpipe"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.shape == (1, 2) and abs(ours).max() > 0.01


def test_what_a_run_collects_and_shows_without_rows_of_its_data(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", *SHORT, RETRIEVAL) == 0
    text, stored = card(), collected()
    (session,) = stored["sessions"]
    assert (session["from_step"], session["to_step"]) == (0, 4)
    assert 0 < session["evaluation_seconds"] < session["seconds"] < 200
    for line in (
        "| `trainer.max_steps` | 4 | null |",
        "<details><summary>All settings</summary>",
        "| `optimizer.weight_decay` | 0 |",
        "| Other candidates (negatives) per anchor | 7 |",
        "| Padding share of computed tokens (median) |",
        "| Samples per second (median) |",
        "- Layout of the tokens, tried before the first step: packed",
        "stpipe train --from RUN_DIRECTORY",
        "| torch | 2.",
    ):
        assert line in text, line
    for written in (text, json.dumps(stored)):
        assert str(Path.cwd()) not in written, "no place on this disk"
    assert stored["usage_examples"] == stored["widget"] == [] and not any(d["samples"] for d in stored["train_datasets"])
    shown = text.split("## Training")[0]
    assert not re.search(r"\bw\d+ w\d+\b", shown) and "source_sentence: how to read" in shown
    rebuilt(text, capsys)


def rebuilt(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes from the files of the run, by the run's name or its model's, in well below a second."""
    Path("out/model/README.md").unlink()
    began = time.process_time()
    write_card(Path("out"), Path("out/model"))
    assert time.process_time() - began < 1
    for name in ("out", "out/model"):
        Path("out/model/README.md").unlink()
        capsys.readouterr()
        assert stpipe_card(name) == 0
        assert capsys.readouterr().out.strip().endswith("README.md")
        assert card() == text
    assert stpipe_card("out", "card.license=mit", "card.language=de, en", "card.model_name=Other") == 0
    assert head(card())["license"] == "mit" and head(card())["language"] == ["de", "en"] and "# Other\n" in card()
    assert "license: apache-2.0" in Path("out/config.yaml").read_text(encoding="utf-8"), "the run stays what it was"


def test_sparse(stpipe: Command, masked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=splade", f"model.name_or_path={masked}", "model.check=off", "loss=splade")
    assert stpipe("train", *SHORT, RETRIEVAL, *options) == 0
    text, stored = card(), collected()
    assert_publishable(text)
    matter = head(text)
    assert stored["kind"] == "sparse" and matter["pipeline_tag"] == "feature-extraction" and "splade" in matter["tags"]
    assert len(matter["widget"]) == 2
    (loss,) = stored["losses"]
    assert loss["names"] == ["SpladeLoss", "MultipleNegativesRankingLoss"] and "formal2022distillation" in text
    found = run_snippets(monkeypatch)
    theirs, ours = (found[package][1]["similarities"] for package in ("sentence_transformers", "stpipe"))
    np.testing.assert_allclose(ours.to_dense() if ours.is_sparse else ours, theirs, rtol=1e-4, atol=1e-5)


def test_reranker(stpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=cross_encoder", lists(tmp_path), "dataset.format=query-documents", "+evaluator.dev.name=cross_encoder_reranking")
    assert stpipe("train", *SHORT, *options, "card.examples=true") == 0
    text, stored = card(), collected()
    assert_publishable(text)
    assert stored["kind"] == "cross_encoder" and head(text)["pipeline_tag"] == "text-ranking" and "widget" not in head(text)
    stats = stored["train_datasets"][0]["stats"]
    assert stats["documents"]["items"]["min"] == 2 and stats["documents"]["items"]["max"] == 5
    assert stats["label"]["type"] == "list of floats" and stats["label"]["values"]["max"] == 1
    assert stored["losses"][0]["name"] == "LambdaLoss", "the loss that the data chose, which the configuration does not name"
    assert "wang2018lambdaloss" in text and "`LambdaLoss` with these parameters" in text
    found = run_snippets(monkeypatch)
    theirs, ours = (found[package][1]["scores"] for package in ("sentence_transformers", "stpipe"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert len(ours) == 2


@pytest.mark.slow
def test_classifier(stpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model=cross_encoder", classes(tmp_path), "loss=cross_entropy", "model.num_labels=3")
    assert stpipe("train", *SHORT, *options, "+evaluator.dev.name=cross_encoder_classification") == 0
    text, stored = card(), collected()
    assert_publishable(text)
    assert head(text)["pipeline_tag"] == "text-classification" and "reranker" not in head(text)["tags"]
    shares = stored["train_datasets"][0]["stats"]["label"]["classes"]
    assert set(shares) == {"no", "perhaps", "yes"} and sum(shares.values()) == pytest.approx(1)
    found = run_snippets(monkeypatch)
    theirs, ours = (found[package][1]["scores"] for package in ("sentence_transformers", "stpipe"))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.shape == (2, 3)


BROKEN = "---\n{{ front_matter }}\n---\n\n{{ evaluations[9].name }}\n"


def test_a_template_that_fails_costs_only_the_card(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.md.j2").write_text(BROKEN, encoding="utf-8")
    assert stpipe("train", *SHORT, "card.template=mine.md.j2") == 5
    message = capsys.readouterr().err
    assert "card_template.md.j2 line 5" in message and "trainer.resume=auto" in message
    status = json.loads(Path("out/status.json").read_text(encoding="utf-8"))
    assert (status["state"], status["exit_code"]) == ("partial", 5)
    states = {name: stage["state"] for name, stage in status["stages"].items()}
    assert (states["train"], states["save"], states["card"]) == ("finished", "finished", "failed")
    assert SentenceTransformer("out/model", device="cpu").encode(["w1"]).shape == (1, 32)
    assert not Path("out/model/README.md").exists()
    weights = Path("out/model/model.safetensors").read_bytes()
    # The card alone, with a template that works ...
    assert stpipe_card("out", "card.template=good.md.j2", good="# by us") == 0
    assert "# by us" in card()
    # ... or the whole run finished, which trains nothing again.
    Path("mine.md.j2").write_text(BROKEN.replace("{{ evaluations[9].name }}", "# {{ title }}"), encoding="utf-8")
    assert stpipe("train", *SHORT, "card.template=mine.md.j2", "trainer.resume=auto") == 0
    assert Path("out/model/model.safetensors").read_bytes() == weights
    assert json.loads(Path("out/status.json").read_text(encoding="utf-8"))["state"] == "finished"
    assert len(collected()["sessions"]) == 1


def stpipe_card(*words: str, good: str = "") -> int:
    from stpipe.cli.main import main

    Path("good.md.j2").write_text(f"---\n{{{{ front_matter }}}}\n---\n\n{good}\n", encoding="utf-8")
    return main(["card", *words])


def test_a_template_that_cannot_work_is_refused_before_anything_is_written(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.md.j2").write_text("{{ front_mater }}", encoding="utf-8")
    assert stpipe("train", *SHORT, "card.template=mine.md.j2") == 2
    assert "Did you mean 'front_matter'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_interrupted_run_keeps_its_sessions(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("run.dir=out", "trainer.max_steps=8", "trainer.save_steps=2", "trainer.num_epochs=3")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert stpipe("train", *options) == 130
    assert stpipe("train", *options, "trainer.resume=auto") == 0
    first, second = collected()["sessions"]
    assert (first["from_step"], first["to_step"], second["from_step"], second["to_step"]) == (0, 5, 4, 8)
    assert "| Resumed | once |" in card()


@pytest.mark.slow
def test_energy(stpipe: Command) -> None:
    """Measured by codecarbon itself, without a network, in the run and in the card."""
    pytest.importorskip("codecarbon")
    options = ("trainer.max_steps=60", "trainer.num_epochs=40", "trainer.save_steps=20")
    assert stpipe("train", "run.dir=out", *options, "card.energy=DEU") == 0
    (session,) = collected()["sessions"]
    energy = session["energy"]
    assert 0 < energy["energy_kwh"] < 1 and 0 < energy["emissions_g"] < 1000 and energy["country"] == "Germany"
    assert 0 < 3600 * energy["hours"] <= session["seconds"] + 1
    entry = head(card())["co2_eq_emissions"]
    assert entry["source"] == "codecarbon" and entry["emissions"] == energy["emissions_g"]
    assert "### Energy" in card()
    assert_publishable(card())


def test_energy_that_cannot_be_measured_costs_no_run(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    codecarbon = pytest.importorskip("codecarbon")

    def broken(*args: Any, **options: Any) -> None:
        raise StpipeError("no meter")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", broken)
    assert stpipe("train", "run.dir=out", "trainer.max_steps=2", "card.energy=DEU") == 0
    assert "energy" not in collected()["sessions"][0] and "### Energy" not in card()
