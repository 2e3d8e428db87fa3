"""A static embedding made from a model that reads its tokens one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from stpipe.core.tokens import Tokens
from stpipe.models.modules import StaticEmbedding
from stpipe.models.modules.sparse_static_embedding import vocabulary_size
from stpipe.models.sentence_transformer import SentenceTransformer

DIMENSIONS = 256
SIF = 1e-4
TOKENS_A_FORWARD = 4096


def distil_static(model: SentenceTransformer, *, dimensions: int | None = DIMENSIONS, sif: float | None = SIF) -> StaticEmbedding:
    """Static embedding of a dense model: no data and no training, a few seconds for a small model.

    Vector of token t: w_t P (e_t - mean of e), with e_t the model's embedding of the text that is t alone, P its first principal
    components, and w_t = a / (a + p_t), which takes out what frequent tokens say about every text. p_t is by Zipf's law,
    proportional to 1 / rank, and the rank of a token is its number, since vocabularies are sorted by frequency.
    Source: Model2Vec (Tulkens and van Dongen, 2024); w_t is equation 3 of Arora et al., 2017.

    Args:
        model: dense model with a transformer.
        dimensions: principal components to keep; None, or as many as the model has, keeps all of them. 256 loses little.
        sif: a; None weighs all tokens alike.
    """
    vectors = token_embeddings(model)
    centred = vectors - vectors.mean(0)
    if dimensions is not None and dimensions < centred.shape[1]:
        _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending, so the strongest come last
        centred = centred @ directions[:, -dimensions:].flip(1)
    if sif is not None:
        share = 1 / torch.arange(1, len(centred) + 1, dtype=torch.float64)
        centred = centred * (sif / (sif + share / share.sum()))[:, None]
    return StaticEmbedding(model.tokenizer, weight=centred.float())


@torch.inference_mode()
def token_embeddings(model: SentenceTransformer) -> Tensor:
    """(V, D) float64 on the CPU: the model's embedding of each token of its tokenizer, alone between the special tokens of a text."""
    tokenizer = model.tokenizer
    start, end = frame(tokenizer)
    numbers = torch.arange(vocabulary_size(tokenizer))
    length = len(start) + 1 + len(end)
    found = []
    for part in numbers.split(TOKENS_A_FORWARD // length):
        rows = torch.cat([torch.tensor(start).expand(len(part), -1), part[:, None], torch.tensor(end).expand(len(part), -1)], 1)
        tokens = Tokens(rows.reshape(-1).long(), torch.full((len(part),), length))
        found.append(model.encoder(tokens.to(model.device)).values.double().cpu())
    return torch.cat(found)


def frame(tokenizer: object) -> tuple[list[int], list[int]]:
    """Special tokens that the tokenizer puts before and behind a text."""
    ids: list[int] = tokenizer([""], return_attention_mask=False)["input_ids"][0]  # type: ignore[operator]
    middle = (len(ids) + 1) // 2
    return ids[:middle], ids[middle:]
