"""The `splade_inference_free` model: documents through SPLADE, queries by a look-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.models.component import TrainingTexts
from stpipe.models.modules import Module, Router, SparseStaticEmbedding
from stpipe.models.paths import resolve_path
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.models.splade import SpladeOptions

IDF_DOCUMENTS = 100_000


@MODELS.register("splade_inference_free")
@dataclass(frozen=True, kw_only=True)
class InferenceFreeSpladeModel(SpladeOptions):
    """SPLADE for documents, one learned weight a word for queries (arXiv:2411.04403): a query costs no forward.

    name_or_path is the document side, or a model of this kind. Give the query weights a learning rate of their own:
    `optimizer.groups: {query: {match: 'SparseStaticEmbedding\\.weight', lr: 1e-3}}`.
    """

    routes: ClassVar[list[str] | None] = ["query", "document"]
    lookups: ClassVar[dict[str, list[str]]] = {
        "query": [
            "encoder.stack.0.routes.query.0.weight",
            "Encoder.ModuleList.Router.ModuleDict.ModuleList.SparseStaticEmbedding.weight",
        ]
    }

    query_weights: Literal["idf", "ones"] = option(
        "idf", help="Start of the query weights of a new model: inverse document frequency in the training documents, or 1."
    )
    freeze_query: bool = option(False, help="Keep the query weights as they are; weights that are stored as frozen stay so.")

    def build(self) -> SparseEncoder:
        return self.sparse_encoder(self._routed())

    def adapt(self, model: SparseEncoder, texts: TrainingTexts) -> tuple[str, ...]:
        lines = []
        static = model.encoder.input_of("query")
        if not isinstance(static, SparseStaticEmbedding):
            what = f"queries of '{self.name_or_path}' go through {static.folder_name()}, not through a look-up. Use model=splade"
            raise ConfigError(Problem("model.name_or_path", what))
        if self.query_weights == "idf" and bool((static.weight == 1).all()):  # not those of a model that was trained
            sides = [side for side in texts.sides() if side != "query"] or ["query"]
            documents = [part for side in sides for part in texts.tokens(side, IDF_DOCUMENTS // len(sides), 1024)]
            start = SparseStaticEmbedding.from_idf(static.tokenizer, documents=documents, vocabulary=static.num_dimensions)
            with torch.no_grad():
                static.weight.copy_(start.weight)
            lines.append("query weights: inverse document frequency in the training documents")
        return (*lines, *self.prepare_head(model, texts))

    def _routed(self) -> list[Module]:
        """The stored router, or a new one around a document side."""
        path = resolve_path(self.name_or_path, revision=self.revision)
        options = self.load_options()
        document = self.lexical_stack(path, options)
        if isinstance(document[0], Router):
            for static in (part for part in document[0].modules() if isinstance(part, SparseStaticEmbedding)):
                static.freeze(self.freeze_query or static.frozen)
            return document
        weight = torch.ones(document[0].output_dim(0))
        query = SparseStaticEmbedding(document[0].tokenizer, weight=weight, frozen=self.freeze_query)
        return [Router.for_query_document([query], document)]
