"""Texts that show what the model does: in the widget of the Hub, and in the snippets of the card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stpipe.core.rows import Rows

#: Used unless the author allows rows of the training data in the card (card.examples).
SENTENCES = ("The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium.", "She took the train to the match.")
SEARCH = (
    "how to read a file line by line",
    "Iterate over the open file object: it yields one line at a time.",
    "Water boils at 100 degrees Celsius at sea level.",
    "A list keeps its elements in order, a set does not.",
)
CLASSES = ("A man is eating a piece of bread.", "A man eats something.", "A man is eating a piece of bread.", "Nobody is eating.")
WANTED = 4
LONGEST = 300


def usage_examples(rows: Rows) -> list[str]:
    """WANTED short texts of a data set, all different: those of its shortest row, then the second texts of the next shortest rows.

    The first is a query or anchor, the second goes with it. Empty when there are too few, or all are longer than LONGEST characters.
    """
    ranked = sorted(_texts(rows), key=lambda texts: sum(map(len, texts)))
    found: list[str] = []
    for number, texts in enumerate(ranked):
        more = texts if number == 0 else texts[1:2] or texts[:1]
        found += [text for text in more if text not in found]
        if len(found) >= WANTED:
            return found[:WANTED]
    return []


def widget(tag: str, texts: list[str]) -> list[dict[str, Any]]:
    """Examples for the Hub's widget of a task: similarity has one text against others; tasks on pairs have no widget."""
    if tag == "sentence-similarity":
        return [{"source_sentence": texts[0], "sentences": texts[1:]}]
    return [{"text": text} for text in texts[:2]] if tag == "feature-extraction" else []


def default_examples(*, retrieval: bool, classes: bool = False) -> list[str]:
    """Texts of nobody's data."""
    return list(CLASSES if classes else SEARCH if retrieval else SENTENCES)


def _texts(rows: Rows) -> Iterator[list[str]]:
    """The texts of each row that has no empty and no long one, lists of documents cut to two."""
    for values in zip(*rows.columns.values(), strict=True):
        texts = [text for value in values for text in ([value] if isinstance(value, str) else list(value)[:2])]
        if texts and all(text.strip() and len(text) <= LONGEST for text in texts):
            yield texts
