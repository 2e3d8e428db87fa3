from __future__ import annotations

import numpy as np

from stpipe.data.near_duplicates import first_of_near_duplicates


def jaccard(a: list[str], b: list[str]) -> float:
    x, y = ({tuple(t[i : i + 3]) for i in range(max(1, len(t) - 2))} for t in (a, b))
    return len(x & y) / len(x | y)


def test_agrees_with_brute_force() -> None:
    random = np.random.default_rng(0)
    base = [[f"w{n}" for n in random.integers(0, 500, 60)] for _ in range(60)]
    texts = list(base)
    for text in base:
        for changes in (0, 1, 2, 20):
            copy = list(text)
            for place in random.choice(60, changes, replace=False):
                copy[place] = "changed"
            texts.append(copy)
    kept: list[int] = []
    for i, text in enumerate(texts):
        if all(jaccard(text, texts[j]) < 0.8 for j in kept):
            kept.append(i)
    assert 60 < len(kept) < len(texts) - 100
    assert np.flatnonzero(first_of_near_duplicates(texts)).tolist() == kept


def test_short_and_no_texts() -> None:
    assert first_of_near_duplicates([]).tolist() == []
    assert first_of_near_duplicates([["a"], ["a"], [], ["b"], []]).tolist() == [True, False, True, True, False]
