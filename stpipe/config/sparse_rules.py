"""Cross-field rules about sparse models: what keeps them sparse, what they are compared by, and the routes of their texts."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

from stpipe.config.data_format import known_format, sources
from stpipe.config.finding import Rules
from stpipe.config.formats import FORMATS, LABEL, NEGATIVE, QUERY_ROLES, is_role, text_roles
from stpipe.config.origins import dotted
from stpipe.config.places import exists
from stpipe.config.schema import Schema, members
from stpipe.config.suggest import did_you_mean, unknown_name
from stpipe.config.used_losses import UsedLoss, losses

SIDES = ("query", "document")
REGULARIZER, AUTOENCODER = "regularizer", "autoencoder"
PACKAGE = "package://"
#: A dot product of two sparse representations is in the tens; a softmax over so many times that has a single winner.
LARGE_SCALE = 5
#: A learning rate for backbones; a weight that starts at 1 or at an IDF hardly moves by steps of it.
SMALL_RATE = 1e-4


def model_facts(rules: Rules) -> Schema:
    return rules.component("model", rules.values["model"]["name"])


def what_keeps_it_sparse(rules: Rules) -> None:
    """A sparse model needs the loss that keeps it sparse, and the autoencoder's loss needs an autoencoder."""
    needed = model_facts(rules).get("x-sparsity")
    model = rules.values["model"]["name"]
    there: dict[str, list[UsedLoss]] = {}
    for loss in losses(rules, wrappers=True):
        there.setdefault(loss.source, []).append(loss)
        if loss.facts.get("x-sparsity") == AUTOENCODER and needed == REGULARIZER:
            message = f"loss '{loss.name}' trains a sparse autoencoder, and model '{model}' has none. Use {_fitting(rules, REGULARIZER)}, or model=csr"
            rules.problem((*loss.path, "name"), message)
    for source, found in there.items():
        if needed is None or any(loss.facts.get("x-sparsity") in (needed, AUTOENCODER) for loss in found) or _copies_a_teacher(found):
            continue
        outer = found[0]
        what = {
            REGULARIZER: "nothing keeps the representations sparse",
            AUTOENCODER: "nothing trains the autoencoder to keep what it encodes",
        }
        fix = f"Put it into {_fitting(rules, needed)}: {{name: {_fitting(rules, needed)}, loss: {{name: {found[-1].name}, ...}}}}"
        rules.warn(f"data set '{source}': {what[needed]}, for {dotted(outer.path)} is {outer.name}. {fix}")


def _fitting(rules: Rules, sparsity: str) -> str:
    return " or ".join(d["x-name"] for d in members(rules.schema, "loss") if d.get("x-sparsity") == sparsity)


def _copies_a_teacher(found: list[UsedLoss]) -> bool:
    """A model that learns a teacher's sparse vectors becomes as sparse as these."""
    return all(set(loss.facts.get("x-formats") or ()) <= {"text-vector", "pair-vector"} for loss in found)


def similarity_and_scale(rules: Rules) -> None:
    """Softmax losses on the words of a vocabulary: dot product, at a scale that leaves the softmax something to learn."""
    if model_facts(rules).get("x-sparsity") != REGULARIZER:
        return
    for loss in losses(rules):
        similarity, scale = loss.values.get("similarity"), loss.values.get("scale")
        if loss.facts.get("x-coupling") != "anchor" or scale is None:
            continue
        key = dotted(loss.path)
        if similarity == "cosine":
            flat = f"; a softmax of cosines at scale {scale:g} is nearly flat as well" if scale <= LARGE_SCALE else ""
            used = rules.values["model"].get("similarity") or "dot"
            search = f", and the model is used with {used}" if used != "cosine" else ""
            rules.warn(
                f"{key}: cosine does not see how heavy the terms are, so a regulariser shrinks them for nothing{search}{flat}. "
                "Use similarity: dot with scale: 1, as sparse_mnrl does"
            )
        elif similarity == "dot" and scale > LARGE_SCALE:
            rules.warn(
                f"{key}: dot products of sparse representations are large, and times {scale:g} their softmax is a single 1; use scale: 1"
            )


def regularizer_targets(rules: Rules) -> None:
    """A number of active terms that the run shall reach needs a weight to steer, and one value."""
    reached: dict[str, tuple[float, str]] = {}
    for loss in losses(rules, wrappers=True):
        for side in SIDES if loss.facts.get("x-sparsity") == REGULARIZER else ():
            metric = f"{side}_active_dims"
            target = loss.values.get(metric)
            if target is None:
                continue
            key = (*loss.path, metric)
            if not loss.values.get(f"{side}_weight"):
                rules.problem(key, f"steers {side}_weight, which is 0; give it the weight to start from, like 1e-4")
            if side == "query" and loss.values.get("documents_only"):
                rules.problem(key, "has nothing to steer: documents_only makes all texts documents. Set document_active_dims")
            first, place = reached.setdefault(metric, (target, dotted(key)))
            if first != target:
                rules.problem(key, f"is {target:g}, but {place} is {first:g}; a run can bring it to one value only")


def queries_without_a_network(rules: Rules) -> None:
    """Representations that are looked up: no regulariser, and a learning rate of their own."""
    model, facts = rules.values["model"], model_facts(rules)
    lookups: Mapping[str, list[str]] = facts.get("x-lookups") or {}
    for loss in losses(rules, wrappers=True):
        routes = {**rules.values["dataset"]["routes"], **loss.section["routes"]}
        looked_up = all(routes.get(role, "query") in lookups for role in QUERY_ROLES)
        if looked_up and loss.facts.get("x-sparsity") == REGULARIZER and loss.values.get("query_weight"):
            key = dotted((*loss.path, "query_weight"))
            rules.warn(f"{key}: queries of model '{model['name']}' have the terms of their text and no network to regularise; set it to 0")
    optimizer = rules.values["optimizer"]
    names = [name for route in lookups.values() for name in route]
    if not names or model.get("freeze_query") or optimizer.get("lr", SMALL_RATE) >= SMALL_RATE:
        return
    groups: Mapping[str, Any] = optimizer.get("groups") or {}
    if not any(group["lr"] is not None and _matches(group["match"], names) for group in groups.values()):
        rules.warn(
            f"optimizer.lr is {optimizer['lr']:g}, which hardly moves the query weights of model '{model['name']}'. Give them their own: "
            "optimizer.groups: {query: {match: 'SparseStaticEmbedding\\.weight', lr: 1e-3}}"
        )


def _matches(pattern: str, names: list[str]) -> bool:
    try:
        return any(re.search(pattern, name) for name in names)
    except re.error:
        return False


def routes_there_are(rules: Rules) -> None:
    """Roles of `dataset.routes` against the data, and its routes against the model."""
    dataset, known = rules.values["dataset"], known_routes(rules)
    places = {("dataset",): dataset, **{path: section for _, path, section in sources(dataset)}}
    present = {role for _, _, section in sources(dataset) for role in _roles(section)}
    for path, section in places.items():
        for role, route in section["routes"].items():
            key = (*path, "routes", role)
            if not is_role(role) or role == LABEL:
                rules.problem(
                    key,
                    f"unknown role. {did_you_mean(role, QUERY_ROLES)}Roles: anchor, positive, query, document, documents, negative_1, ...",
                )
            elif present and None not in present and role not in present and not NEGATIVE.fullmatch(role):
                rules.problem(key, f"the data has no role '{role}'. Roles: {', '.join(text_roles({str(r) for r in present}))}")
            elif known == []:
                rules.problem(key, f"model '{rules.values['model']['name']}' has no Router, so all texts go the same way; remove the key")
            elif known is not None and route not in known:
                rules.problem(key, unknown_name("route", route, known))


def _roles(section: Mapping[str, Any]) -> set[str | None]:
    """Text roles of a data set; None among them where only the data can tell."""
    fmt = known_format(section)
    return {r for r in section["columns"] if r != LABEL} or (set(FORMATS[fmt].least_roles()) if fmt else {None})


def known_routes(rules: Rules) -> list[str] | None:
    """Routes of the model, as its component says or else its start weights on this machine; None when only loading them tells."""
    declared = model_facts(rules).get("x-routes")
    folder = _folder(rules.values["model"].get("name_or_path")) if declared is None else None
    if declared is not None or folder is None:
        return declared
    if not (folder / "modules.json").is_file():
        return [] if (folder / "config.json").is_file() else None  # a bare checkpoint has no Router
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        routers = [folder / m["path"] / "router_config.json" for m in modules if m["type"].endswith(".Router")]
        return [route for file in routers for route in _route_names(json.loads(file.read_text(encoding="utf-8")))]
    except (OSError, ValueError, TypeError, KeyError, SyntaxError):  # whatever is wrong with it, loading the model says it
        return None


def _route_names(stored: Mapping[str, Any]) -> list[str]:
    """What a text's route may be, by a router_config.json: the routes, and the tasks that are mapped to one."""
    mapped = [ast.literal_eval(key)[0] for key in (stored.get("parameters") or {}).get("route_mappings") or {}]
    return list(dict.fromkeys((*stored["structure"], *(task for task in mapped if task is not None))))


def _folder(name: Any) -> FilePath | None:
    """Where the start weights lie; None for a Hub id."""
    text = str(name)
    if not text.startswith(PACKAGE):
        folder = FilePath(text).expanduser()
        return folder if exists(text) and folder.is_dir() else None
    module, _, inside = text.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    places = (spec.submodule_search_locations or []) if spec is not None else []
    return next((FilePath(place) / inside for place in places), None)


SPARSE_RULES: tuple[Callable[[Rules], None], ...] = (
    what_keeps_it_sparse,
    similarity_and_scale,
    regularizer_targets,
    queries_without_a_network,
    routes_there_are,
)
