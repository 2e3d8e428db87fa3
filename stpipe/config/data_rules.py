"""Cross-field rules about data: what is there, roles, formats, places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stpipe.config.data_format import STANDARD_LIBRARY, TEACHER, TEACHER_FORMATS, known_format, roles_fit, sources
from stpipe.config.finding import Rules
from stpipe.config.formats import FORMATS, LABEL, NEGATIVE, TEXT_ROLES, is_role, text_roles
from stpipe.config.origins import Path
from stpipe.config.places import is_installed, place
from stpipe.config.suggest import did_you_mean

ROLES = (*TEXT_ROLES, LABEL, "negative_1")
DEFAULT = "default"


def data_is_there(rules: Rules) -> None:
    """Training data, exactly once."""
    dataset = rules.values["dataset"]
    if dataset["sources"] and dataset["train"] is not None:
        rules.problem(("dataset", "train"), "give either dataset.train or dataset.sources, not both")
    for name, path, section in sources(dataset):
        if section["train"] is None:
            where = f"data set '{name}' has no training data" if dataset["sources"] else "there is no training data"
            what = "a Hub id, a path, package://MODULE/PATH or stdlib://docstrings"
            rules.problem((*path, "train"), f"required: {where}. Name {what}, choose dataset=OPTION or +recipe=NAME")


def known_roles(rules: Rules) -> None:
    """Keys of the maps by role."""
    for _, path, section in sources(rules.values["dataset"]):
        for key, extra in (("columns", ()), ("joins", ()), ("max_length", (DEFAULT,)), ("prompts", (DEFAULT,))):
            for role in section[key]:
                if not is_role(role) and role not in extra:
                    known = (*ROLES, *extra)
                    rules.problem(
                        (*path, key, role), f"unknown role. {did_you_mean(role, known)}Roles: {', '.join(known)} (and negative_2, ...)"
                    )
    if rules.values["dataset"]["sources"]:
        for key in ("columns", "joins"):
            _roles_of_top(rules, key)


def _roles_of_top(rules: Rules, key: str) -> None:
    for role in rules.values["dataset"][key]:
        if not is_role(role):
            rules.problem(("dataset", key, role), f"unknown role. {did_you_mean(role, ROLES)}Roles: {', '.join(ROLES)}")


def roles_and_format(rules: Rules) -> None:
    """Declared columns against the declared format, and keys by role against the roles there are."""
    dataset = rules.values["dataset"]
    everywhere: set[str] | None = set()
    for _, path, section in sources(dataset):
        fmt, columns = known_format(section), section["columns"]
        if not all(is_role(r) for r in columns):
            return
        if fmt and columns and not roles_fit(fmt, columns):
            message = f"format {fmt} has the roles {_roles(fmt)}, but the columns are declared for {', '.join(columns)}"
            rules.problem((*path, "columns"), message)
        present = set(columns) or (set(FORMATS[fmt].least_roles()) if fmt else None)
        if present is not None:
            _keys_by_role(rules, path, section, present, open_ended=not columns and fmt is not None and FORMATS[fmt].more_negatives)
        everywhere = None if present is None or everywhere is None else everywhere | present
    if dataset["sources"] and everywhere:
        _keys_by_role(rules, ("dataset",), dataset, everywhere, open_ended=True)


def _keys_by_role(rules: Rules, path: Path, section: Mapping[str, Any], present: set[str], *, open_ended: bool) -> None:
    """A length, prompt or join for a role that the data does not have; `open_ended` data may have more negatives than known."""
    for key in ("max_length", "prompts", "joins"):
        for role in section[key]:
            if is_role(role) and role not in present and not (open_ended and NEGATIVE.fullmatch(role)):
                rules.problem((*path, key, role), f"the data has no role '{role}'. Roles: {', '.join(text_roles(present))}")


def _roles(fmt: str) -> str:
    f = FORMATS[fmt]
    return ", ".join((*f.least_roles(), *(("...",) if f.more_negatives else ()), *((LABEL,) if f.label else ())))


def places_exist(rules: Rules) -> None:
    """Paths and packages that a look tells are not there. Hub ids are not asked for."""
    model = rules.values["model"].get("name_or_path")
    if isinstance(model, str):
        place(rules, ("model", "name_or_path"), model)
    for _, path, section in sources(rules.values["dataset"]):
        for key in ("train", "eval"):
            if section[key] is not None:
                place(rules, (*path, key), section[key])
        if str(section["train"]).startswith(STANDARD_LIBRARY) and known_format(section) in TEACHER_FORMATS and not is_installed(TEACHER):
            what = "the labels of this format are scores of a model that the extra brings. Install it with: pip install 'stpipe[offline]'"
            rules.problem((*path, "train"), what)


def held_out_rows(rules: Rules) -> None:
    """Evaluators need held-out rows."""
    if not rules.values["evaluator"]:
        rules.warn("there is no evaluator: the report can show learning curves only. Choose one, like evaluator=retrieval")


DATA_RULES: tuple[Callable[[Rules], None], ...] = (data_is_there, known_roles, roles_and_format, places_exist, held_out_rows)
