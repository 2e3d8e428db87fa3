"""Cross-field rules about the backend: devices, precision, processes, and what does not go together with cut weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stpipe.config.finding import Rules


def _backend(rules: Rules) -> tuple[str, dict[str, Any]]:
    """Name as a user would say it, and its facts."""
    values = rules.values["backend"]
    stage = f" (stage {values['stage']})" if "stage" in values else ""
    return f"backend '{values['name']}'{stage}", dict(rules.component("backend", values["name"]))


def shards_parameters(rules: Rules) -> bool:
    """Whether no process has the whole weights while it trains."""
    values = rules.values["backend"]
    return bool(_backend(rules)[1].get("x-shards_parameters")) or values.get("stage") == 3


def device(rules: Rules) -> None:
    """Device against those that the backend runs on."""
    name, facts = _backend(rules)
    found, devices = rules.values["trainer"]["device"], facts.get("x-devices")
    if devices is not None and found not in (*devices, "auto"):
        rules.problem(("trainer", "device"), f"{name} runs on {', '.join(devices)}, not on {found}")


def precision(rules: Rules) -> None:
    """Precision against those that the backend offers."""
    name, facts = _backend(rules)
    found, offered = rules.values["trainer"]["precision"], facts.get("x-precisions")
    if offered is not None and found not in offered:
        rules.problem(("trainer", "precision"), f"{name} (backend.name) offers {', '.join(offered)}, not {found}")


def offload(rules: Rules) -> None:
    """Parameters have a home elsewhere only where they are cut."""
    values = rules.values["backend"]
    if values.get("offload_parameters") and values.get("stage") != 3:
        rules.problem(("backend", "offload_parameters"), f"needs backend.stage=3, but it is {values.get('stage')}")


def average(rules: Rules) -> None:
    """The moving average is taken of whole weights."""
    if rules.values["trainer"]["ema_decay"] is not None and shards_parameters(rules):
        rules.problem(
            ("trainer", "ema_decay"),
            f"averages whole weights, which no process has under {_backend(rules)[0]} (backend.name). Use ddp or deepspeed_zero2, or leave it out",
        )


def compiled(rules: Rules) -> None:
    """A compiled backbone cannot be cut layer by layer."""
    if rules.values["trainer"]["compile"] and shards_parameters(rules):
        rules.problem(("trainer", "compile"), f"was never tried under {_backend(rules)[0]} (backend.name). Use ddp, or leave it out")


def rounds(rules: Rules) -> None:
    """Iterated mining encodes and decides in one process."""
    mine = rules.values.get("mine")
    if mine is not None and mine["rounds"] > 1 and _backend(rules)[1].get("x-distributed"):
        rules.problem(
            ("mine", "rounds"), f"is {mine['rounds']}, which one process mines, but {_backend(rules)[0]} (backend.name) has several; use 1"
        )


BACKEND_RULES: tuple[Callable[[Rules], None], ...] = (device, precision, offload, average, compiled, rounds)
