"""How the rows of a cross-encoder's data become pairs, and what its losses derive from the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.data.pairs import JoinedTokens, Joiner, PairCollator, TokenizedPairs, candidate_roles
from stpipe.data.prepared import PreparedSource
from stpipe.data.windows import StreamedSource
from stpipe.losses.base import Loss
from stpipe.models.base_model import BaseModel
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.pipeline.objective import innermost


def pair_collators(model: CrossEncoder, losses: Mapping[str, Loss]) -> dict[str, PairCollator]:
    """Data set -> the collator of its pairs: joined from cached tokens where the tokenizer's pairs are of that form."""
    join = joiner(model)
    return {name: PairCollator(join, loss.sampled_negatives()) for name, loss in losses.items()}


def joiner(model: CrossEncoder) -> Joiner:
    """What makes the pairs of a model: cached tokens where the tokenizer's pairs are of that form, else the tokenizer."""
    template = model.pair_template
    if template is not None:
        return JoinedTokens(template, model.max_seq_length)
    return TokenizedPairs(model.pair_tokens, model.max_seq_length)


def fitted(losses: Mapping[str, Loss], sources: Mapping[str, PreparedSource]) -> dict[str, Loss]:
    """The losses with what they derive from the labels of their data set."""
    return {name: loss.fitted(training_grades(sources[name])) for name, loss in losses.items()}


def fitted_to_classes(losses: Mapping[str, Loss], sources: Mapping[str, PreparedSource]) -> dict[str, Loss]:
    """The losses of embeddings with what they derive from classes, on the data sets that have some."""
    labelled = {name for name, source in sources.items() if source.format.label == "class"}
    return {name: loss.fitted(training_grades(sources[name])) if name in labelled else loss for name, loss in losses.items()}


def training_grades(source: PreparedSource) -> torch.Tensor:
    """(N,) float64 label of every pair of the data; without labels 1 for each positive and 0 for each of its negatives."""
    labels = source.labels()
    if source.format.label in ("score", "class") and labels is not None:
        return torch.from_numpy(labels.astype(np.float64))
    if source.format.label == "scores" and labels is not None:
        return torch.from_numpy(np.concatenate(list(labels)).astype(np.float64))
    others = len(source) * (len(candidate_roles(source)) - 1)
    return torch.cat([torch.ones(len(source), dtype=torch.float64), torch.zeros(others, dtype=torch.float64)])


def check_outputs(model: CrossEncoder, losses: Mapping[str, Loss], sources: Mapping[str, PreparedSource]) -> None:
    """The model must have as many outputs as its losses need: one score, or one for each class of the data.

    Raises:
        ConfigError: it has others. DataError: a class is not a number from 0.
    """
    problems = []
    for name, loss in losses.items():
        for part in innermost(loss):
            if part.num_outputs == "one" and model.num_labels != 1:
                what = f"{type(part).__name__} needs one score for each pair, but the model has {model.num_labels} outputs; set 1"
                problems.append(Problem("model.num_labels", what))
            elif part.num_outputs == "classes":
                classes = number_of_classes(sources[name])
                if classes > model.num_labels:
                    what = f"data set '{name}' has {classes} classes, but the model has {model.num_labels} output(s); set {classes}"
                    problems.append(Problem("model.num_labels", what))
    if problems:
        raise ConfigError(problems)


def with_known_classes(sources: Mapping[str, PreparedSource], losses: Mapping[str, Loss], model: BaseModel) -> dict[str, PreparedSource]:
    """The data sets; streams know how many classes their loss was made for, so that a row of another class is found before it is used."""
    found = dict(sources)
    for name, source in sources.items():
        limits = [limit for part in innermost(losses[name]) if (limit := class_limit(part, model)) is not None]
        if source.stream is not None and limits:
            found[name] = StreamedSource(source.folder, name=name, stream=replace(source.stream, num_classes=min(limits)))
    return found


def class_limit(loss: Loss, model: BaseModel) -> int | None:
    """Classes that a loss can tell apart; None for losses that are not about classes."""
    if loss.num_outputs == "classes" and isinstance(model, CrossEncoder):
        return model.num_labels
    own: int | None = getattr(loss, "num_labels", None)
    return own


def number_of_classes(source: PreparedSource) -> int:
    """How many classes the labels of a data set name; they are numbered from 0."""
    labels = source.labels()
    if labels is None or source.format.label not in ("class", "score"):
        raise DataError(f"data set '{source.name}' has no classes; map a column with dataset.columns.label")
    if source.format.label == "score" and (labels % 1 != 0).any():
        row = int((labels % 1 != 0).argmax())
        raise DataError(f"data set '{source.name}', row {row}: label {labels[row]:g} is no class (0, 1, ...)")
    if labels.min() < 0:
        raise DataError(f"data set '{source.name}', row {int(labels.argmin())}: class {int(labels.min())} is below 0")
    named = 0 if source.classes is None else len(source.classes)
    return max(int(labels.max()) + 1, named)
