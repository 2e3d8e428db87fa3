"""Cross-field rules about teachers, which label data before training, and guides, which losses ask about negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stpipe.config.data_format import known_format, sources
from stpipe.config.finding import Rules
from stpipe.config.formats import FORMATS, LABEL
from stpipe.config.places import place
from stpipe.config.teaching import OUTPUTS, frozen_models, taught_format, untaught_format
from stpipe.config.used_losses import losses


def teacher_and_roles(rules: Rules) -> None:
    """Output of a teacher against the texts that there are, and no second label beside its own."""
    for name, path, section in sources(rules.values["dataset"]):
        teacher, fmt = section.get("teacher"), known_format(section)
        if teacher is None:
            continue
        if LABEL in section["columns"]:
            rules.problem(
                (*path, "columns", LABEL), "the teacher's labels stand in the place of the data's; remove the key, or the teacher"
            )
        roles = [r for r in section["columns"] if r != LABEL] or (FORMATS[untaught_format(fmt)].least_roles() if fmt else None)
        if roles is not None and taught_format(roles, teacher["output"]) is None:
            fitting = [output for output in OUTPUTS if taught_format(roles, output) is not None]
            message = f"a teacher has no {teacher['output']} for data set '{name}', whose texts are {', '.join(roles)}"
            rules.problem((*path, "teacher", "output"), f"{message}. Outputs for these: {', '.join(fitting) or 'none'}")


def teacher_places_exist(rules: Rules) -> None:
    """Paths and packages of teachers and guides that a look tells are not there."""
    for path, section in frozen_models(rules.values):
        place(rules, (*path, "model"), section["model"])


def margins_and_loss(rules: Rules) -> None:
    """Margins are labels for some losses only; the values alone would not tell them from scores."""
    for loss in losses(rules):
        teacher = loss.section.get("teacher")
        fits = known_format(loss.section) in (loss.facts.get("x-formats") or [])
        if teacher is not None and teacher["output"] == "margins" and fits and not loss.facts.get("x-margins"):
            what = f"loss '{loss.name}' needs the teacher's scores of each text, which margins do not tell; use output: scores"
            rules.problem((*loss.place, "teacher", "output"), what)


def guide_is_named(rules: Rules) -> None:
    """A loss that looks at a guide needs one, and a data set has one at most."""
    seen: dict[str, Any] = {}
    for loss in losses(rules):
        if "guide" not in (loss.facts.get("x-teachers") or []):
            continue
        guide = loss.values.get("guide")
        if guide is None:
            what = f"required: loss '{loss.name}' asks a guide model which negatives are none. Name one, like sentence-transformers/all-MiniLM-L6-v2"
            rules.problem((*loss.path, "guide", "model"), what)
        elif seen.setdefault(loss.source, guide) != guide:
            rules.problem(
                (*loss.path, "guide"), f"data set '{loss.source}' has two guides; its texts are encoded by one. Give its losses the same"
            )


#: They look at the data as they are read.
TEACHER_DATA_RULES: tuple[Callable[[Rules], None], ...] = (teacher_and_roles,)
#: They look at the data as they are trained on.
TEACHING_RULES: tuple[Callable[[Rules], None], ...] = (margins_and_loss, guide_is_named)
