"""Cross-field rules about exports: the kind of model, the packages that they need, the evaluator that judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from stpipe.config.finding import Rules
from stpipe.config.schema import Schema, members
from stpipe.config.suggest import unknown_name

#: Extra -> packages that it brings and exports import.
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "nncf")}
#: Folder of what failed verification, so no export may have its name.
REJECTED = "rejected"
NO_EVALUATOR = "none"


def exports(rules: Rules) -> Iterator[tuple[str, dict[str, Any], Schema]]:
    """(name, values, facts of the component) of each export."""
    for name, values in (rules.values.get("export") or {}).items():
        yield name, values, rules.component("export", values["name"])


def kinds(rules: Rules) -> None:
    """Exports for other kinds of model."""
    model = rules.values["model"]["name"]
    kind = rules.component("model", model).get("x-kind")
    for name, values, facts in exports(rules):
        allowed = facts.get("x-kinds")
        if allowed and kind not in allowed:
            fitting = [d["x-name"] for d in members(rules.schema, "export") if kind in (d.get("x-kinds") or [kind])]
            what = f"export '{values['name']}' is for {', '.join(allowed)} models, but model.name is '{model}' ({kind})"
            rules.problem(("export", name, "name"), f"{what}. For those: {', '.join(fitting)}")


def names(rules: Rules) -> None:
    """Names become folders."""
    for name, _, _ in exports(rules):
        if name == REJECTED or name.startswith(".") or "/" in name or "\\" in name:
            rules.problem(("export", name), f"'{name}' cannot name an export: it becomes a folder beside `{REJECTED}`. Choose another name")


def layout(rules: Rules) -> None:
    """The layout of the format has one backbone at its front."""
    routes = rules.component("model", rules.values["model"]["name"]).get("x-routes")
    for name, values, _ in exports(rules):
        if routes and values.get("form") == "st_layout":
            what = f"st_layout has one graph, but model.name '{rules.values['model']['name']}' has the routes {', '.join(routes)}"
            rules.problem(("export", name, "form"), f"{what}; use self_contained")


def evaluators(rules: Rules) -> None:
    """The evaluator whose metric is compared must be there; without any only embeddings or scores are compared."""
    there = list(rules.values["evaluator"])
    for name, values, _ in exports(rules):
        chosen = values.get("evaluator")
        if chosen is not None and chosen not in (*there, NO_EVALUATOR):
            rules.problem(("export", name, "evaluator"), unknown_name("evaluator", chosen, [*there, NO_EVALUATOR]))
        if chosen is None and not there:
            rules.warn("exports are verified on texts only, not on the task's metric, because there is no evaluator")


def exports_are_installed(rules: Rules) -> None:
    """The packages of each export, before anything is trained for it."""
    for name, values, facts in exports(rules):
        extra = facts.get("x-extra")
        needed = [package for package in PACKAGES.get(str(extra), ()) if package != "nncf" or values["name"] == "openvino_int8"]
        missing = [package for package in needed if find_spec(package) is None]
        if missing:
            what = f"export '{values['name']}' needs {', '.join(missing)}, not installed here. pip install 'stpipe[{extra}]'"
            rules.problem(("export", name, "name"), what)


EXPORT_RULES: tuple[Callable[[Rules], None], ...] = (kinds, names, layout, evaluators, exports_are_installed)
