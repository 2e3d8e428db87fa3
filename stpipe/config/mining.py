"""What mining makes of the data of a run, as far as the configuration says: formats, roles, and rules about the section `mine`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from stpipe.config.data_format import TEACHER, known_format, sources
from stpipe.config.finding import Rules
from stpipe.config.formats import FORMATS
from stpipe.config.origins import Origins
from stpipe.config.places import place

#: Formats whose rows are pairs; negatives that they already state are left behind.
MINABLE = ("pair", "triplet", "n-tuple")
LISTS = "query-documents"
KEPT = "pair"
RERANKED = "cross_encoder"
#: Models that can start from what they saved as from any other weights.
REPEATABLE = ("dense", "splade")
LIMITS = ("absolute_margin", "relative_margin", "max_score", "min_score")
#: Keys that name a role each.
BY_ROLE = ("max_length", "prompts", "routes")
#: Role of a pair -> its role in the labelled formats.
LABELLED_ROLES: Mapping[str, Mapping[str, str]] = {
    "query-document": {"anchor": "query", "positive": "document"},
    "query-documents": {"anchor": "query", "positive": "documents"},
}


def mined_format(mine: Mapping[str, Any]) -> str:
    """Format (config/formats.py) of the rows that mining with these values of `mine` writes."""
    output = "n-tuple" if mine["include_positives"] else mine["output_format"]
    if output == "labeled-pair":
        return "query-document"
    if output == "labeled-list":
        return LISTS
    if mine["output_scores"]:
        return "n-tuple-scores"
    return "triplet" if output == "triplet" or mine["num_negatives"] == 1 else "n-tuple"


def held_out_format(mine: Mapping[str, Any], kind: str) -> str:
    """Format of the held-out rows: lists to be reordered, or the pairs as they are."""
    lists = mine["held_out"] == "lists" or (mine["held_out"] == "auto" and kind == RERANKED)
    return LISTS if lists else KEPT


def renamed_roles(by_role: Mapping[str, Any], *formats: str, negatives: int) -> dict[str, Any]:
    """Values by role of a pair, as values by role of the formats that it becomes.

    Args:
        by_role: of the pairs; what it says of positives holds for mined negatives, unless it says something of them, too.
        formats: of the training and of the held-out rows.
        negatives: mined ones of a row, in the formats that have some.
    """
    found = {role: value for role, value in by_role.items() if role == "default"}
    for name in formats:
        new = LABELLED_ROLES.get(name, {"anchor": "anchor", "positive": "positive"})
        found.update({new[role]: value for role, value in by_role.items() if role in new})
        if FORMATS[name].negatives:
            roles = [f"negative_{i}" for i in range(1, negatives + 1)]
            found.update({role: by_role.get(role, by_role.get("positive")) for role in roles if {role, "positive"} & set(by_role)})
    return found


def mined_negatives(mine: Mapping[str, Any]) -> int:
    """Columns of negatives that mining writes, in the formats that have some."""
    return 1 if mine["output_format"] == "triplet" and not mine["include_positives"] else int(mine["num_negatives"])


def format_in_training(section: Any, mine: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> str | None:
    """Format in which a data set is trained on, from values that need not be complete; None when only the data can tell."""
    fmt = known_format(section)
    return mined_format({**defaults, **mine}) if mine is not None and fmt in MINABLE else fmt


def after_mining(values: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The configuration as it is once the data has been mined: what rules about losses and evaluators have to look at.

    Args:
        values: decoded and settled.
        kind: of the model.
    """
    mine = values.get("mine")
    if mine is None:
        return values
    changed = copy.deepcopy(dict(values))
    for _, _, section in sources(changed["dataset"]):
        if known_format(section) in MINABLE and isinstance(section, dict):
            held_out = held_out_format(mine, kind)
            section.update(format=mined_format(mine), eval_format=held_out, columns={})
            count = mined_negatives(mine)
            section.update({key: renamed_roles(section[key], section["format"], held_out, negatives=count) for key in BY_ROLE})
    return changed


def embed_models(values: dict[str, Any], origins: Origins) -> list[str]:
    """Under the offline profile, in place: the packaged model looks for candidates. Returns warnings."""
    mine = values.get("mine")
    if mine is None or not values["dataset"]["embedded"]:
        return []
    found = []
    if mine["model"] is not None and not str(mine["model"]).startswith("package://"):
        found.append(f"mine.model: the packaged model stands in for {origins.shown(('mine', 'model'), mine['model'])}")
        mine["model"] = TEACHER
    if mine["cross_encoder"] is not None and not str(mine["cross_encoder"]).startswith("package://"):
        shown = origins.shown(("mine", "cross_encoder"), mine["cross_encoder"])
        found.append(f"mine.cross_encoder: no package has one to stand in for {shown}; limits look at the scores of mine.model")
        mine["cross_encoder"] = None
    return found


def retriever_is_known(rules: Rules) -> None:
    """Candidates are found by embeddings, which a cross-encoder does not have."""
    mine, model = rules.values.get("mine"), rules.values["model"]
    if mine is None:
        return
    kind = rules.component("model", model["name"]).get("x-kind")
    if mine["model"] is None and kind == RERANKED:
        what = "required with a cross-encoder, which gives no embeddings: name the embedding model that finds candidates"
        rules.problem(("mine", "model"), what)
    if mine["rounds"] > 1 and model["name"] not in REPEATABLE:
        what = f"{mine['rounds']} rounds start from weights that the run saved, which is done for {', '.join(REPEATABLE)} models only"
        rules.problem(("mine", "rounds"), what)
    if mine["rounds"] > 1 and mine["model"] is not None:
        what = f"{mine['rounds']} rounds mine with the newest weights of the run, but mine.model names another model; remove mine.model"
        rules.problem(("mine", "rounds"), what)


def something_to_choose(rules: Rules) -> None:
    """Ranges, and settings without effect."""
    mine = rules.values.get("mine")
    if mine is None:
        return
    if mine["range_max"] is not None and mine["range_max"] - mine["range_min"] < mine["num_negatives"]:
        left = max(mine["range_max"] - mine["range_min"], 0)
        what = f"leaves {left} candidates after range_min={mine['range_min']}, but num_negatives is {mine['num_negatives']}"
        rules.problem(("mine", "range_max"), what)
    if mine["cross_encoder"] is not None and all(mine[limit] is None for limit in LIMITS):
        rules.warn(f"mine.cross_encoder is not used: none of {', '.join(LIMITS)} looks at its scores")
    for side in ("query", "corpus"):
        if mine[f"{side}_prompt"] is not None and mine[f"{side}_prompt_name"] is not None:
            rules.problem(("mine", f"{side}_prompt_name"), f"give either {side}_prompt or {side}_prompt_name")


def mined_places_exist(rules: Rules) -> None:
    """Paths and packages of the section that a look tells are not there."""
    mine = rules.values.get("mine") or {}
    for key in ("model", "cross_encoder", "corpus"):
        if mine.get(key) is not None:
            place(rules, ("mine", key), mine[key])


def formats_can_be_mined(rules: Rules) -> None:
    """At least one data set of pairs, and scores only where they may stand."""
    mine = rules.values.get("mine")
    if mine is None:
        return
    formats = {name: known_format(section) for name, _, section in sources(rules.values["dataset"])}
    if formats and all(fmt is not None and fmt not in MINABLE for fmt in formats.values()):
        found = ", ".join(f"'{name}' is {fmt}" for name, fmt in formats.items())
        rules.problem(("mine",), f"negatives are mined for {', '.join(MINABLE)} data, but data set {found}. Remove the section")


MINING_RULES: tuple[Callable[[Rules], None], ...] = (retriever_is_known, something_to_choose, formats_can_be_mined, mined_places_exist)
