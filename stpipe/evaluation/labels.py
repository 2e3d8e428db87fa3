"""Labels of held-out rows as arrays, or an explanation why they are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError
from stpipe.core.rows import Rows


def raw_labels(rows: Rows) -> Sequence[Any]:
    """The labels as the data holds them."""
    if rows.labels is None:
        raise DataError(f"data set '{rows.name}' has no labels; map a column with `dataset.columns.label`")
    return rows.labels


def score_labels(rows: Rows) -> NDArray[np.float64]:
    """(N,) finite numbers."""
    values = np.empty(len(rows))
    for i, label in enumerate(raw_labels(rows)):
        try:
            values[i] = float(label)
        except (TypeError, ValueError):
            values[i] = np.nan
        if not np.isfinite(values[i]):
            raise DataError(f"data set '{rows.name}', row {i}: label {label!r} is no finite number; expected a similarity score")
    return values


def binary_labels(rows: Rows, positive: Sequence[str] | None) -> NDArray[np.bool_]:
    """(N,) true = the texts belong together.

    positive: the classes that mean so, compared as text; None expects labels that are 0 or 1.
    """
    labels = raw_labels(rows)
    if positive is not None:
        if rows.classes is not None:
            labels = [rows.classes[label] if label in range(len(rows.classes)) else label for label in labels]
        known = {str(label) for label in labels}
        missing = [name for name in positive if str(name) not in known]
        if missing:
            raise DataError(f"data set '{rows.name}' has no label {missing[0]!r}, which positive_labels names; found: {_some(known)}")
        wanted = {str(name) for name in positive}
        return np.array([str(label) in wanted for label in labels], dtype=bool)
    bad = next((i for i, label in enumerate(labels) if label not in (0, 1)), None)
    if bad is not None:
        raise DataError(
            f"data set '{rows.name}', row {bad}: label {labels[bad]!r} is neither 0 nor 1; say with `positive_labels` which labels "
            f"mean that the texts belong together (found: {_some({str(label) for label in labels})})"
        )
    return np.array([bool(label) for label in labels], dtype=bool)


def class_labels(rows: Rows, num_classes: int) -> NDArray[np.int64]:
    """(N,) classes 0, 1, ... below `num_classes`."""
    labels = raw_labels(rows)
    bad = next((i for i, label in enumerate(labels) if label not in range(num_classes)), None)
    if bad is not None:
        raise DataError(
            f"data set '{rows.name}', row {bad}: label {labels[bad]!r} is no class of a model with {num_classes} outputs, expected a whole "
            f"number from 0 to {num_classes - 1} (found: {_some({str(label) for label in labels})}); set model.num_labels, or check the labels"
        )
    return np.array([int(label) for label in labels], dtype=np.int64)


def refuse_constant(values: NDArray[Any], rows: Rows, what: str) -> None:
    """Equal labels everywhere leave nothing to tell apart."""
    if (values == values[0]).all():
        raise DataError(
            f"{what}: all {len(values)} labels of data set '{rows.name}' are {values[0].item()!r}, so there is nothing to tell apart; "
            "evaluate on rows with different labels"
        )


def _some(labels: set[str]) -> str:
    shown = sorted(labels)[:8]
    return ", ".join(shown) + (", ..." if len(labels) > len(shown) else "")
