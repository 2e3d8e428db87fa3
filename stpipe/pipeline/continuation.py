"""What a run that is continued keeps about it: from which step, and what differs from the run before."""

from __future__ import annotations

import json
from typing import Any

import yaml

from stpipe.config.load import redact
from stpipe.engine.checkpoint import damage_of_best
from stpipe.pipeline.identity import identity
from stpipe.pipeline.resume import changes_since, training_identity
from stpipe.pipeline.run import Run
from stpipe.reports.atomic import write_text


def record_start_of(run: Run) -> list[str]:
    """Write config.yaml and recipe.json of a run that starts, and in status.json where one is continued; returns warnings.

    A change that trainer.resume_allow let pass stands in status.json, from where model card and report take it. config.yaml then follows the
    configuration, because that is what the run is continued by from now on.
    """
    values = redact(run.loaded)
    changes = changes_since(run.checkpoint, training_identity(values, run.parts, processes=run.runtime.world_size))
    if run.checkpoint is not None and "lost_best" in run.settings.resume_allow and damage_of_best(run.checkpoint) is not None:
        changes.append(
            (
                "best model so far",
                f"that of step {run.checkpoint.state()['trainer']['best_step']}",
                "none, because its checkpoint is damaged",
            )
        )
    if run.resumed or run.checkpoint is not None:
        entry: dict[str, Any] = {"step": 0 if run.checkpoint is None else run.checkpoint.step}
        if changes:
            entry["changed"] = [{"key": key, "old": old, "new": new} for key, old, new in changes]
        run.status.data["resumed"].append(entry)
    recipe = run.directory.path / "recipe.json"
    if not run.resumed or not recipe.exists() or identity(run.directory.saved_config()) != identity(values):
        write_text(run.directory.config, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        facts = {"recipe": run.loaded.recipe, "choices": run.loaded.choices, "changes": run.loaded.changes}
        write_text(recipe, json.dumps(facts, indent=1, default=str) + "\n")
    return [
        f"continued at step {run.status.data['resumed'][-1]['step']} with another {key}: {old} before, {new} now"
        for key, old, new in changes
    ]
