"""What evaluators of the NanoBEIR collections have in common: which sets, their prompts, and means over sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.metrics import choices
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.collection import answerable, keep_queries
from stpipe.evaluation.judging import Grading
from stpipe.evaluation.nano_files import HUB_ID, NANO_SETS, read_set
from stpipe.evaluation.ranking import Collection


@dataclass(frozen=True, kw_only=True)
class NanoSetsEvaluator(Evaluator):
    """Evaluators of the 13 small collections of NanoBEIR; they read no rows of the run."""

    formats: ClassVar[tuple[str, ...]] = ()

    dataset_id: str = option(HUB_ID, help="Hub id of the collection, or a directory with a folder a set (NanoMSMARCO/corpus.jsonl, ...).")
    datasets: tuple[str, ...] | None = option(None, help=f"Sets to evaluate, of {', '.join(NANO_SETS)}; None is all.")
    query_prompts: Mapping[str, str] = option(help="Set -> put before its queries; the model's prompt where a set is absent.", factory=dict)
    corpus_prompts: Mapping[str, str] = option(
        help="Set -> put before its documents; the model's prompt where a set is absent.", factory=dict
    )

    def __post_init__(self) -> None:
        named = {
            "query_prompts": list(self.query_prompts) or None,
            "corpus_prompts": list(self.corpus_prompts) or None,
            "datasets": self.datasets,
        }
        for field in named:
            try:
                choices(field, named, NANO_SETS)
            except ConfigError as error:
                raise ConfigError(f"{self._name()}: {error}") from error

    def collections(self, grading: Grading) -> Iterator[tuple[str, Collection]]:
        """(name, collection) of each set, read when its turn comes; queries without a relevant document are left out."""
        for name in dict.fromkeys(self.datasets or NANO_SETS):
            collection = read_set(self.dataset_id, name)
            collection = keep_queries(collection, answerable(collection, threshold=grading.threshold))
            query_prompt, doc_prompt = self.query_prompts.get(name), self.corpus_prompts.get(name)
            yield name, dataclasses.replace(collection, query_prompt=query_prompt, doc_prompt=doc_prompt)


def means(parts: Mapping[str, Evaluation]) -> dict[str, float]:
    """Metric -> its mean over the sets, each counting the same."""
    names = next(iter(parts.values())).metrics
    return {name: math.fsum(part.metrics[name] for part in parts.values()) / len(parts) for name in names}
