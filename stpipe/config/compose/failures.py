"""Hydra's own errors as problems of the configuration: where, what, and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from stpipe.config.compose.overrides import all_options
from stpipe.config.compose.sources import place_of_choice
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.suggest import unknown_name
from stpipe.config.yaml_file import display


@contextmanager
def hydra_failures(loader: ConfigLoaderImpl, appended: Sequence[str]) -> Iterator[None]:
    """Inside, whatever Hydra, OmegaConf or the YAML reader raise becomes a ConfigError.

    Args:
        loader: that composes.
        appended: config paths of recipe and profiles; filled by the caller inside.
    """
    try:
        yield
    except MissingConfigException as error:
        raise ConfigError(_missing(loader, error, appended)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_other(loader, error, appended)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{display(Path(mark.name))}:{mark.line + 1}" if mark else ""
        raise ConfigError(Problem("", f"not valid YAML: {error.problem or error.context}", place)) from error
    except RecursionError as error:
        raise ConfigError(Problem("defaults", "a config chooses itself in its defaults list, directly or through others")) from error
    except ValueError as error:  # Hydra's word for a malformed defaults list
        raise ConfigError(Problem("defaults", str(error))) from error


def _missing(loader: ConfigLoaderImpl, error: MissingConfigException, appended: Sequence[str]) -> Problem:
    missing = error.missing_cfg_file or ""
    group, _, name = missing.rpartition("/")
    if not group:
        return Problem("", f"there is no primary config '{name}' (--config-name). Known: {', '.join(all_options(loader, ''))}")
    return Problem(
        group, unknown_name(f"{group} option", name, all_options(loader, group)), _place(loader, str(error), group, name, appended)
    )


def _other(loader: ConfigLoaderImpl, error: Exception, appended: Sequence[str]) -> Problem:
    text = str(error) or str(error.__cause__ or type(error).__name__)
    match = re.search(r"Could not override '([^'@]+)[^']*'", text)
    if match:
        group = match.group(1)
        known = [g for g in loader.list_groups("") if g != "hydra"]
        return Problem(group, unknown_name("config group", group, known), _place(loader, text, group, "", appended))
    match = re.search(r"Multiple values for ([^.\s]+)", text)
    if match:
        group = match.group(1)
        message = (
            f"an option of this group is chosen already, by the primary config. Write `override /{group}: OPTION` in the defaults list"
        )
        return Problem(group, message, _place(loader, text, group, "", appended))
    lines = [line for line in text.splitlines() if line.strip()]
    return Problem("", " ".join(lines), "")


def _place(loader: ConfigLoaderImpl, text: str, group: str, name: str, appended: Sequence[str]) -> str:
    """The line of a defaults list that made a choice: in a recipe or profile, or in the file that an error of Hydra names.

    Hydra blames the primary config for an option that a recipe overrides.
    """
    parent = re.search(r"In '([^']+)'", text)
    places = (place_of_choice(loader, path, group, name) for path in (*appended, *(parent.groups() if parent else ())))
    return next(filter(None, places), "")
