"""Pairs of random words, tiny models, and mining as loops over plain numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.util.mining.settings import Rules
from tests.models.tiny import make_encoder, make_texts

ROWS = 60


def pairs(rows: int = ROWS) -> datasets.Dataset:
    """Anchors and positives; some anchors have several positives, one row is there twice, one document answers two anchors."""
    anchors, positives = make_texts(ROWS, seed=1, longest=8), make_texts(ROWS, seed=2, longest=14)
    anchors[10] = anchors[11] = anchors[9]
    anchors[20], positives[20] = anchors[19], positives[19]
    positives[31] = positives[30]
    return datasets.Dataset.from_dict({"question": anchors[:rows], "answer": positives[:rows]})


@functools.cache
def retriever() -> SentenceTransformer:
    """A random dense model."""
    return SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu")


def save_reranker(folder: Path, *, num_labels: int = 1) -> Path:
    """A random cross-encoder of two layers in a directory that both libraries load."""
    import torch
    import transformers as hf

    from tests.models.tiny import CONFIGS, make_tokenizer

    config = CONFIGS["bert"]()
    config.num_labels = num_labels
    torch.manual_seed(5)
    model = hf.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def by_loop(
    scores: np.ndarray, positives: Sequence[Sequence[int]], rules: Rules, *, depth: int, order: np.ndarray | None = None
) -> tuple[list[list[int]], Mapping[str, int]]:
    """(negatives of each query, candidates that each rule took) from the scores (Q, N) of all documents.

    order (Q, N): scores by which candidates are found; None is by `scores`.
    """
    chosen: list[list[int]] = []
    taken: dict[str, int] = {}
    for q, row in enumerate(scores.tolist()):
        found_by = row if order is None else order[q].tolist()
        pool = sorted(range(len(row)), key=lambda d: (-found_by[d], d))[:depth]
        pool.sort(key=lambda d: (-row[d], d))
        lowest = min(row[d] for d in positives[q])
        left = []
        for doc in pool:
            rule = None
            if doc in positives[q] and not rules.include_positives:
                continue
            if rules.absolute_margin is not None and row[doc] > lowest - rules.absolute_margin:
                rule = "absolute_margin"
            elif rules.relative_margin is not None and row[doc] > lowest - abs(lowest) * rules.relative_margin:
                rule = "relative_margin"
            elif rules.max_score is not None and row[doc] > rules.max_score:
                rule = "max_score"
            elif rules.min_score is not None and row[doc] < rules.min_score:
                rule = "min_score"
            if rule is None:
                left.append(doc)
            else:
                taken[rule] = taken.get(rule, 0) + 1
        chosen.append(left[rules.range_min : rules.pool][: rules.num_negatives])
    return chosen, taken


def grouped(table: Mapping[str, Sequence[Any]], key: str, value: str) -> dict[str, list[Any]]:
    """Values of one column by another, in order."""
    found: dict[str, list[Any]] = {}
    for k, v in zip(table[key], table[value], strict=True):
        found.setdefault(k, []).append(v)
    return found
