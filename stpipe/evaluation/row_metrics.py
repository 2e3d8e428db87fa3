"""Metrics that are no means over rows, by name, so that a result on disk can be resampled by whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stpipe.evaluation.metrics import best_average_precision, best_spearman, macro_f1, spearman
from stpipe.evaluation.significance import RowMetric

#: Name in metrics.json -> function of (labels, column, ...), each of N rows.
ROW_METRICS: Mapping[str, Callable[..., float]] = {f.__name__: f for f in (best_average_precision, best_spearman, macro_f1, spearman)}


def row_metric(name: str, labels: Sequence[float], columns: Sequence[Sequence[float]]) -> RowMetric:
    """The metric `name` of rows with these labels (N) and what one system says of them (columns of N).

    Raises:
        KeyError: no such metric.
    """
    return RowMetric(ROW_METRICS[name], tuple(np.asarray(values) for values in (labels, *columns)))
