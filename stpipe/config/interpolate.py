"""Interpolations (`${oc.env:VAR}`, `${trainer.batch_size}`), resolved one by one so that each failure is one problem.

A value that read the environment, directly or through another key, is remembered as it was written: messages, run
directories and hashes show `${oc.env:VAR}` and never the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stpipe.config.decode import Decoder
from stpipe.config.errors import Problem
from stpipe.config.origins import UNRESOLVED, Origins, Path, at, dotted, leaves
from stpipe.config.schema import Schema

ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]+)")
REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w.\[\]@-]*)\s*\}")


def resolve_interpolations(values: dict[str, Any], schema: Schema, origins: Origins) -> list[Problem]:
    """Replace every interpolation in `values` (in place) by its value; what cannot be resolved becomes UNRESOLVED.

    Defaults may be referred to as well: `${trainer.batch_size}` works when nothing sets it.
    """
    written = {path: value for path, value in leaves(values) if isinstance(value, str) and "${" in value}
    if not written:
        return []
    tainted = _from_environment(written)
    context = OmegaConf.create(Decoder(schema, Origins()).read(values))
    problems = []
    resolved: dict[Path, Any] = {}
    for path, text in written.items():
        try:
            resolved[path] = _resolve(context, path)
        except OmegaConfBaseException as error:
            resolved[path] = UNRESOLVED
            problems.append(Problem(dotted(path), _message(text, error), origins.where(path)))
    for path, value in resolved.items():
        at(values, path[:-1])[path[-1]] = value
    origins.from_environment.update({path: written[path] for path in tainted})
    return problems


def _resolve(context: Any, path: Path) -> Any:
    for part in path:
        context = context[part]
    return OmegaConf.to_container(context, resolve=True) if OmegaConf.is_config(context) else context


def _from_environment(written: Mapping[Path, str]) -> set[Path]:
    """The interpolations that read the environment, also through other keys."""
    tainted = {path for path, text in written.items() if ENVIRONMENT.search(text)}
    while True:
        names = {dotted(path) for path in tainted}
        more = {
            path
            for path, text in written.items()
            if path not in tainted
            and any(name == ref or name.startswith((ref + ".", ref + "[")) for ref in REFERENCE.findall(text) for name in names)
        }
        if not more:
            return tainted
        tainted |= more


def _message(text: str, error: OmegaConfBaseException) -> str:
    variable = ENVIRONMENT.search(text)
    if variable and "nvironment variable" in str(error):
        name = variable.group(1)
        return f"the environment variable {name} is not set. Set it, or give a default: ${{oc.env:{name},DEFAULT}}"
    first = str(error).splitlines()[0]
    return f"cannot resolve {text}: {first}"
