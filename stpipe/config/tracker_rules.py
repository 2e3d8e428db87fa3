"""Cross-field rules about trackers and publishing: what would only show once the run has begun, or when it is over."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any

from stpipe.config.errors import Problem
from stpipe.config.file_names import name_problem
from stpipe.config.finding import Rules
from stpipe.config.origins import dotted
from stpipe.config.redact import scrub

#: Names of trackers are names of files, those of Hub repositories are NAME or OWNER/NAME.
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
REPOSITORY = re.compile(r"(?=.{1,96}$)([A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*")
CREDENTIALS = re.compile(r"://[^/\s@]+@")


def _trackers(rules: Rules) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = rules.values.get("tracker") or {}
    return found


def trackers_are_installed(rules: Rules) -> None:
    """The package that a tracker needs."""
    for name, values in _trackers(rules).items():
        facts = rules.component("tracker", values["name"])
        package, extra = facts.get("x-package"), facts.get("x-extra")
        if package and importlib.util.find_spec(str(package)) is None:
            how = f"pip install 'stpipe[{extra}]'" if extra else f"pip install {package}"
            message = f"tracker '{values['name']}' needs the package '{package}', which is not installed. Install it with: {how}, or leave the tracker out"
            rules.problem(("tracker", name, "name"), message)


def tracker_names(rules: Rules) -> None:
    """Names that can be names of files."""
    for name in _trackers(rules):
        if not NAME.fullmatch(name) or name_problem(name) is not None:
            rules.problem(("tracker", name), f"'{name}' is no name for a tracker: letters, digits, '_', '-' and '.' only")


def tracker_addresses(rules: Rules) -> None:
    """Addresses are written to files and logs, so passwords have no place in them."""
    for name, values in _trackers(rules).items():
        for key, value in values.items():
            if isinstance(value, str) and CREDENTIALS.search(value):
                path = ("tracker", name, key)
                message = (
                    "holds a user name or password, which would be written to the run directory. Leave them out of the address and set "
                    "the environment variables of the tracker (MLflow: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
                )
                rules.finding.problems.append(Problem(dotted(path), message, scrub(rules.origins.where(path))))


def publishing(rules: Rules) -> None:
    """Where a model is published, and that it can be."""
    publish = rules.values.get("publish")
    if publish is None:
        return
    if not REPOSITORY.fullmatch(publish["repo_id"]):
        message = f"'{publish['repo_id']}' is no repository of a Hub: expected OWNER/NAME or NAME, of letters, digits, '_', '-' and '.', 96 at most"
        rules.problem(("publish", "repo_id"), message)
    if publish["exports"] and not rules.values.get("export"):
        rules.warn("publish.exports publishes exports, but `export` names none")
    if rules.values["offline"]:
        message = "publishing needs a Hub, but offline=true forbids to ask one. Leave `publish` out (publish=null) and publish the finished run later: stpipe publish RUN offline=false publish.repo_id=..."
        rules.problem(("publish",), message)


TRACKER_RULES: tuple[Callable[[Rules], None], ...] = (trackers_are_installed, tracker_names, tracker_addresses, publishing)
