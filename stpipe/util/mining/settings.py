"""What is asked of mining: how many negatives, from which ranks, under which limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import unknown_name

Sampling = Literal["top", "random"]
OutputFormat = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
SAMPLINGS: tuple[str, ...] = get_args(Sampling)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Parameters of the choice, under the names of the sentence-transformers documentation.

    range_max None is derived by `resolved`; seed draws under sampling_strategy random.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: str = "top"
    include_positives: bool = False
    seed: int = 12

    @property
    def pool(self) -> int:
        """range_max once it is known."""
        if self.range_max is None:
            raise ConfigError("range_max is not known yet; call resolved() first")
        return self.range_max

    @property
    def uses_scores(self) -> bool:
        """Whether any rule looks at scores: only then does a cross-encoder have a say."""
        return any(limit is not None for limit in (self.max_score, self.min_score, self.absolute_margin, self.relative_margin))

    def resolved(self, max_positives: int, *, rescored: bool) -> Rules:
        """With range_max: range_min + num_negatives + max_positives; ten times the negatives where rules may drop some.

        Args:
            max_positives: positives of the query that has most of them.
            rescored: a cross-encoder gives the scores, so min_score drops candidates from anywhere in the order.

        Raises:
            ConfigError: numbers that leave nothing to choose from.
        """
        if self.range_max is not None:
            return self._checked()
        limits = (self.absolute_margin, self.relative_margin, self.max_score, self.min_score if rescored else None)
        spare = 10 if any(limit is not None for limit in limits) else 1
        return replace(self, range_max=self.range_min + spare * self.num_negatives + max_positives)._checked()

    def _checked(self) -> Rules:
        problems = []
        if self.num_negatives < 1:
            problems.append(Problem("num_negatives", f"found {self.num_negatives}, expected at least 1"))
        if self.range_min < 0:
            problems.append(Problem("range_min", f"found {self.range_min}, expected at least 0"))
        if self.sampling_strategy not in SAMPLINGS:
            problems.append(Problem("sampling_strategy", unknown_name("strategy", self.sampling_strategy, list(SAMPLINGS))))
        left = self.pool - self.range_min
        if not problems and left < self.num_negatives:
            problems.append(
                Problem(
                    "range_max",
                    f"{self.num_negatives} negatives are wanted, but ranks {self.range_min} (range_min) to {self.pool} (range_max) are "
                    f"{max(left, 0)}; raise range_max, or lower range_min or num_negatives",
                )
            )
        if problems:
            raise ConfigError(problems)
        return self

    def as_dict(self) -> dict[str, Any]:
        """All of them by name."""
        return asdict(self)


def output_format(name: str) -> str:
    """The name of an output format, when there is one."""
    if name not in OUTPUT_FORMATS:
        raise ConfigError(Problem("output_format", unknown_name("format", name, list(OUTPUT_FORMATS))))
    return name
