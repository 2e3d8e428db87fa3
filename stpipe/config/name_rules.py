"""Rules about names that become names of files and folders, and about code that comes with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stpipe.config.file_names import LONGEST, name_problem, same_file
from stpipe.config.finding import Rules
from stpipe.config.origins import Path

HOW = f"Use letters, digits, '_', '-' and '.', {LONGEST} bytes at most"
#: Sections with components by name that get a file or folder each.
NAMED = ("evaluator", "export")
#: Names that stand for something else there.
TAKEN = {"export": ("rejected",)}


def names_are_file_names(rules: Rules) -> None:
    """Names of the configuration that stand in paths of the run directory."""
    for path, names in _named(rules.values):
        known: dict[str, str] = {}
        for name in names:
            problem = name_problem(name)
            if problem is not None:
                rules.problem((*path, name), f"{_shown(name)} {problem}, so it cannot name a file or folder of the run. {HOW}")
            elif same_file(name) in TAKEN.get(str(path[0]), ()):
                rules.problem((*path, name), f"the folder '{name}' is for what did not pass its verification. Choose another name")
            elif same_file(name) in known:
                rules.problem((*path, name), f"'{name}' and '{known[same_file(name)]}' are one file on many disks. Give one another name")
            else:
                known[same_file(name)] = name


def run_name_is_a_file_name(rules: Rules) -> None:
    """The name of the run is the last part of its default directory; another place has a key of its own."""
    name = rules.values["run"]["name"]
    problem = None if name is None else name_problem(name)
    if problem is not None:
        rules.problem(("run", "name"), f"{_shown(name)} {problem}. {HOW}; where the run lies says run.dir")


def code_of_models(rules: Rules) -> None:
    """Running code that a model brings is worth saying each time; the warning stays in status.json, plan.json and the report."""
    model = rules.values["model"]
    if model.get("trust_remote_code"):
        what = (
            f"Python code that comes with {rules.origins.shown(('model', 'name_or_path'), model['name_or_path'])} runs with all your rights"
        )
        rules.warn(f"model.trust_remote_code=true: {what}. Read it, and name the commit that you read in model.revision")


def _named(values: Mapping[str, Any]) -> Iterator[tuple[Path, list[str]]]:
    """(key path, names below it) of each mapping whose names become files; also those of evaluators inside others."""
    yield ("dataset", "sources"), list(values["dataset"]["sources"])
    for section in NAMED:
        components = values.get(section) or {}
        yield (section,), list(components)
        for name, component in components.items():
            yield from _inside(component, (section, name))


def _inside(component: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, list[str]]]:
    for key, value in component.items():
        if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) and "name" in v for v in value.values()):
            yield (*path, key), list(value)
            for name, inner in value.items():
                yield from _inside(inner, (*path, key, name))


def _shown(name: str) -> str:
    text = ascii(name)
    return text if len(text) <= 60 else text[:57] + "..."


NAME_RULES: tuple[Callable[[Rules], None], ...] = (names_are_file_names, run_name_is_a_file_name, code_of_models)
