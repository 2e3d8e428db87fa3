"""What scripts/equivalence.py trains: every loss with every number of hard negatives that it takes, on small models and random texts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertModel

from stpipe.config.build import build_component
from stpipe.config.errors import ConfigError
from stpipe.config.formats import FORMATS
from stpipe.config.load import load_config
from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.tokens import Tokens
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Dense, MaskedLanguageModel, Normalize, Pooling, SparseAutoEncoder, SpladePooling, Transformer

WIDTH, VOCABULARY = 16, 60
#: Rows of the batches of a step, of all processes together: no number of processes divides them, and the second batch is smaller.
ROWS = (13, 9)
NEGATIVES = (0, 1, 3)
#: Asked of `validate` where a loss takes no data with so many negatives.
USUAL = {0: "pair", 1: "triplet", 3: "n-tuple"}

TUPLES: Mapping[int, str] = MappingProxyType(USUAL)
SCORED: Mapping[int, str] = MappingProxyType({1: "n-tuple-scores", 3: "n-tuple-scores"})
MARGINS: Mapping[int, str] = MappingProxyType({1: "triplet-score", 3: "n-tuple-scores"})
LISTS: Mapping[int, str] = MappingProxyType({0: "query-documents", 1: "triplet", 3: "n-tuple"})


def only(format: str) -> Mapping[int, str]:
    """Data without negatives."""
    return MappingProxyType({0: format})


@dataclass(frozen=True)
class Task:
    """A loss as the configuration says it, the kind of small model it trains, and its data by number of hard negatives.

    learns: it has parameters of its own; twin: it trains a second encoder; classes: of the labels; vector: width of teacher vectors.
    """

    overrides: tuple[str, ...]
    formats: Mapping[int, str]
    model: str = "dense"
    learns: bool = False
    twin: bool = False
    classes: int = 3
    vector: int = WIDTH

    def format(self, negatives: int) -> str:
        return self.formats.get(negatives, USUAL[negatives])


def loss(*overrides: str) -> tuple[str, ...]:
    """Overrides that choose a loss by name and set its keys."""
    return (f"loss={overrides[0]}", *(f"loss.{o}" for o in overrides[1:]))


SPLADE = ("query_weight=0.5", "document_weight=0.4")
TASKS: dict[str, Task] = {
    "mnrl": Task(loss("mnrl"), TUPLES),
    "mnrl, four directions": Task(
        loss(
            "mnrl", "directions=[query_to_doc,query_to_query,doc_to_query,doc_to_doc]", "hardness_mode=all_negatives", "hardness_strength=5"
        ),
        TUPLES,
    ),
    "mnrl, learned scale": Task(loss("mnrl", "learn_scale=true"), TUPLES, learns=True),
    "mega_batch_margin": Task(loss("mega_batch_margin"), TUPLES),
    "sum of mnrl and global_orthogonal_regularization": Task(
        loss("sum", "terms={a: {loss: {name: mnrl}}, b: {loss: {name: global_orthogonal_regularization}, weight: 0.5}}"), TUPLES
    ),
    "matryoshka of mnrl": Task(loss("matryoshka", "dims=[16,8]", "loss={name: mnrl}"), TUPLES),
    "adaptive_layer of mnrl": Task(loss("adaptive_layer", "loss={name: mnrl}"), TUPLES),
    "matryoshka_2d of mnrl": Task(loss("matryoshka_2d", "dims=[16,8]", "loss={name: mnrl}"), TUPLES),
    "triplet": Task(loss("triplet", "triplet_margin=1.0"), {1: "triplet", 3: "n-tuple"}),
    "matryoshka of triplet": Task(
        loss("matryoshka", "dims=[16,8]", "loss={name: triplet, triplet_margin: 1.0}"), {1: "triplet", 3: "n-tuple"}
    ),
    "angle": Task(loss("angle"), {0: "pair-score", 1: "triplet", 3: "n-tuple"}),
    "cosent": Task(loss("cosent"), only("pair-score")),
    "matryoshka of cosent": Task(loss("matryoshka", "dims=[16,8]", "loss={name: cosent}"), only("pair-score")),
    "cosine_similarity": Task(loss("cosine_similarity"), only("pair-score")),
    "sum of cosine_similarity and cosent": Task(
        loss("sum", "terms={a: {loss: {name: cosine_similarity}}, b: {loss: {name: cosent}, weight: 0.5}}"), only("pair-score")
    ),
    "contrastive": Task(loss("contrastive", "margin=0.9"), only("pair-class"), classes=2),
    "online_contrastive": Task(loss("online_contrastive", "margin=0.9"), only("pair-class"), classes=2),
    "softmax": Task(loss("softmax", "num_labels=3"), only("pair-class"), learns=True),
    **{name: Task(loss(name), only("labelled-text")) for name in ("batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet")},
    "batch_hard_soft_margin_triplet": Task(loss("batch_hard_soft_margin_triplet"), only("labelled-text")),
    "mse": Task(loss("mse"), only("pair-vector")),
    "embed_distill": Task(loss("embed_distill"), only("pair-vector")),
    "embed_distill, learned map": Task(loss("embed_distill", "projection_dim=12"), only("pair-vector"), learns=True, vector=12),
    "margin_mse": Task(loss("margin_mse"), MARGINS),
    "distill_kl_div": Task(loss("distill_kl_div"), SCORED),
    "denoising_auto_encoder": Task(loss("denoising_auto_encoder"), only("text"), learns=True),
    "gist_embed": Task(loss("gist_embed", "guide={model: some/guide}"), TUPLES),
    "contrastive_tension": Task(loss("contrastive_tension", "learn_scale=false"), only("text"), twin=True),
    "contrastive_tension, learned scale": Task(loss("contrastive_tension"), only("text"), learns=True, twin=True),
    "contrastive_tension_pairs": Task(loss("contrastive_tension_pairs"), only("pair-class"), twin=True, classes=2),
    "splade of mnrl": Task(loss("splade", "loss={name: mnrl, similarity: dot, scale: 1}", *SPLADE), TUPLES, "sparse"),
    "splade of sparse_mnrl": Task(loss("splade", "loss={name: sparse_mnrl}", *SPLADE), TUPLES, "sparse"),
    "splade of cosent": Task(loss("splade", "loss={name: cosent, similarity: dot, scale: 1}", *SPLADE), only("pair-score"), "sparse"),
    "splade of margin_mse": Task(loss("splade", "loss={name: margin_mse}", *SPLADE), MARGINS, "sparse"),
    "splade of sparse_distill_kl_div": Task(loss("splade", "loss={name: sparse_distill_kl_div}", *SPLADE), SCORED, "sparse"),
    "csr of mnrl": Task(loss("csr"), TUPLES, "csr"),
    **{name: Task(loss(name), LISTS, "cross_encoder") for name in ("lambda", "ranknet", "listnet", "listmle", "plistmle", "adr_mse")},
    "binary_cross_entropy": Task(loss("binary_cross_entropy"), LISTS, "cross_encoder"),
    "sum of lambda and binary_cross_entropy": Task(
        loss("sum", "terms={a: {loss: {name: lambda}}, b: {loss: {name: binary_cross_entropy}, weight: 0.5}}"), LISTS, "cross_encoder"
    ),
    "reranker_mse": Task(loss("reranker_mse"), {0: "query-documents", 1: "n-tuple-scores", 3: "n-tuple-scores"}, "cross_encoder"),
    "reranker_margin_mse": Task(loss("reranker_margin_mse"), MARGINS, "cross_encoder"),
    "reranker_mnrl": Task(loss("reranker_mnrl"), TUPLES, "cross_encoder"),
    "cross_entropy": Task(loss("cross_entropy"), only("pair-class"), "classifier"),
}
#: Small model -> the group option that stands for it.
MODELS = {"dense": "dense", "sparse": "splade", "csr": "csr", "cross_encoder": "cross_encoder", "classifier": "cross_encoder"}
#: Kind of model, of engine/views.py.
KINDS = {"dense": "dense", "sparse": "sparse", "csr": "sparse", "cross_encoder": "cross_encoder", "classifier": "cross_encoder"}


@dataclass(frozen=True)
class Answer:
    """What `validate` says of a combination. messages: of its problems, each beginning with a key; loss: as it is built when there are none;
    seconds: of processor time that it took."""

    messages: tuple[str, ...]
    loss: Loss | None
    seconds: float = field(compare=False)


@cache
def validated(task: str, negatives: int, strategy: str, backend: tuple[str, ...]) -> Answer:
    """Ask the checks of `stpipe validate`; backend: overrides that choose it."""
    spec = TASKS[task]
    overrides = [
        f"model={MODELS[spec.model]}",
        "model.name_or_path=some/model",
        "dataset.train=some/data",
        f"dataset.format={spec.format(negatives)}",
        f"strategy={strategy}",
        "trainer.accumulation_steps=2",
        *spec.overrides,
        *backend,
    ]
    began = time.process_time()
    try:
        loaded = load_config(overrides)
    except ConfigError as error:
        return Answer(tuple(f"{p.key}: {p.message}" for p in error.problems), None, time.process_time() - began)
    return Answer((), build_component("loss", loaded.values["loss"]), time.process_time() - began)


def loss_of(task: str, negatives: int) -> Loss:
    """The loss of a task, from a configuration that passes."""
    found = validated(task, negatives, "plain", ())
    assert found.loss is not None, f"{task} with {negatives} negatives: {found.messages}"
    return found.loss


def make_encoder(kind: str) -> Encoder:
    """Two small layers without dropout; their embeddings, weights of words (SPLADE), the code of an autoencoder, or scores."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.5,  # texts that differ: sums of nearly equal vectors that cancel out say little about a backend
    )
    identity = "torch.nn.modules.linear.Identity"
    if kind == "sparse":
        return packed(Encoder([MaskedLanguageModel(BertForMaskedLM(config), tokenizer=None), SpladePooling()]))
    tails: dict[str, list[nn.Module]] = {
        "dense": [Normalize()],
        "csr": [SparseAutoEncoder(WIDTH, hidden_dim=32, k=4, k_aux=8)],
        "cross_encoder": [Dense(WIDTH, out_features=1, activation=identity)],
        "classifier": [Dense(WIDTH, out_features=3, activation=identity)],
    }
    backbone = Transformer(BertModel(config, add_pooling_layer=False), tokenizer=None)
    return packed(Encoder([backbone, Pooling(WIDTH, mode="cls"), *tails[kind]]))  # type: ignore[list-item]


def packed(encoder: Encoder) -> Encoder:
    """In training, without padding."""
    encoder.layout = "packed"
    return encoder.train()


def make_batch(task: str, negatives: int, number: int, *, rows: int | None = None) -> Batch:
    """Batch `number` of all processes, of so many rows (None: those of ROWS)."""
    spec = TASKS[task]
    if rows is None:
        rows = ROWS[number]
    g = torch.Generator().manual_seed(number)
    if KINDS[spec.model] == "cross_encoder":
        columns, lists = _pairs(spec.format(negatives), negatives, rows, g), None
        lists = columns["pair"].counts
    else:
        fmt = FORMATS[spec.format(negatives)]
        roles = (*fmt.roles, *(f"negative_{i + 1}" for i in range(negatives)))
        columns, lists = {role: _texts(rows, g, first=100_000 * (i + 1) + 1000 * number) for i, role in enumerate(roles)}, None
    start = 1000 * number
    batch = Batch(columns, _targets(spec, negatives, rows, lists, g), torch.arange(start, start + rows), f"{task}/{negatives}")
    if task == "denoising_auto_encoder":
        return replace(batch, targets=Targets(tokens=_texts(rows, g, first=0, least=2).tokens))
    if task == "gist_embed":
        return replace(batch, teacher={"guide": {role: torch.randn(rows, 12, generator=g) for role in columns}})
    return batch


def _texts(count: int, g: torch.Generator, *, first: int, least: int = 1) -> TextColumn:
    lengths = torch.randint(least, 20, (count,), generator=g)
    ids = torch.randint(0, VOCABULARY, (int(lengths.sum()),), generator=g)
    return TextColumn(Tokens(ids, lengths), torch.arange(count) + first)


def _pairs(fmt: str, negatives: int, rows: int, g: torch.Generator) -> dict[str, TextColumn]:
    """Each query with its candidates; lists are ragged, and a pair of reranker_mnrl has two candidates drawn from other rows."""
    counts = torch.full((rows,), 1 + negatives)
    if fmt == "query-documents":
        counts = torch.randint(1, 5, (rows,), generator=g)
    if fmt == "pair":
        counts += 2
    return {"pair": replace(_texts(int(counts.sum()), g, first=0), counts=counts)}


def _targets(spec: Task, negatives: int, rows: int, lists: Tensor | None, g: torch.Generator) -> Targets:
    """What the label column of the format holds."""
    name = spec.format(negatives)
    label = FORMATS[name].label
    if name == "query-documents":
        assert lists is not None
        most = int(lists.max())
        grades = torch.randint(0, 2, (rows, most), generator=g).float()
        return Targets(scores=grades.masked_fill(torch.arange(most) >= lists[:, None], float("nan")))
    if label == "scores":
        return Targets(scores=torch.randn(rows, 1 + negatives, generator=g))
    if label == "class":
        return Targets(label=torch.arange(rows) % spec.classes)
    if label == "score":
        return Targets(score=torch.randint(0, 4, (rows,), generator=g) / 3)
    if label == "vector":
        return Targets(vectors={"*": torch.randn(rows, spec.vector, generator=g)})
    return Targets()
