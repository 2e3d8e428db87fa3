"""Where Hydra finds options: the user's folder, stpipe's configs, the recipes, the registered components."""

from __future__ import annotations

import copy
import os
from pathlib import Path as FilePath
from typing import Any, ClassVar

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, open_dict

from stpipe.config.compose.overrides import all_options
from stpipe.config.compose.with_profile import GROUP, KEY, Blocks
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.locations import configs_dir, recipes_dir
from stpipe.config.options import ROOT_OPTION, object_defaults, option_groups, option_names, option_values
from stpipe.config.schema import Schema
from stpipe.config.yaml_file import read_yaml


class CheckedSource(FileConfigSource):
    """A folder of YAML files, each of which is read by our own reader before Hydra's, which knows no limits."""

    @staticmethod
    def scheme() -> str:
        return "yaml"

    def load_config(self, config_path: str) -> ConfigResult:
        file = FilePath(self.path, self._normalize_file_name(config_path))
        if file.is_file():
            read_yaml(file)
        return super().load_config(config_path)


class RecipeSource(CheckedSource):
    """The recipes folder as config group `recipe`."""

    @staticmethod
    def scheme() -> str:
        return "recipes"

    @staticmethod
    def _inside(config_path: str) -> str:
        return config_path.removeprefix("recipe").lstrip("/") if config_path.split("/")[0] == "recipe" else "<none>"

    def load_config(self, config_path: str) -> ConfigResult:
        return super().load_config(self._inside(config_path))

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or super().is_group(self._inside(config_path))

    def is_config(self, config_path: str) -> bool:
        return super().is_config(self._inside(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return ["recipe"] if results_filter != ObjectType.CONFIG else []
        folder = FilePath(self.path, self._inside(config_path))
        files = [p.stem for p in folder.glob("*.yaml")] if results_filter != ObjectType.GROUP else []
        folders = [p.name for p in folder.iterdir() if p.is_dir()] if results_filter != ObjectType.CONFIG else []
        return sorted({*files, *folders})


class OptionSource(ConfigSource):
    """The registered components as options of their groups; `path` is a key of `schemas`."""

    schemas: ClassVar[dict[str, Schema]] = {}

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider=provider, path=path)
        self.schema = self.schemas[self.path]

    @staticmethod
    def scheme() -> str:
        return "options"

    def available(self) -> bool:
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        values = self._values(config_path.removesuffix(".yaml"))
        if values is None:
            raise ConfigLoadError(f"no component '{config_path}'")
        return ConfigResult(
            config=OmegaConf.create(values), path=f"options://{self.path}", provider=self.provider, header={"package": None}
        )

    def _values(self, config_path: str) -> dict[str, Any] | None:
        if config_path == ROOT_OPTION:
            return object_defaults(self.schema, self.schema)
        group, _, name = config_path.rpartition("/")
        return option_values(self.schema, group, name, defaults=True)

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or config_path in option_groups(self.schema)

    def is_config(self, config_path: str) -> bool:
        return self._values(config_path.removesuffix(".yaml")) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return list(option_groups(self.schema)) if results_filter != ObjectType.CONFIG else []
        return option_names(self.schema, config_path) if results_filter != ObjectType.GROUP else []


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which lays the blocks of `with_profile` where `compose` lays them, so that --cfg shows what is run."""

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        self._blocks = Blocks(all_options(self, GROUP))
        return super()._compose_config_from_defaults_list(defaults, repo)

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        loaded = copy.copy(super()._load_single_config(default, repo))
        given = loaded.config.get(KEY) if isinstance(loaded.config, DictConfig) else None
        if given is not None:
            loaded.config = copy.deepcopy(loaded.config)  # the repository keeps what it has read
            with open_dict(loaded.config):
                loaded.config.pop(KEY)
            self._blocks.take({KEY: OmegaConf.to_container(given)}, {})
        group, _, name = str(default.config_path).partition("/")
        for block in self._blocks.due(name if group == GROUP else None):
            loaded.config = OmegaConf.merge(loaded.config, block.values)
        return loaded


def config_loader(schema: Schema, *, config_dir: str | None = None, config_path: str | None = None) -> ConfigLoaderImpl:
    """Hydra's loader over its own configs, the user's folder, stpipe's configs, the recipes and the generated options."""
    return Loader(config_search_path=search_path(schema, config_dir, config_path))


def search_path(schema: Schema, config_dir: str | None, config_path: str | None) -> ConfigSearchPathImpl:
    """Earlier entries win: a file of the user over one of stpipe, any file over a generated option."""
    version.setbase("1.3")
    Plugins.instance()  # registers Hydra's own sources
    for source in (CheckedSource, RecipeSource, OptionSource):
        SourcesRegistry.instance().register(source)
    OptionSource.schemas[key := str(id(schema))] = schema
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    if config_dir is not None:
        folder = os.path.abspath(config_dir)
        if not os.path.isdir(folder):
            raise ConfigError(Problem("", f"config folder '{folder}' does not exist", f"--config-dir {config_dir}"))
        path.append("command-line", f"{CheckedSource.scheme()}://{folder}")
    path.append("main", f"{CheckedSource.scheme()}://{os.path.abspath(config_path) if config_path else configs_dir()}")
    path.append("recipes", f"recipes://{recipes_dir()}")
    path.append("options", f"options://{key}")
    path.append("schema", "structured://")
    return path


def file_of(result: ConfigResult, config_path: str) -> FilePath | None:
    """The file that a config was loaded from; None when it has none."""
    scheme, _, folder = result.path.partition("://")
    inside = config_path.removeprefix("recipe/") if scheme == RecipeSource.scheme() else config_path
    in_file = scheme in ("file", CheckedSource.scheme(), RecipeSource.scheme())
    return FilePath(folder) / f"{inside.removesuffix('.yaml')}.yaml" if in_file else None


def place_of_choice(loader: ConfigLoaderImpl, config_path: str, group: str, name: str) -> str:
    """Line of the defaults list of a config that chooses an option of a group; empty when it does not."""
    result = loader.repository.load_config(config_path)
    file = file_of(result, config_path) if result is not None else None
    values, places = read_yaml(file) if file else ({}, {})
    for i, entry in enumerate(values.get("defaults") or []):
        key, option = next(iter(entry.items())) if isinstance(entry, dict) else (group, entry)
        if str(key).split(" ")[-1].strip("/").split("@")[0] == group and (option == name or not name):
            return places[("defaults", i)]
    return ""
