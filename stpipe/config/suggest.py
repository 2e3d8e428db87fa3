"""Nearest valid name: the suggestion in every error about a name that matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word`, ignoring case; None when nothing is close.

    Close is one edit, or one edit for each three characters, or more than 60 % of the characters in common.
    """
    word = word.lower()
    best: tuple[int, float, str] | None = None
    for candidate in candidates:
        distance = edit_distance(word, candidate.lower())
        ratio = difflib.SequenceMatcher(None, word, candidate.lower()).ratio()
        if distance <= max(1, len(word) // 3) or ratio > 0.6:
            best = min(best or (distance, -ratio, candidate), (distance, -ratio, candidate))
    return best[2] if best else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`Did you mean 'x'? `, or nothing."""
    guess = nearest(word, candidates)
    return f"Did you mean '{guess}'? " if guess else ""


def unknown_name(kind: str, name: str, candidates: Iterable[str]) -> str:
    """Message for a name that matches nothing: nearest valid name, then all of them."""
    known = sorted(candidates)
    return f"unknown {kind} '{name}'. {did_you_mean(str(name), known)}Known: {', '.join(known) or 'none'}"
