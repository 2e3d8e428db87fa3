"""Card data by kind of model: the documentation's names and members, what is collected, and cards of models without a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer as Peer
from sentence_transformers.cross_encoder.model_card import CrossEncoderModelCardData as PeerScores
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData as PeerDense
from sentence_transformers.sparse_encoder.model_card import SparseEncoderModelCardData as PeerSparse

import stpipe
from stpipe.cards.card import write_model_card
from stpipe.cards.citations import entry_key, grouped_citations
from stpipe.cards.collected import collected, read_collected, training_logs, write_collected
from stpipe.cards.data import CARD_DATA
from stpipe.cards.kinds import KINDS
from stpipe.cards.losses import LossFacts, get_config_dict
from stpipe.config.errors import ConfigError
from stpipe.core.rows import Rows
from stpipe.losses import CoSENTLoss, MatryoshkaLoss, MultipleNegativesRankingLoss
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.reports.run_record import read_run
from stpipe.reports.schema import run_schema
from tests.cards.reading import assert_publishable, head
from tests.models.tiny import make_encoder

PEERS = {"dense": PeerDense, "sparse": PeerSparse, "cross_encoder": PeerScores}
#: Members of sentence-transformers' classes that are for other inputs than text, or for its own machinery.
ELSEWHERE = {
    "local_files_only",  # stpipe's cards never ask a hub
    "eval_results_dict",  # keyed by evaluator objects there; eval_results here
    "label_example_list",
    "usage_examples_display",
    "code_carbon_callback",
    "_training_start_time",
    "evaluation_duration",
    "ir_model",
    "datasets",
    "similarities",
    "first_save",
    "widget_step",
    "save_dir",
    "_asset_cache",
    "_cached_dict",
    "template_path",
    "model",
    "model_type",
}


@pytest.mark.parametrize("kind", PEERS)
def test_the_documentations_names(kind: str) -> None:
    ours, theirs = CARD_DATA[kind], PEERS[kind]
    assert ours.__name__ == theirs.__name__ and getattr(stpipe, ours.__name__) is ours
    members = {f.name for f in dataclasses.fields(theirs)} - ELSEWHERE
    assert {"train_datasets", "eval_datasets", "citations", "training_logs", "widget", "language", "license"} <= members
    missing = [name for name in members if not hasattr(ours(), name)]
    assert not missing
    given = {f.name for f in dataclasses.fields(theirs) if f.init} - ELSEWHERE
    assert given == {f.name for f in dataclasses.fields(ours) if f.init}
    assert (ours.kind, ours.template, ours.pipeline_tag) == (kind, KINDS[kind].template, KINDS[kind].pipeline_tag)
    assert issubclass(ours, CARD_DATA["dense"])
    for method in ("set_losses", "set_widget_examples", "extract_dataset_metadata", "add_tags"):
        assert callable(getattr(ours, method)) and (method == "extract_dataset_metadata" or hasattr(theirs, method))


def test_losses_with_parameters_and_sources() -> None:
    data = CARD_DATA["dense"]()
    loss = MatryoshkaLoss(loss=MultipleNegativesRankingLoss(scale=30.0), dims=(16, 8))
    data.set_losses({"a": loss, "b": CoSENTLoss()})
    first, second = data.loss_facts()
    assert (first.source, first.names) == ("a", ("MatryoshkaLoss", "MultipleNegativesRankingLoss"))
    assert (second.source, second.name) == ("b", "CoSENTLoss")
    assert first.config["name"] == "matryoshka" and first.config["dims"] == [16, 8]
    assert first.config["loss"] == get_config_dict(MultipleNegativesRankingLoss(scale=30.0))
    assert first.config["loss"]["name"] == "mnrl" and first.config["loss"]["scale"] == 30.0
    assert data.tags == ["loss:MatryoshkaLoss", "loss:MultipleNegativesRankingLoss", "loss:CoSENTLoss"]
    assert [entry_key(c) for c in "\n\n".join(data.citations.values()).split("\n\n")] == [
        "kusupati2022matryoshka",
        "oord2018representation",
        "huang2024cosent",
    ]
    assert list(data.citations) == ["MatryoshkaLoss", "CoSENTLoss"]
    data.set_losses({"a": loss, "b": MatryoshkaLoss(loss=MultipleNegativesRankingLoss(scale=30.0), dims=(16, 8))})
    assert [f.source for f in data.loss_facts()] == [None], "one loss for all data sets is named once"


@dataclasses.dataclass(frozen=True)
class LossOfAUser:
    """No loss of stpipe, but with what a card asks of one."""

    margin: float = 0.5
    words: str = "/secret/words.txt"
    citation = "@misc{me2026loss,\n  title={A loss}\n}"
    wraps = ()

    def inner(self) -> tuple[Any, ...]:
        return ()


def test_a_loss_of_a_user_is_described_when_the_run_starts() -> None:
    """So that the card can be built again where its module is not."""
    data = CARD_DATA["sparse"]()
    data.set_losses({"default": LossOfAUser()})
    (found,) = data.loss_facts()
    assert (found.name, found.config) == ("LossOfAUser", {"name": "LossOfAUser", "margin": 0.5, "words": "words.txt"})
    assert "me2026loss" in data.citations["LossOfAUser"]


def test_a_source_of_several_losses_is_given_once() -> None:
    entry = "@misc{x,\n}"
    facts = [LossFacts(s, name, (name,), {}, (entry,)) for s, name in (("a", "First"), ("b", "Second"))]
    assert grouped_citations(facts) == {"First, Second": entry}
    assert grouped_citations([]) == {}


def test_there_and_back(tmp_path: Path) -> None:
    data = CARD_DATA["cross_encoder"](language=["de", "en"], license="mit", tags=["mine"])
    data.set_losses({"default": CoSENTLoss()})
    data.sessions = [{"from_step": 0, "to_step": 3, "seconds": 1.5}]
    write_collected(tmp_path, data)
    found = read_collected(tmp_path)
    again = CARD_DATA["cross_encoder"].from_dict({**found, "from_a_newer_version": 3})
    assert again == data and again.citations
    (tmp_path / "card.json").write_text("{", encoding="utf-8")
    assert read_collected(tmp_path) == {}


def test_what_other_files_hold(run_dir: Path) -> None:
    record = read_run(run_dir)
    data = collected(record, KINDS["dense"], run_schema(record))
    assert data.non_default_hyperparameters["trainer.batch_size"] == 64
    assert data.all_hyperparameters["trainer.eval_steps"] == 0.2 and "run.name" not in data.all_hyperparameters
    assert data.best_model_step == 160 and data.version["torch"] == "2.13.0"
    after = json.loads((run_dir / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))["systems"]["after"]
    assert data.eval_results == {"dev": after}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {r["step"]: r["value"] for r in lines if r["name"] == "loss" and r["split"] == "train"}
    scores = {r["step"]: r["value"] for r in lines if r["name"] == "dev_cosine_ndcg@10"}
    assert {r["Step"]: r["Training Loss"] for r in data.training_logs if "Training Loss" in r} == losses
    assert {r["Step"]: r["dev_cosine_ndcg@10"] for r in data.training_logs if "dev_cosine_ndcg@10" in r} == scores
    assert data.training_logs == training_logs(record) and len(scores) == 6


def test_widget_and_examples() -> None:
    rows = Rows({"anchor": ["q", "qq", "qqq"], "positive": ["p", "pp", "ppp"]}, None, "pair", {})
    data = CARD_DATA["dense"]()
    data.set_widget_examples(rows)
    assert data.widget == [{"source_sentence": "q", "sentences": ["p", "pp", "ppp"]}]
    off = CARD_DATA["dense"](generate_widget_examples=False)
    off.set_widget_examples(rows)
    assert off.widget == [] and off.usage_examples
    scores = CARD_DATA["cross_encoder"]()
    scores.set_widget_examples(rows)
    assert scores.widget == [] and scores.usage_examples == ["q", "p", "pp", "ppp"]


def test_a_saved_model_without_a_run_has_a_card(tmp_path: Path) -> None:
    """`model_card_data`, as the documentation gives it to a model; the card says what the directory knows and nothing more."""
    data = stpipe.SentenceTransformerModelCardData(
        language="en",
        license="apache-2.0",
        model_name="Tiny search",
        model_id="someone/tiny",
        train_datasets=[{"name": "NLI", "id": "sentence-transformers/all-nli"}, {"name": "ours"}],
        tags=["library"],
    )
    model = SentenceTransformer(modules=list(make_encoder("bert").stack), model_card_data=data, device="cpu")
    model.save_pretrained(tmp_path / "tiny")
    text = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    assert_publishable(text, tables=1)
    matter = head(text)
    assert (matter["license"], matter["language"], matter["datasets"]) == ("apache-2.0", "en", ["sentence-transformers/all-nli"])
    assert "library" in matter["tags"] and "generated_from_trainer" not in matter["tags"] and "model-index" not in matter
    for line in (
        "# Tiny search",
        "| Output dimensions | 32 |",
        'SentenceTransformer("someone/tiny")',
        "sentence-transformers/all-nli, ours",
    ):
        assert line in text, line
    assert "Repeat this run" not in text and "not evaluated" in text
    assert Peer(str(tmp_path / "tiny"), device="cpu").encode(["w1"]).shape == (1, 32)


def test_without_card_data_no_card_is_written(tmp_path: Path) -> None:
    SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu").save_pretrained(tmp_path / "tiny")
    assert not (tmp_path / "tiny" / "README.md").exists()
    assert "# tiny\n" in write_model_card(tmp_path / "tiny").read_text(encoding="utf-8")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model directory"):
        write_model_card(tmp_path)
    assert not list(tmp_path.iterdir())
