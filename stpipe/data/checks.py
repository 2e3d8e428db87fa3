"""Pre-flight rules over loaded rows: vectorised over the distinct texts, so a million rows take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import xxhash

from stpipe.config.errors import DataError
from stpipe.config.formats import LABEL
from stpipe.data.load import Loaded
from stpipe.data.prepared import PreparedSource
from stpipe.data.report import Finding, RoleStats
from stpipe.data.table import shown
from stpipe.data.texts import TextRole, missing_as_empty

EXAMPLES = 5
HASHED_AT_ONCE = 65536
PERCENTILES = (5, 50, 95, 99)
LENGTH_BINS = 40
MIX = np.uint64(0x9E3779B97F4A7C15)


def empty_texts(loaded: Loaded, action: str) -> tuple[Loaded, list[Finding]]:
    """Rows with a text that is None, empty or white space, or without a label."""
    blank = np.append(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(loaded.texts.texts)), 0).to_numpy(zero_copy_only=False), True)
    per_role = {role: _blank_rows(texts, blank) for role, texts in loaded.texts.roles.items()}
    findings: list[Finding] = []
    keep = np.ones(len(loaded), bool)
    for role, bad in per_role.items():
        message = f"{_rows(bad)} with an empty text in role {role} (column '{loaded.roles.columns[role]}')"
        findings += _apply("empty", action, loaded, bad, message, {role: loaded.roles.columns[role]})
        keep &= ~bad
    if loaded.labels is not None and loaded.labels.missing.any():
        bad = loaded.labels.missing
        column = loaded.roles.columns[LABEL]
        message = f"{_rows(bad)} without a label (column '{column}')"
        findings += _apply("empty", "fail" if action == "warn" else action, loaded, bad, message, {LABEL: column})
        keep &= ~bad
    if keep.all():
        return loaded, findings
    if action == "warn":
        return replace(loaded, texts=missing_as_empty(loaded.texts)), findings
    return loaded.take(np.flatnonzero(keep)), findings


def duplicate_rows(loaded: Loaded, action: str) -> tuple[Loaded, list[Finding]]:
    """Rows that repeat an earlier row in every role and in the label."""
    if action == "off":
        return loaded, []
    columns = [row_hash(texts) for texts in loaded.texts.roles.values()]
    if loaded.labels is not None:
        values = loaded.labels.values
        columns.append(row_hash(TextRole(values.view(np.int64 if values.itemsize == 8 else np.int32), loaded.labels.offsets)))
    _, first = np.unique(combine(columns), return_index=True)
    bad = np.ones(len(loaded), bool)
    bad[first] = False
    if not bad.any():
        return loaded, []
    found = _apply("duplicate_rows", action, loaded, bad, f"{_rows(bad)} that repeat an earlier row", loaded.roles.columns)
    return (loaded.take(np.sort(first)) if action == "drop" else loaded), found


def label_range(loaded: Loaded, low: float | None, high: float | None) -> None:
    """Scores outside the range that the loss can reach are an error."""
    labels = loaded.labels
    if labels is None or labels.kind not in ("score", "scores"):
        return
    outside = np.zeros(labels.values.size, bool)
    outside |= labels.values < low if low is not None else False
    outside |= labels.values > high if high is not None else False
    if not outside.any():
        return
    bad = TextRole(np.zeros(outside.size, np.int64), labels.offsets).any_of_row(outside)
    column = loaded.roles.columns[LABEL]
    low_text, high_text = ("-inf" if low is None else f"{low:g}"), ("inf" if high is None else f"{high:g}")
    raise DataError(
        f"{loaded.raw.origin}: {_rows(bad)} with a label outside [{low_text}, {high_text}] (column '{column}', values from "
        f"{labels.values.min():g} to {labels.values.max():g}). Rescale the scores, or set dataset.checks.label_min and label_max. First: "
        + "; ".join(_examples(loaded, bad, {LABEL: column}))
    )


def overlap(train: Loaded, held_out: Loaded, action: str) -> tuple[Loaded, list[Finding]]:
    """Training rows whose anchor, or whose pair of anchor and positive in either order, also occurs in the held-out data."""
    if action == "off":
        return train, []
    first, second = _key_roles(train)
    theirs, their_second = _key_roles(held_out)
    bad = np.isin(text_hashes(train, first), text_hashes(held_out, theirs))
    if second is not None and their_second is not None:
        trained, held = (
            _pair(text_hashes(side, a), text_hashes(side, b)) for side, a, b in ((train, first, second), (held_out, theirs, their_second))
        )
        bad |= np.isin(trained, held)
    if not bad.any():
        return train, []
    message = f"{_rows(bad)} ({bad.mean():.1%}) whose {first} or pair also occurs in the held-out data"
    found = _apply("overlap", action, train, bad, message, {first: train.roles.columns[first]})
    if action == "drop" and bad.all():
        raise DataError(
            f"{train.raw.origin}: all training rows also occur in the held-out data; nothing is left after checks.overlap=drop."
        )
    return (train.take(np.flatnonzero(~bad)) if action == "drop" else train), found


def text_hashes(loaded: Loaded, role: str) -> np.ndarray:
    """(rows,) uint64 hash of the text of one role; 0 where there is none."""
    texts = loaded.texts.roles[role]
    used = np.zeros(len(loaded.texts.texts) + 1, bool)
    used[texts.index] = True
    places = np.flatnonzero(used[:-1])
    table = np.zeros(used.size, np.uint64)
    for start in range(0, places.size, HASHED_AT_ONCE):
        part = places[start : start + HASHED_AT_ONCE]
        table[part] = [xxhash.xxh3_64_intdigest(t.encode()) for t in loaded.texts.texts.take(part).to_pylist()]
    return table[texts.index]


def row_hash(texts: TextRole) -> np.ndarray:
    """(rows,) uint64 of one column: the value itself, or a hash of the list in its order."""
    values = texts.index.astype(np.uint64)
    if texts.offsets is None:
        return values
    inside = np.arange(values.size, dtype=np.int64) - np.repeat(texts.offsets[:-1], texts.counts())
    mixed = combine([values, inside.astype(np.uint64)])
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return running[texts.offsets[1:]] - running[texts.offsets[:-1]] + texts.counts().astype(np.uint64)


def combine(columns: list[np.ndarray]) -> np.ndarray:
    """(rows,) uint64 hash of several uint64 columns."""
    state = np.full(columns[0].shape, MIX, np.uint64)
    for column in columns:
        state = (state ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        state ^= state >> np.uint64(29)
        state *= np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(32)
    return state


def role_stats(source: PreparedSource, role: str) -> RoleStats:
    """Lengths of one role in tokens, before the cut."""
    store, index = source.store(role), source.index(role)
    full, cut = store.full_lengths[index], store.lengths[index]
    percentiles = dict(zip((f"p{p}" for p in PERCENTILES), np.percentile(full, PERCENTILES).tolist(), strict=True)) if full.size else {}
    tokens = {"mean": float(full.mean()), **percentiles, "max": float(full.max())} if full.size else {}
    return RoleStats(
        int(index.size),
        int(np.unique(index).size),
        source.prompts[role],
        source.max_lengths[role],
        tokens,
        float((full > cut).mean()) if full.size else 0.0,
        length_histogram(full),
    )


def length_histogram(lengths: np.ndarray) -> dict[str, Any]:
    """Counts of lengths (N,) in at most LENGTH_BINS bins of equal whole width up to their 99th percentile; the rest is in the last bin."""
    if lengths.size == 0:
        return {}
    top = max(int(np.ceil(np.percentile(lengths, 99))), 1)
    width = -(-top // LENGTH_BINS)
    edges = np.arange(0, top + width, width)
    counts = np.histogram(np.minimum(lengths, edges[-1] - 1), bins=edges)[0]
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def label_stats(source: PreparedSource) -> dict[str, Any] | None:
    """Range of scores, or rows of each class."""
    kind, labels = source.format.label, source.labels()
    if kind is None or labels is None or len(source) == 0:
        return None
    if kind == "class":
        values, counts = np.unique(labels, return_counts=True)
        names = source.classes
        rows = {(names[v] if names and v < len(names) else str(v)): int(c) for v, c in zip(values, counts, strict=True)}
        return {
            "kind": kind,
            "classes": len(rows),
            "rows": rows if len(rows) <= 50 else None,
            "smallest": int(counts.min()),
            "largest": int(counts.max()),
        }
    flat = np.concatenate(list(labels)) if kind == "scores" else labels
    return {"kind": kind, "min": float(flat.min()), "max": float(flat.max()), "mean": float(flat.mean())} if flat.size else {"kind": kind}


def group_stats(source: PreparedSource) -> dict[str, Any]:
    """How many texts or rows belong together: documents a list, rows of one anchor."""
    first = next(iter(source.roles))
    sizes = source.counts("documents") if "documents" in source.roles else np.unique(source.text_ids(first), return_counts=True)[1]
    what = "documents per row" if "documents" in source.roles else f"rows per {first}"
    if sizes.size == 0:
        return {}
    return {"what": what, "groups": int(sizes.size), "min": int(sizes.min()), "mean": float(sizes.mean()), "max": int(sizes.max())}


def truncation(stats: Mapping[str, RoleStats], limit: float) -> list[Finding]:
    """Roles of which more than `limit` of the texts are cut."""
    return [
        Finding(
            "truncated_share",
            "warn",
            round(s.truncated_share * s.texts),
            f"{s.truncated_share:.0%} of the texts of role {role} are cut at {s.max_length} tokens (raise "
            f"dataset.max_length.{role}, or accept it with dataset.checks.truncated_share)",
        )
        for role, s in stats.items()
        if s.truncated_share > limit
    ]


def _key_roles(loaded: Loaded) -> tuple[str, str | None]:
    """The roles that say what a row is about: anchor and positive, query and document, or the anchor alone."""
    roles = list(loaded.texts.roles)
    partner = next((r for r in ("positive", "document") if r in roles), None)
    return roles[0], partner


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return combine([np.minimum(a, b), np.maximum(a, b)])


def _blank_rows(texts: TextRole, blank: np.ndarray) -> np.ndarray:
    bad = texts.any_of_row(blank[texts.index])
    return bad if texts.offsets is None else bad | (texts.counts() == 0)


def _rows(bad: np.ndarray) -> str:
    count = int(bad.sum())
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _apply(rule: str, action: str, loaded: Loaded, bad: np.ndarray, message: str, columns: Mapping[str, str]) -> list[Finding]:
    """Nothing when no row is bad; an error, or a finding, when the rule says so."""
    if not bad.any():
        return []
    examples = _examples(loaded, bad, columns)
    if action == "fail":
        raise DataError(
            f"{loaded.raw.origin}: {message}. Correct the data, or set dataset.checks.{rule} to drop or warn. First: " + "; ".join(examples)
        )
    return [Finding(rule, action, int(bad.sum()), f"{message}{', dropped' if action == 'drop' else ''}", tuple(examples))]


def _examples(loaded: Loaded, bad: np.ndarray, columns: Mapping[str, str]) -> list[str]:
    """The first bad rows: place and what was found in each column (ids for joined columns)."""
    out = []
    for row in np.flatnonzero(bad)[:EXAMPLES]:
        source_row = int(loaded.origin[row])
        found = ", ".join(f"{column}={shown(loaded.raw.table[column][source_row].as_py())}" for column in columns.values())
        out.append(f"{loaded.place(int(row))}: {found}")
    return out
