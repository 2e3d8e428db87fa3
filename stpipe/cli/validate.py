"""`stpipe validate`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composed

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

HELP = f"""stpipe validate: every check that needs no data and no weights, in about a second. Shows what a configuration resolves to.

Usage: stpipe validate [overrides and flags]

Examples
  stpipe validate +recipe=mnrl_all_nli
  stpipe validate +recipe=cosent_stsb loss=mnrl           exit 2: the loss does not fit the data's format
  stpipe validate +recipe=mnrl_all_nli --json             all values with their defaults, warnings, metric names
  stpipe validate --from outputs/custom/my-run
{FLAGS_HELP}  --json prints one JSON object on standard output.
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    flags = parser("validate")
    flags.add_argument("--json", action="store_true")
    args = flags.parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    return run_composed(args, lambda loaded: report(loaded, as_json=args.json))


def report(loaded: Loaded, *, as_json: bool) -> int:
    """Print what the configuration resolves to."""
    from stpipe.config.load import redact

    if as_json:
        result = {
            "valid": True,
            "recipe": loaded.recipe,
            "config": redact(loaded),
            "warnings": loaded.warnings,
            "metrics": list(loaded.metrics),
        }
        print(json.dumps(result, indent=2))
        return 0
    lines = summary(loaded)
    width = max(len(key) for key, _ in lines) + 2
    for key, text in lines:
        print(
            textwrap.fill(
                text, 120, initial_indent=f"{key:<{width}}", subsequent_indent=" " * width, break_long_words=False, break_on_hyphens=False
            )
        )
    for warning in loaded.warnings:
        print(f"warning: {warning}")
    print("valid")
    return 0


def summary(loaded: Loaded) -> list[tuple[str, str]]:
    """(what, choice) of everything that a run depends on."""
    from stpipe.config.data_format import known_format, sources
    from stpipe.config.load import redact
    from stpipe.config.mining import MINABLE, mined_format

    values = redact(loaded)
    trainer = values["trainer"]

    def text(group: str, component: Mapping[str, Any]) -> str:
        return component_text(loaded.schema, group, component)

    lines = [("recipe", loaded.recipe or "none"), ("run.dir", values["run"]["dir"]), ("model", text("model", values["model"]))]
    for name, _, section in sources(values["dataset"]):
        fmt = known_format(section) or "format known from the data only"
        if values["mine"] is not None and fmt in MINABLE:
            fmt += f", mined to {mined_format(values['mine'])}"
        rows = f", at most {section['max_rows']} rows" if section["max_rows"] else ""
        lines.append((f"data {name}", f"{section['train']} ({fmt}{rows})"))
        if section["loss"] is not None:
            lines.append((f"loss of {name}", text("loss", section["loss"])))
    if values["loss"] or all(section["loss"] is None for _, _, section in sources(values["dataset"])):
        lines.append(("loss", text("loss", values["loss"]) if values["loss"] else "by the data's format"))
    lines += [(group, text(group, values[group])) for group in ("sampler", "strategy", "optimizer", "scheduler", "backend")]
    lines += [(f"evaluator {name}", text("evaluator", inner)) for name, inner in values["evaluator"].items()]
    length = f"{trainer['max_steps']} steps" if trainer["max_steps"] else f"{trainer['num_epochs']:g} epoch(s)"
    lines.append(
        (
            "trainer",
            f"{length}, batch {trainer['batch_size']} x {trainer['accumulation_steps']}, {trainer['precision']} on {trainer['device']}",
        )
    )
    if trainer["best_metric"]:
        lines.append(("best by", trainer["best_metric"]))
    lines.append(("metrics", ", ".join(loaded.metrics) or "none"))
    return lines


def component_text(schema: Mapping[str, Any], group: str, values: Mapping[str, Any]) -> str:
    """`name (key=value, ...)` with the keys that differ from their defaults."""
    from stpipe.config.schema import component

    known = (component(dict(schema), group, values["name"]) or {}).get("properties", {})
    changed = {k: v for k, v in values.items() if k != "name" and v != known.get(k, {}).get("default")}
    inner = ", ".join(f"{k}={json.dumps(v) if not isinstance(v, str) else v}" for k, v in changed.items())
    return f"{values['name']} ({inner})" if inner else str(values["name"])
