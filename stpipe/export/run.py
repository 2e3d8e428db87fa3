"""All exports of a model: written aside, verified, and put in place, or into `rejected` where they deviate too much."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, PartialError, Problem, StpipeError
from stpipe.config.registry import EXPORTS
from stpipe.export.base import Export, settings_of
from stpipe.export.source import Source
from stpipe.export.table import REJECTED, VERIFICATION
from stpipe.export.verify import Verifier


class RejectedError(PartialError):
    """An export deviates by more than it may, or could not be made (exit 5)."""


def export_all(source: Source, exports: Mapping[str, Export], folder: Path, *, notify: Callable[[str], None] = print) -> dict[str, Any]:
    """Write and verify exports; returns name -> the content of its verification.json.

    Each is written under another name first, so that folder/NAME is complete or not there. One that is there already, made of the same
    weights with the same settings, is left as it is. All are tried before an error is raised.

    Args:
        source: the model.
        exports: exports by name.
        folder: `exports` of a run directory.
        notify: told in a line how each went.

    Raises:
        RejectedError: some lie outside their tolerances (they are in folder/rejected/NAME) or could not be made.
    """
    check_kinds(source, exports)
    fingerprint, verifier = source.fingerprint(), Verifier(source)
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name, export in exports.items():
        identity = {"model": fingerprint, "export": component_name(export), "settings": settings_of(export)}
        record = finished(folder / name, identity)
        if record is None:
            try:
                record = export_one(source, name, export, folder, verifier=verifier, identity=identity)
            except Exception as error:  # of whatever exporter or runtime; the others are tried all the same
                text = str(error) if isinstance(error, StpipeError) else f"{type(error).__name__}: {error}"
                failed.append(f"{name}: {text}")
                notify(f"export {name}: failed: {text}")
                continue
        found[name] = record
        notify(f"export {name}: {line_of(record)}")
        if not record["passed"]:
            failed.append(f"{name} is outside its tolerances and lies in {folder / REJECTED / name}: {'; '.join(record['problems'])}")
    if failed:
        raise RejectedError("\n".join(failed))
    return found


def component_name(export: Export) -> str:
    """The registered name of an export; of a class that is not registered its own."""
    return EXPORTS.name_of(type(export)) if type(export) in EXPORTS.classes() else type(export).__name__


def check_kinds(source: Source, exports: Mapping[str, Export]) -> None:
    """Refuse exports for another kind of model before anything is written."""
    problems = [
        Problem(f"export.{name}", f"'{component_name(export)}' is for {', '.join(export.kinds)} models, not for {source.model.kind} ones")
        for name, export in exports.items()
        if source.model.kind not in export.kinds
    ]
    problems += [
        Problem(f"export.{name}", "is the name of the folder of rejected exports; choose another") for name in exports if name == REJECTED
    ]
    if problems:
        raise ConfigError(problems)


def export_one(
    source: Source, name: str, export: Export, folder: Path, *, verifier: Verifier, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Write and verify one export, and put it where it belongs; returns the content of verification.json."""
    aside = folder / f".writing-{name}"  # what a killed process left there goes, too
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        began = time.monotonic()
        written = export.write(source, aside)
        made = time.monotonic()
        checked = verifier.verify(name, export, written, aside)
        record = {
            "name": name,
            "export": identity["export"],
            "runtime": export.runtime,
            "form": export.form_name,
            "precision": export.precision,
            **checked,
            "seconds": {"write": round(made - began, 3), "verify": round(time.monotonic() - made, 3)},
            "identity": dict(identity),
        }
        (aside / VERIFICATION).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        place(aside, folder / name if record["passed"] else folder / REJECTED / name)
        if record["passed"]:
            shutil.rmtree(folder / REJECTED / name, ignore_errors=True)
        else:
            shutil.rmtree(folder / name, ignore_errors=True)  # of other weights or settings: it must not pass for this one
        return record
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def place(aside: Path, final: Path) -> None:
    """Sync a folder and put it under its name, in the place of what was there."""
    for path in (*aside.rglob("*"), aside):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)


def finished(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The verification of an export that is there already, made of the same weights with the same settings; else None."""
    try:
        record: dict[str, Any] = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return record if record.get("passed") and record.get("identity") == json.loads(json.dumps(identity)) else None


def line_of(record: Mapping[str, Any]) -> str:
    """A verification in a line."""
    worst, metric = record["drift"]["overall"], record["metric"]
    parts = [
        "passed" if record["passed"] else "REJECTED",
        f"largest difference {worst['max_abs']:.2g}" if worst["max_abs"] is not None else "",
    ]
    if worst["mean_cosine"] is not None and record["precision"] in ("int8", "bits"):
        parts.append(f"mean cosine {worst['mean_cosine']:.4f}")
    if worst["spearman"] is not None:
        parts.append(f"rank correlation {worst['spearman']:.4f}")
    if metric is not None:
        parts.append(f"{metric['name']} {metric['model']:.4f} -> {metric['export']:.4f}")
    times = record["latency_ms"] or {}
    parts += [f"{times[n]['export']:.1f} ms a batch of {n} (torch {times[n]['torch']:.1f})" for n in ("32",) if n in times]
    parts.append(f"{record['size']['export'] / 1e6:.1f} MB (model {record['size']['model'] / 1e6:.1f})")
    return ", ".join(part for part in parts if part)
