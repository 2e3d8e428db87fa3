"""The text of a card: facts of the run and of the model directory, put into the template of the model's type."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import yaml

from stpipe.cards.front_matter import data_sources, front_matter, hub_id, task
from stpipe.cards.kinds import CardKind, card_kind
from stpipe.cards.losses import LossFacts, entry_key, run_losses
from stpipe.cards.model_files import ModelFacts
from stpipe.cards.training_log import training_log
from stpipe.config.metrics import Better
from stpipe.reports import text
from stpipe.reports.changes import Change, changed_keys
from stpipe.reports.data_scan import percentiles, role_rows, split_rows
from stpipe.reports.document import seconds_between
from stpipe.reports.quality import evaluation_section, table_metrics
from stpipe.reports.run_record import RunRecord, mapping
from stpipe.reports.schema import metric_directions, run_schema
from stpipe.reports.sparsity import mean_widths
from stpipe.reports.training import best_step, throughput_section

RETRIEVAL_ROLES = frozenset({"query", "document", "documents"})
RETRIEVAL_TASKS = frozenset({"information-retrieval", "reranking", "nano-beir", "reciprocal-rank-fusion", "hybrid-search"})
# Neither hyper-parameters nor fit for publication: names of the run, and places on somebody's disk.
NOT_SHOWN = ("run.", "card.", "callbacks.", "evaluator.", "imports", "offline", "model.name_or_path")
NOT_SHOWN_LEAVES = frozenset({"train", "eval", "cache_dir", "resume", "progress"})


def card_text(record: RunRecord, model: ModelFacts) -> str:
    """The whole README.md."""
    schema = run_schema(record)
    kind = card_kind(record, model, schema)
    losses = run_losses(record, schema)
    title = str(record.section("card").get("model_name") or record.name)
    directions = metric_directions(record, schema)
    best = best_step(record, directions)
    scan = role_rows(record.data, split="train")
    evaluations = _evaluations(record, directions, kind)
    head = front_matter(record, losses, title=title, kind=kind)
    return (
        _environment()
        .get_template(kind.template)
        .render(
            front_matter=head,
            title=title,
            kind=kind,
            model=model,
            base=_base(record),
            card=record.section("card"),
            data=mapping(record.environment.get("data")),
            sources=[_place(s) for s in data_sources(record)],
            scan=scan,
            held_out=[s for s in split_rows(record.data) if s.split == "eval"],
            statistics=percentiles(scan),
            examples=_examples(record),
            losses=losses,
            citations=_citations(losses),
            retrieval=_is_retrieval(record, model),
            evaluations=evaluations,
            widths=mean_widths(e["sparsity"] for e in evaluations),
            limits=_limits(model),
            changes=[c for c in changed_keys(record.config, schema) if _is_hyper_parameter(c)],
            log=training_log(record, best),
            best=best,
            plan=record.plan,
            steered=[f"{name} to {text.amount(value)}" for name, value in mapping(record.plan.get("targets")).items()],
            rates=throughput_section(record)["median"],
            seconds=mapping(mapping(record.status.get("stages")).get("train")).get("seconds")
            or seconds_between(record.status.get("started"), record.status.get("finished")),
            trainer=record.section("trainer"),
            command=record.status.get("command"),
            environment=record.environment,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stpipe.cards", "templates"),
        autoescape=False,  # Markdown; table cells go through the filter `cell`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: tuple[Callable[..., str], ...] = (
        cell,
        quoted,
        with_article,
        text.amount,
        text.signed_percent,
        yaml_block,
        text.system_name,
        text.capitalize_first,
        text.score,
        text.signed,
        text.percent,
        text.integer,
        text.duration,
        text.p_value,
        text.plain_value,
        text.statistic_name,
    )
    environment.filters.update({f.__name__: f for f in filters})
    return environment


def cell(value: Any) -> str:
    """Text that cannot break out of a Markdown table or turn into HTML."""
    return _escaped(" ".join(str(value).split()))


def _escaped(plain: str) -> str:
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")


def quoted(value: str) -> str:
    """A text in quotes with every blank of it, for prompts: a space at their end matters."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def with_article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def yaml_block(value: Mapping[str, Any]) -> str:
    """A mapping as YAML for a fenced block."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100).strip()


def _evaluations(record: RunRecord, directions: Mapping[str, Better], kind: CardKind) -> list[dict[str, Any]]:
    """The evaluations as the report has them, with their tasks, and without metrics in the table that stand elsewhere."""
    sections = [evaluation_section(e, directions) for e in record.evaluations]
    return [{**s, "metrics": table_metrics(s, sections), "task": task(s["evaluator"], prefix=kind.task_prefix)[1]} for s in sections]


def _limits(model: ModelFacts) -> Mapping[str, int | None]:
    """Longest text by route, where routes differ in it."""
    limits = {route: stack[0].max_length for route, stack in model.routes.items() if stack}
    return limits if len(set(limits.values())) > 1 else {}


def _base(record: RunRecord) -> dict[str, Any]:
    """The start weights: a link to the Hub where that is certain, else the name, of a local directory only its last part."""
    section = record.section("model")
    name = section.get("name_or_path")
    return {"hub": hub_id(name), "name": _place(str(name)) if name else None, "revision": section.get("revision")}


def _place(source: str) -> str:
    """A source as it may be published: Hub ids and URLs whole, of local paths the last part only."""
    if "://" in source or hub_id(source):
        return source
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _examples(record: RunRecord) -> Mapping[str, Any]:
    """Rows of the training data by data set, when card.examples allows them."""
    return mapping(record.data.get("examples")) if record.section("card").get("examples") else {}


def _is_retrieval(record: RunRecord, model: ModelFacts) -> bool:
    """True when queries and documents play different parts, so that the snippet should use encode_query and encode_document."""
    roles = {role for d in mapping(record.environment.get("data")).values() for role in mapping(d).get("roles") or ()}
    tasks = {task(e.evaluator)[0] for e in record.evaluations}
    sides = {"query", "document"} & {*model.prompts, *model.routes}
    return bool(roles & RETRIEVAL_ROLES or tasks & RETRIEVAL_TASKS or sides)


def _is_hyper_parameter(change: Change) -> bool:
    leaf = change.key.rsplit(".", 1)[-1]
    return not change.key.startswith(NOT_SHOWN) and leaf not in NOT_SHOWN_LEAVES and ".joins" not in change.key


def _citations(losses: Iterable[LossFacts]) -> list[str]:
    """BibTeX of the losses, each entry once."""
    return list({entry_key(c): c for loss in losses for c in loss.citations}.values())
