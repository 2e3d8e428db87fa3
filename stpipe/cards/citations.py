"""BibTeX of what a run used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stpipe.cards.losses import LossFacts


def entry_key(bibtex: str) -> str:
    """The key of a BibTeX entry, by which duplicates are found."""
    found = re.search(r"@\w+\{([^,\s]+)", bibtex)
    return found[1] if found else bibtex


def grouped_citations(losses: Iterable[LossFacts]) -> dict[str, str]:
    """Names of the objectives that a source belongs to -> its BibTeX; each source once, in order of first use."""
    names: dict[str, list[str]] = {}
    entries: dict[str, str] = {}
    for loss in losses:
        for citation in loss.citations:
            key = entry_key(citation)
            entries.setdefault(key, citation)
            if loss.name not in names.setdefault(key, []):
                names[key].append(loss.name)
    found: dict[str, str] = {}
    for key, entry in entries.items():
        title = ", ".join(names[key])
        found[title] = f"{found[title]}\n\n{entry}" if title in found else entry
    return found
