"""The card of sparse models: how sparse they are, and snippets that run under both packages with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cards.reading import card, change, execute, head, snippets
from tests.cards.sparse_models import MODELS, save_sparse


@pytest.fixture(scope="session")
def saved(package_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a model -> its directory, made once."""
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = save_sparse(name, package_model, tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return directory


def place(model: Path, run_dir: Path) -> Path:
    """The model's files as those of the run."""
    (run_dir / "model").mkdir()
    for source in model.iterdir():
        (run_dir / "model" / source.name).symlink_to(source)
    return run_dir


FACTS = {
    "splade": (
        ["splade"],
        [
            "A SPLADE model: it maps texts to weights of the 30,522 words of its vocabulary, most of them 0, and compares them by dot",
            "| Output dimensions | 30,522, one a word of the vocabulary |",
            "| Kept of each text | all weights |",
            "(0) Transformer: backbone=BertForMaskedLM, hidden_size=384",
            "(1) SpladePooling: pooling_strategy=max, activation_function=relu",
        ],
    ),
    "splade_inference_free": (
        ["asymmetric", "inference-free", "splade"],
        [
            "An inference-free SPLADE model: it maps texts to weights of the 30,522 words",
            "a query only looks up one stored weight for each of its words",
            "(0) Router: default_route=document\n    query:\n        (0) SparseStaticEmbedding: frozen=false\n    document:\n        (0) Transformer:",
            "        (1) SpladePooling: pooling_strategy=max",
        ],
    ),
    "csr": (
        ["csr"],
        [
            "A CSR model (contrastive sparse representation): it maps texts to 1,536 learned features, of which at most 96 are active",
            "| Output dimensions | 1,536 |",
            "| Kept of each text | the 96 largest weights (max_active_dims) |",
            "| Longest text | 100 tokens; what is longer is cut |",
            "(3) SparseAutoEncoder: input_dim=384, hidden_dim=1536, k=96",
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_the_card_says(sparse_run_dir: Path, saved: Callable[[str], Path], name: str) -> None:
    tags, lines = FACTS[name]
    text = card(place(saved(name), sparse_run_dir))
    matter = head(text)
    assert (matter["pipeline_tag"], matter["library_name"]) == ("feature-extraction", "sentence-transformers")
    common = ["generated_from_trainer", "stpipe", "dataset_size:4000", "loss:SpladeLoss", "loss:MultipleNegativesRankingLoss"]
    assert matter["tags"] == ["sentence-transformers", "sparse-encoder", "sparse", *tags, *common]
    for line in (*lines, "| Similarity function | dot |", "| Active dimensions | 31.2 in a query, 125 in a document, on average"):
        assert line in text, line
    assert ("model.decode(" in text) == (name != "csr"), "features of an autoencoder are no words"


def test_the_numbers_of_sparsity(sparse_run_dir: Path, saved: Callable[[str], Path]) -> None:
    text = card(place(saved("splade"), sparse_run_dir))
    ndcg = json.loads((sparse_run_dir / "evaluation" / "dev" / "metrics.json").read_text(encoding="utf-8"))["systems"]
    before, after = (ndcg[s]["dot_ndcg@10"] for s in ("before", "after"))
    for line in (
        "| Active dimensions of a document | 1,400 | 125 | \u221291.1% |",
        "| Share of zeros in a query | 0.9885 | 0.9990 | \u2013 |",
        "| Documents in the longest posting list | 90 | 90 | 0.0% |",
        "| Cut to | Before | After | In a query | In a document | FLOPS |",
        f"| 8 | {before * (1 - 1 / 8):.4f} | {after * (1 - 1 / 8):.4f} | 8 | 8 | 0.0800 |",
        f"| no cut | {before:.4f} | {after:.4f} | 31.2 | 125 | 1.25 |",
        "| Steered by the weights of the loss | document_active_dims to 120 |",
        "- Calibrated: 29,505 active words a text before, 715 after, of 30,522",
        "- Start weights: 2.8% of the words active &lt;b>",
        '"Before" is the model before its first step',
    ):
        assert line in text, line
    body = text.split("---\n", 2)[2]
    assert "query_active_dims" not in body, "costs stand in their own table"
    (index,) = head(text)["model-index"]
    (result,) = index["results"]
    assert result["task"] == {"type": "sparse-information-retrieval", "name": "Sparse Information Retrieval"}
    named = {m["type"] for m in result["metrics"]}
    assert {"dot_ndcg@10", "query_active_dims", "avg_flops"} <= named
    assert not [n for n in named if n.endswith("_dims") and "_at_" in n], "a cut model is another model"


def test_a_model_that_is_not_sparse_is_not_called_so(sparse_run_dir: Path, saved: Callable[[str], Path]) -> None:
    """Claims follow the evaluation; without one there are none."""
    path = sparse_run_dir / "evaluation" / "dev" / "metrics.json"
    systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
    systems["after"]["corpus_active_dims"] = 20_000.0
    change(path, systems=systems)
    place(saved("splade"), sparse_run_dir)
    assert "words of its vocabulary, and compares" in card(sparse_run_dir)
    path.unlink()
    text = card(sparse_run_dir)
    assert "words of its vocabulary, and compares" in text
    assert "| Active dimensions | not measured |" in text


def test_routes_with_limits_of_their_own(sparse_run_dir: Path, saved: Callable[[str], Path]) -> None:
    place(saved("splade_inference_free"), sparse_run_dir)
    folder = sparse_run_dir / "model" / "query_0_SparseStaticEmbedding"
    source = folder.resolve()
    folder.unlink()
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    limits = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**limits, "model_max_length": 33}), encoding="utf-8")
    assert "| Longest text | query 33 tokens, document 256 tokens; what is longer is cut |" in card(sparse_run_dir)


@pytest.mark.parametrize("retrieval", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_snippets_run_and_agree(
    sparse_run_dir: Path, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, retrieval: bool
) -> None:
    """Each as it stands in the card, in the folder of the card; the same similarities and the same words from both packages."""
    place(saved(name), sparse_run_dir)
    if not retrieval:
        change(sparse_run_dir / "evaluation" / "dev" / "metrics.json", evaluator="embedding_similarity")
    codes = snippets(card(sparse_run_dir))
    assert sorted(codes) == ["sentence_transformers", "stpipe"]
    sides = retrieval or name == "splade_inference_free"  # a query has its own way there
    monkeypatch.chdir(sparse_run_dir / "model")
    found = {}
    for package, code in codes.items():
        assert ("encode_query" in code) == sides
        printed, names = execute(code)
        width = 1536 if name == "csr" else 30522
        shapes = (
            f"torch.Size([1, {width}]) torch.Size([2, {width}]) torch.Size([1, 2])"
            if sides
            else f"torch.Size([3, {width}]) torch.Size([3, 3])"
        )
        assert printed.startswith(f"{shapes}\n{{'active_dims': ")
        scores = names["similarities"]
        assert (scores[0, 0] > scores[0, 1]) if sides else (scores[0, 1] > scores[0, 2] > 0)
        found[package] = scores, names["words"] if name != "csr" else []
    theirs, ours = found["sentence_transformers"], found["stpipe"]
    assert ours[0].numpy() == pytest.approx(theirs[0].numpy(), rel=1e-4)
    assert [w for w, _ in ours[1]] == [w for w, _ in theirs[1]]
    assert len(ours[1]) == (0 if name == "csr" else 5)
