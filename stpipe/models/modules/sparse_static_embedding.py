"""A weight a word and no network: the query side of inference-free sparse retrieval."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.tokens import Tokens
from stpipe.models.modules.module import Features, Module, fill, read_config, read_weights
from stpipe.models.tokenizer import load_tokenizer
from stpipe.ops.convert import upcast


class SparseStaticEmbedding(Module):
    """Weight of word v in a text: w_v if the text holds v, else 0, however often it does.

    Source: arXiv:2411.04403 (idf as w) and arXiv:2505.01452 (w learned). Texts are tokenised without special tokens and cut
    at the tokenizer's limit; the tokens of a prompt take part, and so does the unknown token. An embedding (N, V) that an
    earlier module made is multiplied by these weights. A text of no tokens gets zeros.

    Where the format's other reader lets the padding of a batch erase a padding token written in the text itself, that token
    counts here like any other, so that a text's embedding does not depend on the texts next to it.

    Args:
        tokenizer: a transformers tokenizer.
        weight: (V,) w; None is 1 for every word.
        frozen: keep w as it is in training.

    Raises:
        ConfigError: weight is no vector, or has fewer entries than the tokenizer has tokens.
    """

    type_name = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
    is_input = True
    special_tokens = False

    def __init__(self, tokenizer: Any, *, weight: Tensor | None = None, frozen: bool = False) -> None:
        super().__init__()
        words = vocabulary_size(tokenizer)
        values = torch.ones(words) if weight is None else weight.detach().clone()
        if values.dim() != 1 or values.numel() < words:
            raise ConfigError(
                f"SparseStaticEmbedding: weight has shape {tuple(values.shape)}, but the tokenizer has {words} tokens; "
                "give one weight a token, shape (V,) with V at least that"
            )
        self.tokenizer = tokenizer
        self.weight = nn.Parameter(values)
        self.freeze(frozen)

    def freeze(self, frozen: bool) -> None:
        """Whether w is kept as it is in training; saved with the module."""
        self.frozen = frozen
        self.weight.requires_grad_(not frozen)

    @property
    def num_dimensions(self) -> int:
        """V."""
        return self.weight.numel()

    def forward(self, features: Features) -> dict[str, Any]:
        """Sets sentence_embedding (N, V), at least float32, of input_ids (T,) and lengths (N,)."""
        present = token_presence(features["input_ids"], features["lengths"], self.num_dimensions)
        weight = upcast(self.weight)
        # The backward of `where` sums over texts in a fixed order and holds one (N, V), never a row a token.
        embedding = torch.where(present, weight, weight.new_zeros(()))
        before = features.get("sentence_embedding")
        return {**features, "sentence_embedding": embedding if before is None else embedding * before}

    def output_dim(self, input_dim: int = 0) -> int:
        return self.num_dimensions

    def config(self) -> dict[str, Any]:
        return {"frozen": self.frozen}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Module:
        raise NotImplementedError("a SparseStaticEmbedding also needs a tokenizer; read it with load")

    def save(self, directory: Path) -> None:
        """config.json, model.safetensors and the files of the tokenizer."""
        super().save(directory)
        self.tokenizer.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path) -> SparseStaticEmbedding:
        """Read a folder. Early versions name a JSON file of weights by words under `path`, in place of a tensor file."""
        values = read_config(directory)
        frozen, path = bool(values.get("frozen", False)), values.get("path")
        tokenizer = load_tokenizer(directory)
        if path and str(path).endswith(".json"):
            return cls.from_json(json_file(directory, str(path)), tokenizer=tokenizer, frozen=frozen)
        weights = read_weights(directory, cls.__name__)
        module = cls(tokenizer, weight=weights.get("weight"), frozen=frozen)
        fill(module, weights, directory)
        return module

    @classmethod
    def from_json(cls, file: Path, *, tokenizer: Any, frozen: bool = False) -> SparseStaticEmbedding:
        """Weights of a JSON object {word: weight}. Words that it does not name get 0; those the tokenizer does not have are left out.

        Raises:
            ConfigError: there is no such file, it is no such object, or the tokenizer has none of its words.
        """
        try:
            stored = {str(word): float(value) for word, value in json.loads(file.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f'{file}: expected a JSON object of words and their weights, like {{"cat": 7.1}}: {error}') from error
        ids = tokenizer.get_vocab()
        known = {ids[word]: value for word, value in stored.items() if word in ids}
        if not known:
            raise ConfigError(f"{file}: none of its {len(stored)} words is a token of the tokenizer; use the file made for this tokenizer")
        weight = torch.zeros(vocabulary_size(tokenizer))
        weight[torch.tensor(list(known))] = torch.tensor(list(known.values()))
        return cls(tokenizer, weight=weight, frozen=frozen)

    @classmethod
    def from_idf(
        cls, tokenizer: Any, *, documents: Iterable[Tokens], vocabulary: int | None = None, frozen: bool = False
    ) -> SparseStaticEmbedding:
        """Weights that start as the inverse document frequency of a corpus, see `inverse_document_frequency`.

        Special tokens get 0: they stand in all documents or in none, and tell nothing about either.

        Args:
            tokenizer: a transformers tokenizer, the one that made the documents' tokens.
            documents: the corpus, in parts of any size; they are read once and not kept.
            vocabulary: V; None is the tokenizer's own number of tokens. Some models have more outputs than tokens.
            frozen: keep the weights as they are in training.

        Raises:
            DataError: there are no documents.
        """
        size = vocabulary or vocabulary_size(tokenizer)
        frequency, count = torch.zeros(size, dtype=torch.int64), 0
        for part in documents:
            frequency += document_frequency(part, size)
            count += len(part)
        if count == 0:
            raise DataError("idf weights need documents to be counted over, but there are none; name a corpus, or start from other weights")
        weight = inverse_document_frequency(frequency, num_documents=count)
        weight[torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.int64)] = 0.0
        return cls(tokenizer, weight=weight, frozen=frozen)


def vocabulary_size(tokenizer: Any) -> int:
    """Number that is larger than any id that the tokenizer gives."""
    return 1 + max(tokenizer.get_vocab().values())


def token_presence(ids: Tensor, lengths: Tensor, vocabulary: int) -> Tensor:
    """(N, V) bool: whether each word stands in each text. ids (T,); lengths (N,) int64 on the CPU."""
    rows = torch.repeat_interleave(torch.arange(lengths.numel()), lengths).to(ids.device, non_blocking=True)
    present = torch.zeros(lengths.numel(), vocabulary, dtype=torch.bool, device=ids.device)
    present[rows, ids] = True
    return present


def document_frequency(documents: Tokens, vocabulary: int) -> Tensor:
    """(V,) int64: in how many of the documents each word stands."""
    rows = torch.repeat_interleave(torch.arange(len(documents)), documents.lengths)
    pairs = torch.unique(rows * vocabulary + documents.ids.cpu())
    return torch.bincount(pairs % vocabulary, minlength=vocabulary)


def inverse_document_frequency(frequency: Tensor, *, num_documents: int) -> Tensor:
    """(V,) float32: idf_v = ln(1 + (n - df_v + 1/2) / (df_v + 1/2)), never below 0.

    The form of BM25 in Lucene, which arXiv:2411.04403 uses for queries. frequency (V,): df; num_documents: n.
    """
    df = frequency.double()
    return torch.log1p((num_documents - df + 0.5) / (df + 0.5)).float()


def json_file(directory: Path, path: str) -> Path:
    """The file of weights that a config.json names: below its own folder, or of that name in it."""
    place = PureWindowsPath(path)  # reads both kinds of separators
    inside = not place.anchor and ".." not in place.parts
    candidates = ([directory.joinpath(*place.parts)] if inside else []) + [directory / place.name, directory / "idf.json"]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{directory / 'config.json'}: path '{path}' names a file of weights that is not there; put it at {candidates[0]}"
        )
    return found
