"""Templates of the card: one for each kind of model, or one of the user's."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import yaml

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.suggest import did_you_mean
from stpipe.reports import text

KEY = "card.template"


def environment() -> jinja2.Environment:
    """Markdown templates with the filters that numbers, names and cells go through."""
    made = jinja2.Environment(
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
        literal,
        with_article,
        yaml_block,
        spread,
        text.amount,
        text.signed_percent,
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
    made.filters.update({f.__name__: f for f in filters})
    return made


def render(name: str, context: Mapping[str, Any]) -> str:
    """A card from one of stpipe's templates."""
    return environment().get_template(name).render(context)


def render_file(path: Path, context: Mapping[str, Any]) -> str:
    """A card from a user's template.

    Raises:
        ConfigError: the template cannot be read, or fails; the message names its line.
    """
    made = environment()
    code = _compiled(made, path)
    template = jinja2.Template.from_code(made, code, made.make_globals(None), None)
    try:
        return template.render(context)
    except Exception as error:  # whatever a template of a user may raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path} line {lines[-1]}" if lines else str(path)
        raise ConfigError(Problem(KEY, f"{place}: {type(error).__name__}: {error}")) from error


def check_template(path: Path, names: Collection[str]) -> None:
    """Refuse a template that cannot work, before anything is trained.

    Args:
        path: the file.
        names: variables that a card has.

    Raises:
        ConfigError: the file cannot be read, is no template, or uses a variable that there is not.
    """
    made = environment()
    source = _read(path)
    _compiled(made, path)
    unknown = sorted(jinja2.meta.find_undeclared_variables(made.parse(source)) - set(names))
    if unknown:
        known = ", ".join(sorted(names))
        raise ConfigError(
            Problem(KEY, f"{path} uses '{unknown[0]}', which no card has. {did_you_mean(unknown[0], names)}Variables: {known}")
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(KEY, f"{path} cannot be read ({error}). Name a Jinja file in UTF-8, or remove the key")) from error


def _compiled(made: jinja2.Environment, path: Path) -> Any:
    try:
        return made.compile(_read(path), filename=str(path))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(Problem(KEY, f"{path} line {error.lineno}: {error.message}")) from error


def cell(value: Any) -> str:
    """Text that cannot break out of a Markdown table or turn into HTML."""
    return _escaped(" ".join(str(value).split()))


def _escaped(plain: str) -> str:
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")


def quoted(value: str) -> str:
    """A text in quotes with every blank of it, for prompts: a space at their end matters."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def literal(value: str) -> str:
    """A text as Python source: what JSON writes is that, too."""
    return json.dumps(value, ensure_ascii=False)


def with_article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def yaml_block(value: Mapping[str, Any]) -> str:
    """A mapping as YAML for a fenced block."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100).strip()


def spread(stats: Mapping[str, float] | None) -> str:
    """Least, mean and greatest value of a column; nothing where it has none."""
    return " / ".join(text.amount(stats[key]) for key in ("min", "mean", "max")) if stats else ""
