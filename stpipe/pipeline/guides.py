"""Guide models: each distinct text of a data set is encoded once before training, and batches look their vectors up.

The documented loss runs its guide in every step, on every text of the batch. Here that is a read from a memory-mapped file: the guide
costs one pass over the distinct texts, whatever the number of epochs, and takes no memory beside the model that is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from rich.console import Console

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.formats import side_of
from stpipe.config.sections import RootConfig
from stpipe.core.digest import digest
from stpipe.core.reps import GUIDE
from stpipe.data.cache import cache_root, make_once
from stpipe.data.guided import VECTORS, GuidedCollator, TextVectors
from stpipe.data.prepared import PreparedSource
from stpipe.data.stream import Collator, TextCollator
from stpipe.data.texts import text_bytes
from stpipe.engine.backends import choose_device
from stpipe.losses.base import Loss
from stpipe.losses.guided import Guide
from stpipe.pipeline.console import Reporter
from stpipe.pipeline.frozen import FrozenModel, Side
from stpipe.search.embedding_cache import Stored

VERSION = 1
CHUNK = 8192  # vectors in memory while they are written


def guided_collators(
    root: RootConfig,
    losses: Mapping[str, Loss],
    sources: Mapping[str, PreparedSource],
    collators: Mapping[str, Collator],
    out: Console,
    *,
    frozen: type[FrozenModel] = FrozenModel,
) -> dict[str, Collator]:
    """The collators, with the guide's vectors for each data set whose loss asks a guide; computed, or found in the cache.

    Raises:
        ConfigError: the guide does not exist, gives no dense embeddings, or a loss that needs one names none or two.
    """
    found = dict(collators)
    for name, source in sources.items():
        guide = guide_of(name, losses[name])
        if guide is None:
            continue
        vectors = guide_vectors(model_of(root, guide, out, frozen), source)
        found[name] = GuidedCollator(found.get(name, TextCollator()), GUIDE, vectors)
    return found


def guide_of(name: str, loss: Loss) -> Guide | None:
    """The guide of a data set's loss; None where the loss asks for none."""
    guides = sorted(loss.guides(), key=repr)
    if GUIDE in loss.needs_teachers() and not guides:
        raise ConfigError(
            Problem("loss.guide.model", f"required: the loss of data set '{name}' asks a guide model which negatives are none")
        )
    if len(guides) > 1:
        raise ConfigError(Problem("loss.guide", f"data set '{name}' has {len(guides)} guides; its texts are encoded by one"))
    return guides[0] if guides else None


def model_of(root: RootConfig, guide: Guide, out: Console, frozen: type[FrozenModel] = FrozenModel) -> FrozenModel:
    """The guide as a model; nothing is loaded yet."""
    model = frozen(
        guide.model,
        "loss.guide.model",
        cache_root(root.dataset.cache_dir),
        device=choose_device(root.trainer.device),
        offline=root.offline,
        query_prompt=guide.query_prompt,
        document_prompt=guide.document_prompt,
        batch_size=guide.batch_size,
        progress=Reporter(out),
    )
    if model.kind != "dense":
        what = f"{guide.model} is a {model.kind} model; a guide compares by the cosine of dense embeddings"
        raise ConfigError(Problem("loss.guide.model", what))
    return model


def guide_vectors(model: FrozenModel, source: PreparedSource) -> dict[str, TextVectors]:
    """Role -> vectors of the distinct texts of its store; anchors are encoded as queries, all others as documents."""
    found: dict[str, TextVectors] = {}
    for role in source.roles:
        if source.is_ragged(role):
            raise ConfigError(
                Problem("loss.name", f"a guide looks at one text a row, but role {role} of data set '{source.name}' has lists")
            )
        found[role] = role_vectors(model, source, role, side_of(role))
    return found


def role_vectors(model: FrozenModel, source: PreparedSource, role: str, side: Side) -> TextVectors:
    """Vectors of one role, written once for the texts, the model and the way of encoding. Texts that only other roles use are zeros."""
    texts: pa.LargeStringArray = source.store(role).texts.combine_chunks()
    used = np.unique(source.index(role))
    key = digest([VERSION, model.identity, model.way(side), texts_hash(texts), xxhash.xxh3_128_hexdigest(used.tobytes())])
    folder = model.cache / "guides" / key

    def build(into: Path) -> None:
        stored = model.embed(texts.take(pa.array(used)).to_pylist(), side)
        write_vectors(into / VECTORS, stored, used, len(texts))

    make_once(folder, build)
    return TextVectors(folder)


def write_vectors(path: Path, stored: Stored[np.ndarray], places: np.ndarray, count: int) -> None:
    """Write embeddings (M, D) of the texts at `places` into a file of `count` rows, a part at a time."""
    width = stored[np.arange(1)].shape[1]
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, width))
    for start in range(0, len(places), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(places)))
        out[places[part]] = stored[part]
    out.flush()


def texts_hash(texts: pa.LargeStringArray) -> str:
    """Hash of texts in their order."""
    ends, data = text_bytes(texts)
    state = xxhash.xxh3_128(ends.tobytes())
    state.update(data)
    return state.hexdigest()
