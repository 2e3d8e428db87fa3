"""Different modules for different texts, such as a static embedding for queries and a transformer for documents."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.models.modules.module import Features, Module

CONFIG_FILE = "router_config.json"
OLD_CONFIG_FILE = "config.json"
MODALITY = "text"

Key = tuple[Any, Any]


class Router(Module):
    """Send texts through the modules of their route.

    The route of a text is found as the format has it, where a task is what a caller names (`query`, `document`):
    route_mappings for (task, text), (task, any), (any, text), (any, any); a route of the task's name; a route named `text`;
    and without a task the default route. A task that leads nowhere is an error.

    Args:
        routes: route -> its modules in order. A module may stand in several routes: it is then shared, and stored once.
        default_route: for texts without a task; None with allow_empty_key is the first route, and else an error.
        allow_empty_key: see default_route.
        route_mappings: (task or None, modality or None) -> route.

    Raises:
        ConfigError: there are no routes, a route is empty, or default_route or a mapping names one that is not there.
    """

    type_name = "sentence_transformers.base.modules.router.Router"
    is_input = True

    def __init__(
        self,
        routes: Mapping[str, Sequence[Module]],
        *,
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[Key, str] | None = None,
    ) -> None:
        super().__init__()
        if not routes:
            raise ConfigError("a Router needs at least one route, like {'query': [...], 'document': [...]}")
        for name, modules in routes.items():
            if not modules:
                raise ConfigError(f"route '{name}' of the Router has no modules; give it at least one, or leave the route out")
            if not name or "." in name:
                raise ConfigError(f"'{name}' cannot name a route: a name must not be empty or have a dot")
        self.route_mappings: dict[Key, str] = {normal_key(key): name for key, name in (route_mappings or {}).items()}
        for name in (*self.route_mappings.values(), *([] if default_route is None else [default_route])):
            if name not in routes:
                raise ConfigError(unknown_name("route", name, list(routes)))
        self.allow_empty_key = allow_empty_key
        self.default_route = next(iter(routes)) if allow_empty_key and default_route is None else default_route
        self.routes = nn.ModuleDict({name: nn.ModuleList(modules) for name, modules in routes.items()})

    @classmethod
    def for_query_document(
        cls,
        query_modules: Sequence[Module],
        document_modules: Sequence[Module],
        *,
        default_route: str | None = "document",
        allow_empty_key: bool = True,
    ) -> Router:
        """A router with the routes `query` and `document`, which encode_query and encode_document take."""
        routes = {"query": query_modules, "document": document_modules}
        return cls(routes, default_route=default_route, allow_empty_key=allow_empty_key)

    @property
    def route_names(self) -> tuple[str, ...]:
        """What a text's route may be: the routes, and the tasks that are mapped to one."""
        return tuple(dict.fromkeys((*self.routes, *(task for task, _ in self.route_mappings if task is not None))))

    def resolve(self, task: str | None) -> str:
        """The route of texts with this task."""
        for key in ((task, MODALITY), (task, None), (None, MODALITY), (None, None)):
            if key in self.route_mappings:
                return self.route_mappings[key]
        for name in (task, MODALITY):
            if name is not None and name in self.routes:
                return name
        if task is not None:
            raise ConfigError(unknown_name("route", task, list(self.route_names)))
        if self.default_route is None:
            names = ", ".join(self.route_names)
            raise ConfigError(f"the Router has no default route; say which way the texts go ({names}), or give it a default_route")
        return self.default_route

    def modules_of(self, route: str | None) -> tuple[Module, ...]:
        """The modules of a route. Unlike texts, a question about the model may come without one: then the first route answers."""
        open_question = route is None and self.default_route is None and not self.route_mappings
        return self.named(next(iter(self.routes)) if open_question else self.resolve(route))

    def named(self, name: str) -> tuple[Module, ...]:
        """The modules of the route of that name, in order."""
        return tuple(cast(Iterable[Module], self.routes[name]))

    def path_of(self, route: str | None) -> tuple[Module, ...]:
        return tuple(part for module in self.modules_of(route) for part in module.path_of(route))

    def input_of(self, route: str | None) -> Module:
        """The module that texts of a route enter by.

        Raises:
            ConfigError: the route begins with a module that takes no tokens, so the Router cannot stand first.
        """
        first = self.modules_of(route)[0].input_of(route)
        if not first.is_input:
            raise ConfigError(
                f"route '{route or self.default_route}' of the Router begins with {first.folder_name()}, which takes no tokens. "
                "Begin it with a Transformer or a static embedding, or put a module that takes tokens before the Router"
            )
        return first

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of texts without a route; input_of(route).tokenizer is that of a route."""
        return self.input_of(None).tokenizer

    def forward(self, features: Features) -> dict[str, Any]:
        """Features after the modules of the route that features["route"] names."""
        out = dict(features)
        for module in self.named(self.resolve(features.get("route"))):
            out = module(out)
        return out

    def output_dim(self, input_dim: int = 0) -> int:
        """Width of the embedding, the same on all routes.

        Raises:
            ConfigError: it is not the same, so that embeddings of different routes could not be compared.
        """
        widths = {name: width(self.named(name), input_dim) for name in self.routes}
        if len(set(widths.values())) > 1:
            found = ", ".join(f"{name} {dim}" for name, dim in widths.items())
            raise ConfigError(f"the routes of the Router give embeddings of different widths ({found}), which cannot be compared")
        return next(iter(widths.values()))

    def config(self) -> dict[str, Any]:
        """The `parameters` of router_config.json."""
        return {
            "default_route": self.default_route,
            "allow_empty_key": self.allow_empty_key,
            "route_mappings": {str(key): name for key, name in self.route_mappings.items()},
        }

    def save(self, directory: Path) -> None:
        """router_config.json, and a folder a module; a shared module is stored under the first of its names."""
        directory.mkdir(parents=True, exist_ok=True)
        names: dict[Module, str] = {}
        structure: dict[str, list[str]] = {}
        for route in self.routes:
            structure[route] = []
            for position, module in enumerate(self.named(route)):
                structure[route].append(names.setdefault(module, f"{route}_{position}_{module.folder_name()}"))
        for module, name in names.items():
            module.save(directory / name)
        types = {name: module.type_name for module, name in names.items()}
        content = {"types": types, "structure": structure, "parameters": self.config()}
        (directory / CONFIG_FILE).write_text(json.dumps(content, indent=4), encoding="utf-8")

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Module:
        raise NotImplementedError("a Router holds other modules; read it with read")

    @classmethod
    def load(cls, directory: Path) -> Module:
        raise NotImplementedError("a Router holds other modules; read it with read")

    @classmethod
    def read(cls, directory: Path, *, read_module: Callable[[str, Path], Module]) -> Router:
        """The router that sentence-transformers of any version wrote (before 5.0 it was called Asym)."""
        file = next((directory / name for name in (CONFIG_FILE, OLD_CONFIG_FILE) if (directory / name).exists()), None)
        if file is None:
            raise ConfigError(f"{directory}: a Router needs {CONFIG_FILE}, which is not there")
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            types, structure, parameters = stored["types"], stored["structure"], stored.get("parameters") or {}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}: expected a JSON object with types, structure and parameters: {error!r}") from error
        named = [name for names in structure.values() for name in names]
        unknown = sorted(set(named) - set(types))
        if unknown:
            raise ConfigError(f"{file}: structure names {', '.join(unknown)}, but types does not say what they are")
        modules = {name: read_module(types[name], inner_folder(directory, name, file)) for name in dict.fromkeys(named)}
        return cls(
            {route: [modules[name] for name in names] for route, names in structure.items()},
            default_route=parameters.get("default_route"),
            allow_empty_key=bool(parameters.get("allow_empty_key", True)),
            route_mappings={read_key(key, file): name for key, name in (parameters.get("route_mappings") or {}).items()},
        )


def normal_key(key: Key) -> Key:
    """Several modalities in one order, as the format keeps them."""
    task, modality = key
    return task, tuple(sorted(modality)) if isinstance(modality, (tuple, list)) else modality


def read_key(text: str, file: Path) -> Key:
    """A (task, modality) from its form on disk, such as "('query', None)"."""
    try:
        task, modality = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError) as error:
        raise ConfigError(f"{file}: '{text}' in route_mappings is no pair of task and modality, like \"('query', None)\"") from error
    return task, modality


def inner_folder(directory: Path, name: str, file: Path) -> Path:
    """The folder of a module; only folders below the router's own are allowed."""
    place = PureWindowsPath(name)  # reads both kinds of separators
    if place.anchor or ".." in place.parts or not place.parts:
        raise ConfigError(f"{file}: module '{name}' leaves the model directory")
    return directory.joinpath(*place.parts)


def width(modules: Iterable[Module], input_dim: int) -> int:
    """Width of the embedding after all modules."""
    for module in modules:
        input_dim = module.output_dim(input_dim)
    return input_dim
