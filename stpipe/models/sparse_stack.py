"""The modules of sparse models, made from checkpoints that are not sparse models yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stpipe.models.format import LoadOptions, dense_stack, first_folder, read_json, read_masked_lm, read_task, stored_limits
from stpipe.models.modules import Module, Router, SparseAutoEncoder, SparseStaticEmbedding, SpladePooling

SPARSE = (SpladePooling, SparseAutoEncoder, SparseStaticEmbedding, Router)


def splade_stack(
    directory: Path, options: LoadOptions, *, pooling: str = "max", activation: str = "relu", fresh_head: bool = False
) -> list[Module]:
    """SPLADE on the masked-language model in a directory; fresh_head gives an encoder that has no head a new one."""
    folder = first_folder(directory)
    stored = stored_limits(folder)
    graph = options.backend != "torch"
    backbone = read_task("fill-mask", folder, options, stored) if graph else read_masked_lm(folder, options, stored, fresh_head=fresh_head)
    return [backbone, SpladePooling(pooling=pooling, activation=activation, embedding_dim=backbone.output_dim())]


def bare_sparse_stack(directory: Path, options: LoadOptions) -> list[Module]:
    """A transformers checkpoint as a sparse model: SPLADE where its architecture is a masked-language model, else (also for
    ...ForPreTraining) a new autoencoder on the mean of its token vectors, four times as wide as these."""
    architectures = read_json(directory / "config.json").get("architectures") or []
    if any(name.endswith("ForMaskedLM") for name in architectures):
        return splade_stack(directory, options)
    dense = dense_stack(directory, options)
    width = width_of(dense)
    return [*dense, SparseAutoEncoder(width, hidden_dim=4 * width, k=min(256, 4 * width), k_aux=512)]


def sparse_stack(modules: Sequence[Module]) -> list[Module]:
    """The modules of a stored model; those of a dense one get a new autoencoder: four times as wide as the embedding, a quarter of
    its width active."""
    if any(isinstance(module, SPARSE) for module in modules):
        return list(modules)
    width = width_of(modules)
    return [*modules, SparseAutoEncoder(width, hidden_dim=4 * width, k=max(1, width // 4), k_aux=width // 2)]


def width_of(modules: Sequence[Module]) -> int:
    """Width of the embedding after all modules."""
    width = 0
    for module in modules:
        width = module.output_dim(width)
    return width
