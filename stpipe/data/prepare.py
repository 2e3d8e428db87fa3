"""From the configuration's data section to tokenised data: read, give roles, check, split, tokenise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.formats import text_roles
from stpipe.config.sections import DatasetSection, SourceSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data import checks
from stpipe.data.buffered import Encodings
from stpipe.data.load import Loaded, load
from stpipe.data.prepared import PreparedSource
from stpipe.data.provenance import provenance
from stpipe.data.report import Finding, ScanReport, SplitScan
from stpipe.data.sources import SourceRequest, has_own_split
from stpipe.data.split import cap, hold_out
from stpipe.data.stream_start import begin
from stpipe.data.teacher import Teacher
from stpipe.data.teaching import Teach, taught
from stpipe.data.windows import RowStream, StreamedSource
from stpipe.data.write import Encoding, TokenizeOptions, tokenizer_fingerprint, write_prepared

STREAMED = "only the first {:,} rows of {} were looked at before training: it is streamed"
EVAL_SPLITS = ("validation", "dev", "test", "eval")
SYMMETRIC = ("text", "text-vector", "pair-vector", "labelled-text", "pair-score", "pair-class")


@dataclass(frozen=True, slots=True)
class PreparedData:
    """train and eval by name of the data set (a data set without held-out rows is not in eval); scan: what the checks found."""

    train: Mapping[str, PreparedSource]
    eval: Mapping[str, PreparedSource]
    scan: ScanReport


@dataclass(slots=True)
class _Side:
    """One split on its way: its rows, how many were read, findings so far."""

    loaded: Loaded
    read: int
    findings: list[Finding] = field(default_factory=list)
    stream: RowStream | None = None
    """Where these are only the first rows: how all of them are read."""


def prepare(
    section: DatasetSection,
    *,
    tokenizers: Callable[[str, Mapping[str, str]], RoleTokenizer],
    model_prompts: Mapping[str, str] | None = None,
    offline: bool = False,
    label_ranges: Mapping[str, tuple[float | None, float | None]] | None = None,
    teacher: Teacher | None = None,
    teach: Teach | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PreparedData:
    """Prepare all data sets of a run. Safe to call from several processes at once: the work is done by one.

    Args:
        section: the `dataset` section.
        tokenizers: (role, routes of the data set) -> how the role's texts become tokens; its maximum length is for roles that
            `dataset.max_length` does not name.
        model_prompts: the model's prompts by name; used for roles that `dataset.prompts` does not name.
        offline: ask no hub.
        label_ranges: data set -> labels that its loss can make sense of; `dataset.checks.label_min` and `label_max` come first.
        teacher: scores embedded data in the formats triplet-score and n-tuple-scores.
        teach: gives the rows of data sets with `teacher` their labels.
        progress: called with (what, done, total).
    """
    options = TokenizeOptions(section.cache_dir, section.num_proc, progress)
    encoder = _Encodings(tokenizers, model_prompts or {})
    train: dict[str, PreparedSource] = {}
    held_out: dict[str, PreparedSource] = {}
    scans: dict[str, dict[str, SplitScan]] = {}
    seen: set[str] = set()
    for name, source, path, sides in _all_sides(section, offline=offline, label_ranges=label_ranges, teacher=teacher):
        for split, side in sides.items():
            if source.teacher is not None and side.loaded.labels is None and side.loaded.format.label is not None:
                limits = _limits(section, (label_ranges or {}).get(name, (None, None)))
                side.loaded = taught(side.loaded, source.teacher, teach, path=f"{path}.teacher", split=split, limits=limits)
        scans[name] = {}
        roles = {role for side in sides.values() for role in side.loaded.texts.roles}
        seen |= roles
        _check_role_keys(section.sources.get(name, section), roles, path)
        for split, side in sides.items():
            encodings = encoder.of(side.loaded, source)
            prepared = write_prepared(side.loaded, encodings, options, name=name)
            if side.stream is not None:
                prepared = StreamedSource(prepared.folder, name=name, stream=replace(side.stream, encodings=Encodings.of(encodings)))
            scans[name][split] = _scan(side, prepared, section)
            (train if split == "train" else held_out)[name] = prepared
    _check_role_keys(section, seen, "dataset")
    return PreparedData(train, held_out, ScanReport(scans))


def read_splits(
    section: DatasetSection,
    *,
    offline: bool = False,
    label_ranges: Mapping[str, tuple[float | None, float | None]] | None = None,
    teacher: Teacher | None = None,
) -> dict[str, dict[str, Loaded]]:
    """Data set -> split ("train", and "eval" where rows are held out) -> the rows that `prepare` would tokenise, without labels of
    teachers. Arguments are those of `prepare`.
    """
    untaught = {name: replace(source, teacher=None) for name, source in section.sources.items()}
    found = _all_sides(replace(section, teacher=None, sources=untaught), offline=offline, label_ranges=label_ranges, teacher=teacher)
    return {name: {split: side.loaded for split, side in sides.items()} for name, _, _, sides in found}


def _all_sides(
    section: DatasetSection,
    *,
    offline: bool,
    label_ranges: Mapping[str, tuple[float | None, float | None]] | None,
    teacher: Teacher | None,
) -> Iterator[tuple[str, SourceSection, str, dict[str, _Side]]]:
    """(name, keys, key path, checked rows by split) of each data set."""
    for name, source in data_sets(section).items():
        path = "dataset" if not section.sources else f"dataset.sources.{name}"
        asked = _request(section, source, path, offline=offline, teacher=teacher)
        sides = _streamed_sides if source.streaming else _sides
        yield (
            name,
            source,
            path,
            sides(section, source, asked, name=name, path=path, label_range=(label_ranges or {}).get(name, (None, None))),
        )


def data_sets(section: DatasetSection) -> dict[str, SourceSection]:
    """The data sets by name. A key that a data set leaves at its default takes the value at the top of the section."""
    names = [f.name for f in fields(SourceSection)]
    top = SourceSection(**{n: getattr(section, n) for n in names})
    found = {name: _inherit(source, top) for name, source in section.sources.items()} or {"default": top}
    what = "no data is named; set a Hub id, a path, package://MODULE/PATH or stdlib://docstrings"
    missing = [
        Problem(f"dataset.sources.{n}.train" if section.sources else "dataset.train", what) for n, s in found.items() if s.train is None
    ]
    if missing:
        raise ConfigError(missing)
    return found


def _inherit(source: SourceSection, top: SourceSection) -> SourceSection:
    default = SourceSection()
    changed = {f.name: getattr(top, f.name) for f in fields(SourceSection) if getattr(source, f.name) == getattr(default, f.name)}
    for name in ("max_length", "prompts", "routes"):
        changed[name] = {**getattr(top, name), **getattr(source, name)}
    return replace(source, **changed)


def _request(section: DatasetSection, source: SourceSection, path: str, *, offline: bool, teacher: Teacher | None) -> SourceRequest:
    """What the training rows of one data set are asked for."""
    assert source.train is not None
    return SourceRequest(
        source.train,
        f"{path}.train",
        splits=(source.split or "train",),
        optional_split=source.split is None,
        subset=source.subset,
        revision=source.revision,
        format=source.format,
        cache_dir=section.cache_dir,
        offline=offline,
        teacher=teacher,
        rows=source.max_rows,
        seed=source.split_seed,
    )


def _sides(
    section: DatasetSection,
    source: SourceSection,
    request: SourceRequest,
    *,
    name: str,
    path: str,
    label_range: tuple[float | None, float | None],
) -> dict[str, _Side]:
    """The training and the held-out rows of one data set, checked."""
    rules = section.checks
    train = _checked(load(source, request, path=path), section, label_range)
    held_out = _held_out(section, source, request, train, path, label_range)
    if held_out is None and source.eval_rows:
        rest, chosen = hold_out(train.loaded, rows=source.eval_rows, seed=source.split_seed)
        if len(chosen):
            train.loaded, held_out = rest, _Side(chosen, train.read)
    elif held_out is not None and len(held_out.loaded):
        train.loaded, found = checks.overlap(train.loaded, held_out.loaded, rules.overlap)
        train.findings += found
    train.loaded = cap(train.loaded, source.max_rows, seed=source.split_seed)
    return {"train": train} if held_out is None or not len(held_out.loaded) else {"train": train, "eval": held_out}


def _streamed_sides(
    section: DatasetSection,
    source: SourceSection,
    request: SourceRequest,
    *,
    name: str,
    path: str,
    label_range: tuple[float | None, float | None],
) -> dict[str, _Side]:
    """The same for a stream: its first rows, checked, and the held-out ones."""
    assert source.train is not None
    rules = section.checks
    own = source.eval is None and not has_own_split(source.train) and source.eval_rows > 0
    start = begin(source, request, name=name, path=path, hold_out=own, checks=section.checks, limits=_limits(section, label_range))
    train = _checked(start.first, section, label_range)
    if own:
        held_out = None if start.held_out is None else _checked(start.held_out, section, label_range)
    else:
        held_out = _held_out(section, source, request, train, path, label_range)
    if held_out is not None:
        train.loaded, found = checks.overlap(train.loaded, held_out.loaded, rules.overlap)
        train.findings += found
    train.findings.append(Finding("streaming", "stream", len(train.loaded), STREAMED.format(len(train.loaded), source.train)))
    train.stream = replace(start.stream, held_out=None if held_out is None else held_out.loaded)
    return {"train": train} if held_out is None else {"train": train, "eval": held_out}


def _held_out(
    section: DatasetSection,
    source: SourceSection,
    request: SourceRequest,
    train: _Side,
    path: str,
    label_range: tuple[float | None, float | None],
) -> _Side | None:
    """The held-out rows that the configuration or the source itself names."""
    assert source.train is not None
    address = source.eval or (source.train if has_own_split(source.train) else None)
    if address is None or source.eval_rows == 0:
        return None
    wanted = (source.eval_split,) if source.eval_split else EVAL_SPLITS
    asked = replace(
        request,
        uri=address,
        key=f"{path}.eval",
        splits=wanted,
        optional_split=source.eval_split is None,
        # A teacher's label is no part of what is read.
        format=source.eval_format or (source.format if source.teacher is not None else train.loaded.format.name),
        rows=source.eval_rows,
    )
    known = train.loaded.labels.classes if train.loaded.labels is not None else None
    if source.eval_format is not None:  # rows with a format of their own have labels of their own
        source = replace(source, teacher=None)
    side = _checked(load(source, asked, path=path, classes=known or ()), section, label_range)
    mine, theirs = ((s.loaded.format.name, *s.loaded.texts.roles) for s in (side, train))
    if source.eval_format is None and mine != theirs:
        raise DataError(
            f"{side.loaded.raw.origin}: found the format {mine[0]} ({', '.join(mine[1:])}), expected that of the training data, "
            f"{theirs[0]} ({', '.join(theirs[1:])}). Where it is meant to be another, name it in {path}.eval_format."
        )
    side.loaded = cap(side.loaded, source.eval_rows, seed=source.split_seed)
    return side


def _limits(section: DatasetSection, label_range: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    """Least and greatest label: as configured, else what the loss can make sense of."""
    rules = section.checks
    low = label_range[0] if rules.label_min is None else rules.label_min
    return low, label_range[1] if rules.label_max is None else rules.label_max


def _checked(loaded: Loaded, section: DatasetSection, label_range: tuple[float | None, float | None]) -> _Side:
    """Rules that concern one table by itself."""
    rules = section.checks
    read = len(loaded)
    loaded, empty = checks.empty_texts(loaded, rules.empty)
    loaded, repeated = checks.duplicate_rows(loaded, rules.duplicate_rows)
    checks.label_range(loaded, *_limits(section, label_range))
    if len(loaded) == 0:
        raise DataError(f"{loaded.raw.origin}: no row is left of {read} after dropping what the checks found.")
    asked = [Finding("source", "drop", rows, f"{rows:,} rows {why}, dropped") for why, rows in loaded.raw.left_out.items()]
    return _Side(loaded, read, [*asked, *empty, *repeated])


class _Encodings:
    """Prompt, maximum length and tokenizer of each role; a tokenizer that several roles use is hashed once."""

    def __init__(self, tokenizers: Callable[[str, Mapping[str, str]], RoleTokenizer], model_prompts: Mapping[str, str]) -> None:
        self.tokenizers = tokenizers
        self.model_prompts = model_prompts
        self._known: list[tuple[Any, str, str]] = []

    def of(self, loaded: Loaded, source: SourceSection) -> dict[str, Encoding]:
        """By role, for the rows of one data set."""
        found = {}
        for role in loaded.texts.roles:
            how = self.tokenizers(role, source.routes)
            default = source.prompts.get("default", _model_prompt(role, loaded.format.name, self.model_prompts))
            length = source.max_length.get(role, source.max_length.get("default", how.max_length))
            found[role] = Encoding(source.prompts.get(role, default), length, how.special_tokens, self._fingerprint(how), how.tokenizer)
        return found

    def _fingerprint(self, how: RoleTokenizer) -> str:
        for tokenizer, name, fingerprint in self._known:
            if tokenizer is how.tokenizer and name == how.name:
                return fingerprint
        self._known.append((how.tokenizer, how.name, tokenizer_fingerprint(how.tokenizer, how.name)))
        return self._known[-1][2]


def _check_role_keys(source: SourceSection, roles: Collection[str], path: str) -> None:
    """A prompt or a length for a role that the data does not have is a mistake (at the top: that no data set has)."""
    for name, values in (("max_length", source.max_length), ("prompts", source.prompts), ("routes", source.routes)):
        if unknown := [r for r in values if r != "default" and r not in roles]:
            what = f"the data has no such role. Roles: default, {', '.join(text_roles(roles))}"
            raise ConfigError(Problem(f"{path}.{name}.{unknown[0]}", what))


def _model_prompt(role: str, format_name: str, prompts: Mapping[str, str]) -> str:
    """What the model itself puts before texts of this role at inference: `query` and `document` in formats for retrieval."""
    if role in prompts:
        return prompts[role]
    if format_name in SYMMETRIC:
        return ""
    return prompts.get("query" if role in ("anchor", "query") else "document", "")


def _scan(side: _Side, prepared: PreparedSource, section: DatasetSection) -> SplitScan:
    roles = {role: checks.role_stats(prepared, role) for role in prepared.roles}
    loaded = side.loaded
    return SplitScan(
        source=loaded.raw.origin,
        fingerprint=prepared.fingerprint,
        format=prepared.format.name,
        columns=loaded.roles.columns,
        roles_from=loaded.roles.how,
        unused_columns=loaded.roles.unused,
        rows_read=side.read,
        rows=len(prepared),
        roles=roles,
        label=checks.label_stats(prepared),
        groups=checks.group_stats(prepared),
        findings=(*side.findings, *checks.truncation(roles, section.checks.truncated_share)),
        provenance=provenance(loaded.raw),
    )
