"""What an export is: a frozen dataclass of settings that writes a folder, and what it must not deviate by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from stpipe.config.fields import option
from stpipe.export.source import Source

Precision = Literal["fp32", "fp16", "bf16", "int8", "bits", "distilled"]
FormName = Literal["self_contained", "st_layout"]

#: Precision -> largest difference that is allowed where none is set.
MAX_ABS = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}
MEAN_COSINE, SPEARMAN = 0.95, 0.98
#: Drop of the task's metric that is allowed where none is set; another model cannot be as close as another form of the same one.
METRIC_DROP, METRIC_DROP_DISTILLED = 0.02, 0.25


@dataclass(frozen=True)
class ToleranceSection:
    """What an export may deviate by from the model; beyond it the export is rejected and the stage fails."""

    max_abs: float | None = option(
        None,
        ge=0,
        help="Largest difference of any number of an embedding, or of any score, as a share of the largest value where that is above 1. None: 1e-5 in float32, 2e-3 in float16 and with the approximate GELU of O3, 2e-2 in bfloat16, no limit in int8.",
    )
    mean_cosine: float | None = option(
        None, ge=-1, le=1, help="Lowest mean cosine of embeddings with the model's own. None: 0.95 in int8, no limit otherwise."
    )
    spearman: float | None = option(
        None,
        ge=-1,
        le=1,
        help="Lowest rank correlation with the model: of a reranker's scores, of a static embedding's similarities. None: 0.98 for rerankers in int8, no limit otherwise.",
    )
    metric_drop: float | None = option(
        None, ge=0, help="How much lower the primary metric of the evaluator may be. None: 0.02, for a distilled static embedding 0.25."
    )


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    command: arguments of the interpreter that serves it in a fresh process, run in its folder; weights: files whose size counts;
    takes: texts (or pairs of them), or embeddings, which it only stores in another way; size: bytes of the model and of the export where
    files do not tell; own_space: its embeddings are those of another model; facts: what else verification.json says of it.
    """

    command: tuple[str, ...]
    weights: tuple[str, ...]
    takes: Literal["texts", "embeddings"] = "texts"
    size: tuple[int, int] | None = None
    own_space: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Export(ABC):
    """Settings of one export.

    Class attributes: kinds of model that it takes; extra: of pyproject.toml that it needs, None for none; runtime: what computes it.
    """

    kinds: ClassVar[list[str]] = ["dense", "sparse", "cross_encoder"]
    extra: ClassVar[str | None] = None
    runtime: ClassVar[str]

    tolerance: ToleranceSection = option(help="What it may deviate by.", factory=ToleranceSection)
    evaluator: str | None = option(
        None, help="Evaluator of the run whose primary metric is compared; None is the first one, `none` compares none."
    )
    probes: int = option(64, ge=8, help="Texts, or pairs, that are compared for each prompt, of all lengths up to the limit.")

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """What it is computed in: decides the tolerances that are not set."""

    @property
    def form_name(self) -> str:
        """self_contained, st_layout, or another word for what the folder holds."""
        return "st_layout"

    @abstractmethod
    def write(self, source: Source, folder: Path) -> Written:
        """Write the export into an empty folder."""

    def limits(self, *, scores: bool) -> dict[str, float]:
        """Limit by name of the number that it is for, defaults filled in."""
        given, low = self.tolerance, self.precision == "int8"
        drop = METRIC_DROP_DISTILLED if self.precision == "distilled" else METRIC_DROP
        found = {
            "max_abs": given.max_abs if given.max_abs is not None else MAX_ABS.get(self.precision),
            "mean_cosine": None if scores else given.mean_cosine if given.mean_cosine is not None else MEAN_COSINE if low else None,
            "spearman": given.spearman if given.spearman is not None else SPEARMAN if low and scores else None,
            "metric_drop": given.metric_drop if given.metric_drop is not None else drop,
        }
        return {name: limit for name, limit in found.items() if limit is not None}


def settings_of(export: Any) -> Any:
    """The settings of an export as plain values."""
    if is_dataclass(export) and not isinstance(export, type):
        return {f.name: settings_of(getattr(export, f.name)) for f in fields(export)}
    return list(export) if isinstance(export, (tuple, list)) else export


def problems_of(values: dict[str, float | None], limits: dict[str, float], *, finite: bool) -> list[str]:
    """What lies outside its limits, a line each."""
    found = [] if finite else ["some of its numbers are NaN or infinite"]
    above = {"max_abs": "largest difference", "metric_drop": "drop of the task's metric"}
    below = {"mean_cosine": "mean cosine with the model", "spearman": "rank correlation with the model"}
    for name, limit in limits.items():
        value = values.get(name)
        if value is None:
            continue
        if name in above and not value <= limit:
            found.append(f"{above[name]} {value:.3g} is above tolerance.{name}={limit:g}")
        if name in below and not value >= limit:
            found.append(f"{below[name]} {value:.4f} is below tolerance.{name}={limit:g}")
    return found


def sizes(folder: Path, names: Sequence[str]) -> int:
    """Bytes of some files of a folder."""
    return sum((folder / name).stat().st_size for name in names)
