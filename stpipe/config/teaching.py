"""What a teacher makes of the rows of a data set, as far as the configuration says, and the models that teach or guide."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from stpipe.config.data_format import TEACHER, known_format, sources
from stpipe.config.formats import FORMATS, Format, match_format, negative_roles
from stpipe.config.origins import Origins, Path, dotted

PACKAGE = "package://"
OUTPUTS = ("embeddings", "scores", "margins")
#: Formats whose labels only teachers give -> the same texts without them.
UNTAUGHT: Mapping[str, str] = {"text-vector": "text", "pair-vector": "pair", "triplet-score": "triplet", "n-tuple-scores": "n-tuple"}


def label_kind(roles: Collection[str], output: str) -> str | None:
    """What the label holds that a teacher gives rows of these roles (Format.label); None where it has none of this sort to give."""
    negatives = len(negative_roles(roles))
    if output == "embeddings":
        return "vector"
    if output == "margins":
        return None if not negatives else "score" if negatives == 1 else "scores"
    return "scores" if negatives or "documents" in roles else "score"


def taught_format(roles: Collection[str], output: str) -> Format | None:
    """The format of rows of these text roles with a teacher's label; None where there is none."""
    kind = label_kind(roles, output)
    return None if kind is None else match_format(roles, kind)


def untaught_format(name: str) -> str:
    """The format of the rows that a source has to bring where a teacher makes them rows of format `name`."""
    return UNTAUGHT.get(name, name)


def format_when_taught(name: str | None, teacher: Any) -> str | None:
    """Format of a data set once its teacher has labelled it; None when only the data tell, or the teacher cannot."""
    output = teacher.get("output") if isinstance(teacher, Mapping) else None
    if name is None or output not in OUTPUTS:
        return name
    found = taught_format(FORMATS[untaught_format(name)].least_roles(), output)
    return None if found is None else found.name


def after_teaching(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration as it is once teachers have labelled the data: what rules about losses and evaluators have to look at."""
    if all(section.get("teacher") is None for _, _, section in sources(values["dataset"])):
        return values
    changed = copy.deepcopy(dict(values))
    for _, _, section in sources(changed["dataset"]):
        fmt = format_when_taught(known_format(section), section.get("teacher"))
        if section.get("teacher") is not None and fmt is not None and isinstance(section, dict):
            section.update(format=fmt, columns={})
    return changed


def guides_of(loss: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(key path below the loss, values) of each guide in a loss and in those inside it."""
    for key, value in loss.items() if isinstance(loss, Mapping) else ():
        if key == "guide" and isinstance(value, dict):
            yield (*path, key), value
        else:
            yield from guides_of(value, (*path, key))


def frozen_models(values: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(key path, section) of each model that labels the data or guides a loss; the weights' place is its key `model`."""
    dataset = values["dataset"]
    found: list[tuple[Path, Any]] = [(("loss",), values["loss"])]
    for _, where, section in sources(dataset):
        found.append(((*where, "loss"), section["loss"]))
        teacher = section.get("teacher")
        if isinstance(teacher, dict):
            yield (*where, "teacher"), teacher
    for where, loss in found:
        yield from guides_of(loss, where)


def embed_teachers(values: Mapping[str, Any], origins: Origins) -> list[str]:
    """Under the offline profile, in place: the packaged model is teacher and guide. Returns warnings."""
    if not values["dataset"]["embedded"]:
        return []
    warnings = []
    for path, section in frozen_models(values):
        if not str(section["model"]).startswith(PACKAGE):
            shown = origins.shown((*path, "model"), section["model"])
            warnings.append(f"{dotted((*path, 'model'))}: the packaged model stands in for {shown}")
            section.update(model=TEACHER, **({"revision": None, "activation": None} if path[-1] == "teacher" else {}))
    return warnings
