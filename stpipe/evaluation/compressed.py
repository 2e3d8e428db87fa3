"""What fewer dimensions and fewer bits cost: retrieval with embeddings that are cut and quantised, encoded once for all of them.

Shape legend: N texts, D width of an embedding, d dimensions kept.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.metrics import cutoffs, metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation import metrics as formulas
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions, distinct
from stpipe.evaluation.information_retrieval import InformationRetrievalEvaluator
from stpipe.evaluation.ranking import Collection
from stpipe.evaluation.retrieval import RANKING_METRICS
from stpipe.models.quantize import quantize

FLOAT = "float32"
PRECISIONS = ("int8", "binary")
CALIBRATION = 10_000  # documents that the ranges of int8 are taken from


@dataclass(frozen=True)
class Form:
    """A size that embeddings are brought to: dimensions kept (None all), and precision."""

    dims: int | None = None
    precision: str = FLOAT

    @property
    def ending(self) -> str:
        """What it adds to the name of a metric."""
        return (f"_at_{self.dims}_dims" if self.dims else "") + (f"_as_{self.precision}" if self.precision != FLOAT else "")

    def apply(self, values: Tensor, ranges: Tensor) -> Tensor:
        """(N, d) values as they are after the round trip: signs as -1 and 1, an int8 level as the middle of its step.

        Args:
            values: (N, D) float32.
            ranges: (2, D) least and greatest value of each dimension, for int8.
        """
        values, ranges = values[:, : self.dims], ranges[:, : self.dims]
        if self.precision == "binary":
            return torch.where(values > 0, 1.0, -1.0)
        if self.precision == FLOAT:
            return values
        levels = torch.from_numpy(quantize(values.numpy(), precision=self.precision, ranges=ranges.numpy()).astype(np.float32))
        return ranges[0] + (levels + 128.5) * (ranges[1] - ranges[0]) / 255


@dataclass
class Encoded:
    """The embeddings of a collection as a model: it looks up what a model gave before, brought to one form.

    similarity_fn_name: the model's; queries, docs: text -> row; query_values, doc_values: (N, D) float32; ranges: (2, D) of the documents.
    """

    model: EmbeddingModel
    similarity_fn_name: str
    queries: Mapping[str, int]
    docs: Mapping[str, int]
    query_values: Tensor
    doc_values: Tensor
    ranges: Tensor
    form: Form = Form()
    kind: ClassVar[str] = "dense"

    @staticmethod
    def of(model: EmbeddingModel, collection: Collection, options: EncodeOptions) -> Encoded:
        """Encode each distinct text once. Holds all embeddings: 4 x D bytes a text."""

        def embed(encode: Callable[..., Any], texts: Sequence[str], prompt: str | None) -> tuple[dict[str, int], Tensor]:
            once, _ = distinct(list(texts))
            cut = {} if options.truncate_dim is None else {"truncate_dim": options.truncate_dim}
            values = encode(once, prompt=prompt, batch_size=options.batch_size, show_progress_bar=False, convert_to_tensor=True, **cut)
            return {text: i for i, text in enumerate(once)}, values.detach().float().cpu()

        queries, query_values = embed(model.encode_query, collection.queries, collection.query_prompt)
        docs, doc_values = embed(model.encode_document, collection.docs, collection.doc_prompt)
        sample = doc_values[:: max(1, len(doc_values) // CALIBRATION)]
        ranges = torch.stack([sample.amin(dim=0), sample.amax(dim=0)])
        return Encoded(model, model.similarity_fn_name, queries, docs, query_values, doc_values, ranges)

    def encode_query(self, texts: Sequence[str], **options: Any) -> Tensor:
        return self._rows(self.query_values, self.queries, texts)

    def encode_document(self, texts: Sequence[str], **options: Any) -> Tensor:
        return self._rows(self.doc_values, self.docs, texts)

    def encode(self, texts: Sequence[str], **options: Any) -> Tensor:
        raise ConfigError("embeddings that were encoded before know queries and documents only")

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor:
        return self.model.similarity(a, b)

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor:
        return self.model.similarity_pairwise(a, b)

    def _rows(self, values: Tensor, places: Mapping[str, int], texts: Sequence[str]) -> Tensor:
        return self.form.apply(values[[places[text] for text in texts]], self.ranges)


@EVALUATORS.register("compressed_retrieval", aliases=("CompressedRetrievalEvaluator",))
@dataclass(frozen=True, kw_only=True)
class CompressedRetrievalEvaluator(InformationRetrievalEvaluator):
    """The metrics of `information_retrieval`, and nDCG with smaller embeddings: cut to `dims`, in `precisions`, and both.

    `cosine_ndcg@10_at_64_dims` is of the first 64 dimensions, `cosine_ndcg@10_as_int8` of 8 bits a dimension, and
    `cosine_ndcg@10_at_64_dims_as_binary` of one bit of each of 64. Queries and documents are quantised alike, int8 with the range
    of each dimension over (a sample of) the documents. Texts are encoded once and all embeddings are held in memory. The report
    draws quality against the bytes of a vector.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dense",)
    metrics = metric_facts(
        *RANKING_METRICS,
        metric("{similarity}_ndcg@{k}_at_{dims}_dims", ks="ndcg_at_k", over={"dims": "dims"}),
        metric("{similarity}_ndcg@{k}_as_{precision}", ks="ndcg_at_k", over={"precision": "precisions"}),
        metric("{similarity}_ndcg@{k}_at_{dims}_dims_as_{precision}", ks="ndcg_at_k", over={"dims": "dims", "precision": "precisions"}),
        labels={"precisions": {name: name for name in PRECISIONS}},
    )

    dims: tuple[int, ...] = option((), help="Numbers of dimensions that embeddings are cut to, such as those of a matryoshka loss.")
    precisions: tuple[Literal["int8", "binary"], ...] | None = option(
        ("int8", "binary"), help="Precisions to quantise to, at the full width and at each of `dims`; None is all."
    )

    def evaluate(self, model: EmbeddingModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        if model.kind not in self.kinds:
            raise ConfigError(f"{self._name()} is for dense models, and this one is {model.kind}; use active_dims_curve of another one")
        collection = self.collection(sources)
        encoded = Encoded.of(model, collection, self.options(batch_size))
        width = encoded.doc_values.shape[1]
        too_wide = next((d for d in self.dims if d > width), None)
        if too_wide is not None:
            raise ConfigError(f"{self._name()}: dims holds {too_wide}, but the model's embeddings have {width} dimensions; leave it out")
        primary = self.primary(similarity=model.similarity_fn_name)
        plain = dataclasses.replace(self, truncate_dim=None)  # cut already
        whole = plain.score(collection, plain.find(encoded, collection, batch_size=batch_size), evaluator=self._name(), primary=primary)
        values: dict[str, float] = {}
        for form in self.forms():
            values |= plain.values_of(dataclasses.replace(encoded, form=form), collection, batch_size=batch_size)
        points = [_point(Form(), width, whole.metrics[primary])]
        points += [_point(form, width, values[primary + form.ending]) for form in self.forms()]
        curve = {"metric": primary, "width": width, "points": points}
        return dataclasses.replace(whole, metrics={**whole.metrics, **values}, details={**whole.details, "compression": curve})

    def forms(self) -> list[Form]:
        """The sizes that are tried besides the full one."""
        precisions = tuple(PRECISIONS if self.precisions is None else dict.fromkeys(self.precisions))
        dims = tuple(dict.fromkeys(self.dims))
        return [Form(d, p) for d, p in itertools.product((None, *dims), (FLOAT, *precisions)) if d is not None or p != FLOAT]

    def values_of(self, encoded: Encoded, collection: Collection, *, batch_size: int) -> dict[str, float]:
        """nDCG of one form, by the names of the metrics."""
        rankings = self.find(encoded, collection, batch_size=batch_size).rankings
        judged = {fn: self.grading().judge(collection, ranking) for fn, ranking in rankings.items()}
        return {
            f"{fn}_ndcg@{k}{encoded.form.ending}": float(formulas.ndcg_at_k(result.gain, result.ideal, k).mean())
            for fn, result in judged.items()
            for k in cutoffs("ndcg_at_k", self._values())
        }


def _point(form: Form, width: int, value: float) -> dict[str, Any]:
    return {"dims": form.dims or width, "precision": form.precision, "value": value}
