"""What is trained and killed: small runs of every task, with every sampler, in one process and in two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: 48 rows to train on in batches of 8: an epoch of six steps, checkpoints after every third, evaluations after every fourth.
SHARED = (
    "trainer.progress=off",
    "trainer.batch_size=8",
    "trainer.max_steps=14",
    "trainer.save_steps=3",
    "trainer.eval_steps=4",
    "trainer.log_steps=2",
    "trainer.num_workers=0",
    "trainer.probe_first_step=false",
    "dataset.eval_rows=8",
    "optimizer.lr=1e-3",
    "offline=true",
)
RETRIEVAL = "+evaluator.dev.name=information_retrieval"


@dataclass(frozen=True)
class Cell:
    """A run. model: dense, masked or reranker, the start weights; data: a file of `write_data`; processes: of the run."""

    name: str
    model: str
    data: str
    overrides: tuple[str, ...]
    processes: int = 1

    def command(self, folder: Path) -> list[str]:
        """Arguments of `stpipe` without those that say where."""
        weights = f"model.name_or_path={folder / self.model}"
        data = () if self.data == "sources" else (f"dataset.train={folder / self.data}.jsonl",)
        options = [option.replace("FOLDER", str(folder)) for option in self.overrides]
        given = {option.split("=")[0].lstrip("+") for option in options}
        return ["train", weights, *data, *(o for o in SHARED if o.split("=")[0] not in given), *options]


SPLADE = ("model=splade", "model.check=off", "loss=splade", "loss.document_active_dims=20")
BEST = ("trainer.best_metric=dev_cosine_mrr@10",)
TWO_SOURCES = "dataset.sources={a: {train: FOLDER/pairs.jsonl, weight: 2.0}, b: {train: FOLDER/scored.jsonl, loss: {name: cosent}}}"
CELLS = (
    Cell("dense random", "dense", "pairs", ("model=dense", "sampler=random", RETRIEVAL, *BEST)),
    Cell("dense no_duplicates ema", "dense", "doubles", ("model=dense", "trainer.ema_decay=0.9", "trainer.accumulation_steps=2", "trainer.num_epochs=3", RETRIEVAL)),
    Cell("dense group_by_label", "dense", "classes", ("model=dense", "loss=batch_hard_triplet", "sampler=group_by_label")),
    Cell("dense softmax workers", "dense", "nli", ("model=dense", "loss=softmax", "trainer.num_workers=1")),
    Cell("dense weighted mixture", "dense", "sources", ("model=dense", TWO_SOURCES, "sampler={name: random, mixing: weighted}", "strategy=recompute", "strategy.token_budget=64")),
    Cell("dense early stopping", "dense", "pairs", ("model=dense", RETRIEVAL, *BEST, "trainer.early_stopping_patience=1", "trainer.eval_steps=2", "optimizer.lr=1e-5")),
    Cell("sparse splade", "masked", "pairs", (*SPLADE, RETRIEVAL)),
    Cell("sparse csr random", "dense", "pairs", ("model=csr", "loss=csr", "sampler=random")),
    Cell("reranker pairs random", "reranker", "scored", ("model=cross_encoder", "loss=binary_cross_entropy", "sampler=random")),
    Cell("reranker lists", "reranker", "lists", ("model=cross_encoder", "dataset.format=query-documents", "+evaluator.dev.name=cross_encoder_reranking")),
    Cell("reranker no_duplicates", "reranker", "doubles", ("model=cross_encoder", "loss=reranker_mnrl", "sampler=no_duplicates")),
    Cell("dense ddp", "dense", "doubles", ("model=dense", "trainer.batch_size=4", "backend=ddp", RETRIEVAL, *BEST), 2),
    Cell("sparse ddp", "masked", "pairs", (*SPLADE, "trainer.batch_size=4", "backend=ddp"), 2),
    Cell("reranker ddp", "reranker", "scored", ("model=cross_encoder", "loss=binary_cross_entropy", "trainer.batch_size=4", "backend=ddp"), 2),
    Cell("dense fsdp2", "dense", "pairs", ("model=dense", "trainer.batch_size=4", "backend=fsdp2", RETRIEVAL), 2),
    Cell("dense zero2", "dense", "pairs", ("model=dense", "trainer.batch_size=4", "backend=deepspeed_zero2", RETRIEVAL), 2),
    Cell("dense zero3", "dense", "pairs", ("model=dense", "trainer.batch_size=4", "backend=deepspeed_zero3", "backend.small_parameters=0"), 2),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Write start weights and data, unless they are there."""
    if (folder / "ready").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder)
    for name, rows in data().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ready").touch()


def write_weights(folder: Path) -> None:
    """Two-layer BERTs with random weights and dropout: dense, with a head for SPLADE, with one output."""
    import torch
    from transformers import BertForSequenceClassification

    from stpipe.models.sentence_transformer import SentenceTransformer
    from tests.models.tiny import CONFIGS, make_encoder, make_tokenizer
    from tests.models.tiny_splade import save_checkpoint

    SentenceTransformer(modules=list(make_encoder("bert").stack)).save_pretrained(folder / "dense")
    save_checkpoint(folder / "masked")
    config = CONFIGS["bert"]()
    config.num_labels = 1
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "reranker")
    make_tokenizer().save_pretrained(folder / "reranker")


def data() -> Mapping[str, list[dict[str, Any]]]:
    """56 rows in each format; in `doubles` some texts occur in several rows."""

    def text(i: int, length: int) -> str:
        return " ".join(f"w{(i * 3 + k) % 90}" for k in range(length))

    def pair(i: int) -> dict[str, Any]:
        return {"anchor": f"w{i % 90} w{(i + 7) % 90}", "positive": text(i, 1 + i % 9)}

    lists = [{"query": text(i, 2), "documents": [text(i + k, 1 + k) for k in range(2 + i % 5)]} for i in range(56)]
    return {
        "pairs": [pair(i) for i in range(56)],
        "doubles": [{**pair(i), "positive": text(i // 3, 1 + i // 3 % 9)} for i in range(56)],
        "scored": [{**pair(i), "label": i % 5 / 4} for i in range(56)],
        "classes": [{"anchor": text(i, 2 + i % 7), "label": i % 6} for i in range(56)],
        "nli": [{**pair(i), "label": i % 3} for i in range(56)],
        "lists": [{**row, "label": [float(k == 0) for k in range(len(row["documents"]))]} for row in lists],
    }
