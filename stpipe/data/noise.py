"""Damaged copies of texts, to be made whole again: the collator of denoising."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Batch
from stpipe.core.tokens import Tokens
from stpipe.data.pairs import mixed
from stpipe.data.prepared import PreparedSource

#: Marks of the token that begins a word, by kind of vocabulary (SentencePiece, byte-level BPE), and of one that goes on (WordPiece).
BEGINS = ("\u2581", "\u0120")
GOES_ON = "##"


@dataclass(frozen=True)
class Boundaries:
    """Which tokens begin a word, and which are none. begins, special (V,) bool."""

    begins: np.ndarray
    special: np.ndarray

    @staticmethod
    def of(tokenizer: Any) -> Boundaries:
        """Those of a transformers tokenizer's vocabulary.

        In WordPiece every token without `##` begins a word, punctuation too; where the vocabulary marks beginnings, punctuation
        belongs to the word that it follows; where it marks nothing, every token is a word.
        """
        size = len(tokenizer)
        tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
        text = [token or "" for token in tokens]
        mark = next((m for m in BEGINS if any(t.startswith(m) for t in text)), None)
        if any(t.startswith(GOES_ON) and len(t) > len(GOES_ON) for t in text):
            begins = [not t.startswith(GOES_ON) for t in text]
        elif mark is not None:
            begins = [t.startswith(mark) for t in text]
        else:
            begins = [True] * size
        special = np.zeros(size, bool)
        names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
        special[[i for name in names if (i := getattr(tokenizer, name, None)) is not None]] = True
        return Boundaries(np.array(begins), special)


def delete_words(tokens: Tokens, boundaries: Boundaries, *, ratio: float, rows: np.ndarray, seed: int) -> Tokens:
    """The texts with words left out, each with probability `ratio`, but never all of a text; special tokens and prompts stay.

    Whether a word stays depends on the seed, the row and the place of the word, on nothing else: neither on the other texts nor on
    how many processes there are.

    Args:
        tokens: N texts, on the CPU.
        boundaries: of their tokenizer.
        ratio: share of words to delete, from 0 to below 1.
        rows: (N,) int64 number of each text.
        seed: of this batch.
    """
    ids, lengths = tokens.ids.numpy(), tokens.lengths.numpy()
    text = np.repeat(np.arange(lengths.size), lengths)
    fixed = boundaries.special[ids]
    if tokens.prompt_lengths is not None:
        fixed = fixed | (tokens.positions().numpy() < tokens.prompt_lengths.numpy()[text])
    first = np.ones(ids.size, bool)
    first[1:] = (text[1:] != text[:-1]) | fixed[:-1]
    begins = ~fixed & (boundaries.begins[ids] | first)
    if not begins.any():
        return tokens
    word = begins.cumsum() - 1  # of each token that is not fixed
    owner = text[begins]
    draw = uniform(rows[owner], np.arange(owner.size) - np.searchsorted(owner, owner), seed)
    largest = np.zeros(lengths.size)
    np.maximum.at(largest, owner, draw)
    stays = (draw >= ratio) | (draw == largest[owner])  # the largest stays anyway, unless none does
    keep = fixed | stays[np.maximum(word, 0)]
    left = np.bincount(text[keep], minlength=lengths.size)
    return Tokens(torch.from_numpy(ids[keep]), torch.from_numpy(left), tokens.prompt_lengths)


def uniform(rows: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
    """Numbers in [0, 1), one for each row and place."""
    return (mixed(mixed(rows, seed).view(np.int64) ^ places) >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class NoisyCollator:
    """Rows of one data set of texts as a batch: the damaged anchors as its texts, and whole in `targets.tokens`.

    The noise is new in every epoch, because the seed of a batch depends on its number in the run.

    boundaries: of the tokenizer of the anchors; ratio: share of words to delete.
    """

    boundaries: Boundaries
    ratio: float = 0.6

    def __call__(self, source: PreparedSource, rows: np.ndarray, part: slice, seed: int) -> Batch:
        """The rows `part` of the global batch `rows`."""
        batch = source.batch(rows[part])
        if "anchor" not in batch.columns:
            raise ConfigError(
                f"data set '{source.name}' has the roles {', '.join(batch.columns)}: denoising needs an anchor, the whole text"
            )
        whole = batch.columns["anchor"]
        damaged = delete_words(whole.tokens, self.boundaries, ratio=self.ratio, rows=rows[part], seed=seed)
        columns = {**batch.columns, "anchor": replace(whole, tokens=damaged)}
        return replace(batch, columns=columns, targets=replace(batch.targets, tokens=whole.tokens))

    def row_tokens(self, source: PreparedSource) -> np.ndarray:
        """(rows,) int64 tokens of each row, at most."""
        return source.row_tokens()
