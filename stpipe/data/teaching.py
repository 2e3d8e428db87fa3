"""Labels that a teacher gives loaded rows. The model is an argument: this layer knows no models.

Shape legend: N rows, M distinct texts of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.formats import QUERY_ROLES, negative_roles
from stpipe.config.sections import TeacherSection
from stpipe.data.labels import Labels
from stpipe.data.load import Loaded
from stpipe.data.table import shown
from stpipe.data.texts import offsets_of


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What of each row is scored: `query[i]` with `text[i]`, both places among the distinct texts; row i has the next counts[i] of these.

    query, text (C,) int64; counts (N,) int64.
    """

    query: np.ndarray
    text: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(loaded: Loaded) -> Comparisons:
        """The anchor or query of each row with its documents, or with its positive and then its negatives."""
        roles = loaded.texts.roles
        first = roles[next(role for role in roles if role in QUERY_ROLES)].index
        if "documents" in roles:
            counts = roles["documents"].counts()
            return Comparisons(np.repeat(first, counts), roles["documents"].index, counts)
        names = [role for role in ("positive", "document") if role in roles] + list(negative_roles(roles))
        texts = np.stack([roles[name].index for name in names], axis=1)
        counts = np.full(len(first), len(names), np.int64)
        return Comparisons(np.repeat(first, len(names)), texts.reshape(-1), counts)


#: Rows, their teacher, its key, which rows these are -> vectors (N, D) for output `embeddings`, else a score (C,) of each comparison.
Teach = Callable[[Loaded, TeacherSection, str, str], np.ndarray]


def taught(
    loaded: Loaded, teacher: TeacherSection, teach: Teach | None, *, path: str, split: str, limits: tuple[float | None, float | None]
) -> Loaded:
    """The rows with the labels of their teacher.

    Args:
        loaded: rows of a format with a label, without one.
        teacher: its section.
        teach: what asks it.
        path: key of the section.
        split: which rows these are, for messages.
        limits: least and greatest label that the loss can make sense of; None: any.

    Raises:
        ConfigError: there is nobody to ask. DataError: a score is out of range.
    """
    if teach is None:
        raise ConfigError(Problem(path, "labels by a teacher are not made here; use `stpipe prepare` or `stpipe train`"))
    values = teach(loaded, teacher, path, split)
    if teacher.output == "embeddings":
        offsets = np.arange(len(loaded) + 1, dtype=np.int64) * values.shape[1]
        labels = Labels("vector", values.astype(np.float32, copy=False).reshape(-1), np.zeros(len(loaded), bool), offsets)
    else:
        labels = score_labels(values.astype(np.float64), loaded, margins=teacher.output == "margins")
        check_range(labels, loaded, teacher, limits)
    return replace(loaded, labels=labels)


def score_labels(scores: np.ndarray, loaded: Loaded, *, margins: bool) -> Labels:
    """Scores (C,) of all comparisons as the labels of their rows, or as margins of the first of each row over the others."""
    counts, missing = Comparisons.of(loaded).counts, np.zeros(len(loaded), bool)
    if margins:
        by_row = scores.reshape(len(loaded), -1)
        scores = (by_row[:, :1] - by_row[:, 1:]).reshape(-1)
        counts = counts - 1
    if loaded.format.label == "score":
        return Labels("score", scores, missing)
    return Labels("scores", scores, missing, offsets_of(counts))


def check_range(labels: Labels, loaded: Loaded, teacher: TeacherSection, limits: tuple[float | None, float | None]) -> None:
    """Refuse scores that the loss cannot reach."""
    low, high = (-np.inf if limits[0] is None else limits[0]), (np.inf if limits[1] is None else limits[1])
    outside = (labels.values < low) | (labels.values > high)
    if not outside.any():
        return
    place = int(outside.argmax())
    row = place if labels.offsets is None else int(np.searchsorted(labels.offsets, place, side="right") - 1)
    raise DataError(
        f"the teacher {teacher.model} gives {int(outside.sum()):,} of {outside.size:,} labels outside [{low:g}, {high:g}] (from "
        f"{labels.values.min():g} to {labels.values.max():g}; the first at {loaded.place(row)}: {shown(float(labels.values[place]))}), and the "
        "loss cannot reach these. Use a loss without bounds (cosent, margin_mse, reranker_mse), activation: Sigmoid for a cross-encoder, or set "
        "dataset.checks.label_min and label_max if you mean it"
    )
