"""The command that runs without the network what a command could not reach."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from stpipe.config.redact import redact_command

OFFLINE = "+profile=offline"
#: What the offline profile sets; an override of one of them would win over the profile.
SWAPPED = ("model.name_or_path", "model.revision", "dataset.embedded", "offline")


def offline_command(command: Sequence[str], asset: str) -> str | None:
    """`command` (verb, overrides and flags) with the offline profile.

    Args:
        command: what was run, without the program's name.
        asset: what could not be reached.

    Returns:
        The command to type; None when the profile would not help: it is on already, or the asset is the argument of the verb.
    """
    if not command or any(_chooses_offline(argument) for argument in command) or asset in command:
        return None
    kept = [argument for argument in command if _key(argument) not in SWAPPED]
    return shlex.join(["stpipe", *redact_command(kept), OFFLINE])


def _key(argument: str) -> str:
    return argument.lstrip("+").partition("=")[0] if "=" in argument else ""


def _chooses_offline(argument: str) -> bool:
    return _key(argument) == "profile" and "offline" in argument.partition("=")[2].strip("[]").replace(" ", "").split(",")
