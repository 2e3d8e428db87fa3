"""Labels of teachers (dataset.teacher): frozen models score or embed the rows of a data set, each text and pair once.

Shape legend: N rows, C comparisons of a text of each row with another one, M distinct texts, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from stpipe.config.errors import DataError
from stpipe.config.sections import RootConfig, TeacherSection
from stpipe.data.cache import cache_root
from stpipe.data.load import Loaded
from stpipe.data.prepare import SYMMETRIC
from stpipe.data.prepared import PreparedSource
from stpipe.data.teaching import Comparisons
from stpipe.engine.backends import choose_device
from stpipe.losses.base import Loss
from stpipe.ops import sparse
from stpipe.pipeline.console import Reporter
from stpipe.pipeline.frozen import FrozenModel, Side
from stpipe.search.embedding_cache import Stored
from stpipe.search.nearest import pair_scores

#: Comparisons of embeddings that are in memory at a time.
CHUNK = 8192


class Teaching:
    """What `prepare` calls for the labels of a data set (data/teaching.py: Teach).

    Args:
        root: configuration.
        out: where it is told what is computed.
        frozen: class of the models.
    """

    def __init__(self, root: RootConfig, out: Console, *, frozen: type[FrozenModel] = FrozenModel) -> None:
        self.root, self.out, self.frozen = root, out, frozen
        self.report = Reporter(out)
        self._models: dict[TeacherSection, FrozenModel] = {}

    def __call__(self, loaded: Loaded, teacher: TeacherSection, path: str, split: str) -> np.ndarray:
        model = self.model(teacher, path)
        self.out.print(f"{path.removesuffix('.teacher')} {split}: {teacher.output} of {len(loaded):,} rows by {teacher.model}")
        if teacher.output == "embeddings":
            return anchor_vectors(loaded, model)
        if model.is_cross_encoder:
            return pair_teacher_scores(loaded, model)
        return embedding_scores(loaded, model, similarity=teacher.similarity or model.similarity)

    def model(self, teacher: TeacherSection, path: str) -> FrozenModel:
        """The model of a section; equal sections share it."""
        if teacher not in self._models:
            self._models[teacher] = self.frozen(
                teacher.model,
                f"{path}.model",
                cache_root(self.root.dataset.cache_dir),
                device=choose_device(self.root.trainer.device),
                offline=self.root.offline,
                revision=teacher.revision,
                query_prompt=teacher.query_prompt,
                document_prompt=teacher.document_prompt,
                batch_size=teacher.batch_size,
                activation=teacher.activation,
                progress=self.report,
            )
        return self._models[teacher]


def anchor_vectors(loaded: Loaded, model: FrozenModel) -> NDArray[np.float32]:
    """(N, D) embedding of the anchor of each row; a sparse teacher's vectors are written out, as the loss compares them."""
    used, place = np.unique(loaded.texts.roles["anchor"].index, return_inverse=True)
    stored = model.embed(texts_at(loaded, used), model.side_of("anchor", symmetric=True))
    rows = [stored[np.arange(start, min(start + CHUNK, len(used)))] for start in range(0, len(used), CHUNK)]
    whole: NDArray[np.float32] = np.concatenate([part.toarray() if model.kind == "sparse" else part for part in rows]).astype(np.float32)
    return whole[place]


def pair_teacher_scores(loaded: Loaded, model: FrozenModel) -> NDArray[np.float64]:
    """(C,) scores of a cross-encoder."""
    compared = Comparisons.of(loaded)
    pairs, place = np.unique(np.stack([compared.query, compared.text], axis=1), axis=0, return_inverse=True)
    first, second = (texts_at(loaded, pairs[:, side]) for side in (0, 1))
    return model.scores(list(zip(first, second, strict=True))).astype(np.float64)[place.reshape(-1)]


def embedding_scores(loaded: Loaded, model: FrozenModel, *, similarity: str) -> NDArray[np.float64]:
    """(C,) similarities of embeddings. In formats for retrieval queries and documents are encoded as such, as in training."""
    compared = Comparisons.of(loaded)
    symmetric = loaded.format.name in SYMMETRIC
    sides: tuple[Side, Side] = (model.side_of("query", symmetric=symmetric), model.side_of("document", symmetric=symmetric))
    embedded: list[tuple[Stored[Any], NDArray[np.int64]]] = []
    for side, index in zip(sides, (compared.query, compared.text), strict=True):
        used, place = np.unique(index, return_inverse=True)
        embedded.append((model.embed(texts_at(loaded, used), side), place.astype(np.int64)))
    (queries, q), (texts, t) = embedded
    found = np.empty(len(compared.text), np.float64)
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = similarities(similarity, queries[q[part]], texts[t[part]], is_sparse=model.kind == "sparse")
    return found


def similarities(name: str, a: object, b: object, *, is_sparse: bool) -> np.ndarray:
    """(n,) similarity of row i of both."""
    if is_sparse:
        return sparse.PAIRED[name](sparse.to_csr(a), sparse.to_csr(b))
    return pair_scores(name, np.asarray(a, np.float32), np.asarray(b, np.float32))


def texts_at(loaded: Loaded, places: NDArray[np.int64]) -> list[str]:
    """Distinct texts by their places."""
    found: list[str] = loaded.texts.texts.take(pa.array(places)).to_pylist()
    return found


def check_widths(losses: Mapping[str, Loss], sources: Mapping[str, PreparedSource], embedding_dim: int) -> None:
    """Refuse teachers' vectors of another width than the loss compares them with.

    Raises:
        DataError: naming both widths.
    """
    for name, source in sources.items():
        wanted = losses[name].target_width(embedding_dim)
        vectors = source.labels() if source.format.label == "vector" else None
        if wanted is not None and vectors is not None and vectors.shape[1] != wanted:
            raise DataError(
                f"data set '{name}': the teacher's vectors have {vectors.shape[1]} dimensions, {type(losses[name]).__name__} compares them with "
                f"{wanted}. Use a teacher of that width, give the model a head of the teacher's (model.dense=[{{out_features: "
                f"{vectors.shape[1]}}}]), or learn a map: loss={{name: embed_distill, projection_dim: {vectors.shape[1]}}}"
            )
