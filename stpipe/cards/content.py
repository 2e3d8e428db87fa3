"""The text of a card: facts of the run and of the model directory, put into the template of the model's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stpipe.cards.collected import collected
from stpipe.cards.data import SentenceTransformerModelCardData
from stpipe.cards.energy import measured_energy, total
from stpipe.cards.equivalence import equivalence_rows, published_matrix
from stpipe.cards.examples import default_examples, widget
from stpipe.cards.exports import Usage, export_rows, export_snippets, export_table
from stpipe.cards.front_matter import check_front_matter, data_sources, front_matter, task
from stpipe.cards.hyperparameters import is_hyper_parameter
from stpipe.cards.kinds import CardKind, card_kind
from stpipe.cards.model_files import ModelFacts, read_model
from stpipe.cards.places import hub_id, published, published_command, published_value
from stpipe.cards.template import check_template, render, render_file
from stpipe.cards.training_log import training_log
from stpipe.config.metrics import Better
from stpipe.reports import text
from stpipe.reports.changes import changed_keys
from stpipe.reports.data_scan import percentiles, role_rows, split_rows
from stpipe.reports.document import seconds_between
from stpipe.reports.metrics_log import MetricsLog
from stpipe.reports.quality import evaluation_section, table_metrics
from stpipe.reports.run_record import RunRecord, mapping
from stpipe.reports.schema import metric_directions, run_schema
from stpipe.reports.sparsity import mean_widths
from stpipe.reports.training import best_step, throughput_section

RETRIEVAL_ROLES = frozenset({"query", "document", "documents"})
RETRIEVAL_TASKS = frozenset({"information-retrieval", "reranking", "nano-beir", "reciprocal-rank-fusion", "hybrid-search"})
Context = dict[str, Any]


def card_text(
    record: RunRecord, model: ModelFacts, *, template: Path | None = None, data: SentenceTransformerModelCardData | None = None
) -> str:
    """The whole README.md.

    Args:
        record: the run.
        model: the model directory.
        template: the user's own; None takes that of the kind of model.
        data: what is known besides the files of the run; None: only what it collected.

    Raises:
        ConfigError: the template fails, or what it makes has no front matter that the Hub reads.
    """
    schema = run_schema(record)
    kind = card_kind(record, model, schema)
    context = card_context(record, model, kind, schema, data or collected(record, kind, schema))
    made = render(kind.template, context) if template is None else render_file(template, context)
    check_front_matter(made, where=kind.template if template is None else str(template))
    return made


def check_user_template(path: Path) -> None:
    """Refuse a template that no card could be made from; see template.check_template."""
    empty: dict[str, Any] = {}
    record, model = RunRecord(Path("run"), empty, empty, empty, empty, empty, MetricsLog()), read_model(Path("run") / "no-model")
    schema = run_schema(record)
    kind = card_kind(record, model, schema)
    check_template(path, card_context(record, model, kind, schema, collected(record, kind, schema)).keys())


def card_context(
    record: RunRecord, model: ModelFacts, kind: CardKind, schema: Mapping[str, Any], data: SentenceTransformerModelCardData
) -> Context:
    """Everything that a template may use; docs/cards.md explains the names."""
    title = str(data.model_name or record.name)
    directions = metric_directions(record, schema)
    scan = role_rows(record.data, split="train")
    evaluations = _evaluations(record, directions, kind)
    retrieval = _is_retrieval(record, model)
    texts = data.usage_examples or default_examples(retrieval=retrieval, classes=len(model.labels) > 1)
    exports = export_rows(record.directory)
    shown = data.widget or (widget(kind.pipeline_tag, texts) if data.generate_widget_examples else [])
    return {
        "front_matter": front_matter(record, data, title=title, kind=kind, widget=shown),
        "title": title,
        "own_code": record.section("model").get("trust_remote_code") is True,
        "kind": kind,
        "model": model,
        "model_id": data.model_id or record.section("publish").get("repo_id"),
        "card_data": data,
        "base": _base(record, data),
        "card": {**record.section("card"), "language": _language(data), "license": data.license},
        "data": mapping(record.environment.get("data")),
        "datasets": [("Training data", d) for d in data.train_datasets] + [("Held-out data", d) for d in data.eval_datasets],
        "sources": [published(s) for s in data_sources(record)] or [str(d.get("id") or d.get("name")) for d in data.train_datasets],
        "scan": scan,
        "held_out": [s for s in split_rows(record.data) if s.split == "eval"],
        "statistics": percentiles(scan),
        "losses": data.loss_facts(),
        "citations": data.citations,
        "retrieval": retrieval,
        "texts": texts,
        "evaluations": evaluations,
        "widths": mean_widths(e["sparsity"] for e in evaluations),
        "limits": _limits(model),
        **_training(record, schema, directions, data),
        "equivalence": equivalence_rows(record, data.loss_facts(), kind=kind.name),
        "equivalence_versions": published_matrix().get("versions") or {},
        "exports": export_table(exports),
        "export_snippets": export_snippets(record.directory, exports, Usage(kind.name, texts, retrieval)),
        "is_run": bool(record.status or record.config),
        "environment": record.environment,
    }


def _training(
    record: RunRecord, schema: Mapping[str, Any], directions: Mapping[str, Better], data: SentenceTransformerModelCardData
) -> Context:
    """How the model was trained."""
    best = best_step(record, directions)
    command = record.status.get("command")
    stages = mapping(record.status.get("stages"))
    return {
        "changes": [replace(c, value=published_value(c.value)) for c in changed_keys(record.config, schema) if is_hyper_parameter(c.key)],
        "hyperparameters": data.all_hyperparameters,
        "log": training_log(record, best),
        "best": best,
        "plan": record.plan,
        "steered": [f"{name} to {text.amount(value)}" for name, value in mapping(record.plan.get("targets")).items()],
        "rates": throughput_section(record)["median"],
        "seconds": total(data.sessions, "seconds")
        or mapping(stages.get("train")).get("seconds")
        or seconds_between(record.status.get("started"), record.status.get("finished")),
        "evaluation_seconds": total(data.sessions, "evaluation_seconds"),
        "energy": measured_energy(data.sessions),
        "resumed": len(record.status.get("resumed") or ()),
        "changed_on_resume": [
            f"{c['key']} from {published_value(c['old'])} to {published_value(c['new'])} at step {entry['step']}"
            for entry in record.status.get("resumed") or ()
            for c in entry.get("changed", ())
        ],
        "trainer": record.section("trainer"),
        "command": published_command(command) if command else None,
    }


def _evaluations(record: RunRecord, directions: Mapping[str, Better], kind: CardKind) -> list[dict[str, Any]]:
    """The evaluations as the report has them, with their tasks, and without metrics in the table that stand elsewhere."""
    sections = [evaluation_section(e, directions) for e in record.evaluations]
    return [{**s, "metrics": table_metrics(s, sections), "task": task(s["evaluator"], prefix=kind.task_prefix)[1]} for s in sections]


def _limits(model: ModelFacts) -> Mapping[str, int | None]:
    """Longest text by route, where routes differ in it."""
    limits = {route: stack[0].max_length for route, stack in model.routes.items() if stack}
    return limits if len(set(limits.values())) > 1 else {}


def _base(record: RunRecord, data: SentenceTransformerModelCardData) -> dict[str, Any]:
    """The start weights: a link to the Hub where that is certain, else the name, of a local directory only its last part."""
    name = data.base_model
    revision = data.base_model_revision or record.section("model").get("revision")
    return {"hub": hub_id(name), "name": published(str(name)) if name else None, "revision": revision}


def _language(data: SentenceTransformerModelCardData) -> str | None:
    return ", ".join(data.language) if isinstance(data.language, list | tuple) else data.language


def _is_retrieval(record: RunRecord, model: ModelFacts) -> bool:
    """True when queries and documents play different parts, so that the snippet should use encode_query and encode_document."""
    roles = {role for d in mapping(record.environment.get("data")).values() for role in mapping(d).get("roles") or ()}
    tasks = {task(e.evaluator)[0] for e in record.evaluations}
    sides = {"query", "document"} & {*model.prompts, *model.routes}
    return bool(roles & RETRIEVAL_ROLES or tasks & RETRIEVAL_TASKS or sides)
