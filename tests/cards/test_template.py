"""Templates of the user's own: everything of stpipe's, in another order or with more; mistakes are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.cards.card import TEMPLATE, write_card
from stpipe.cards.content import check_user_template
from stpipe.config.errors import ConfigError
from tests.cards.reading import assert_publishable, head

EXTENDS = """{% extends "dense.md.j2" %}
{% block introduction %}
The model of our library. {{ super() }}
{% endblock %}
"""
WHOLE = """---
{{ front_matter }}
---

# {{ title }} by us

{% for e in evaluations %}{{ e.name }}: {{ e.primary }}{% endfor %}

"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.md.j2"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_template_may_extend_that_of_the_kind(tmp_path: Path, run_dir: Path) -> None:
    (run_dir / "model").mkdir()
    path = write(tmp_path, EXTENDS)
    check_user_template(path)
    text = write_card(run_dir, run_dir / "model", template=path).read_text(encoding="utf-8")
    assert "The model of our library." in text and "A dense embedding model" in text and "## Citation" in text
    assert_publishable(text)


def test_a_template_may_be_whole(tmp_path: Path, run_dir: Path) -> None:
    (run_dir / "model").mkdir()
    path = write(tmp_path, WHOLE)
    check_user_template(path)
    text = write_card(run_dir, run_dir / "model", template=path).read_text(encoding="utf-8")
    assert "# Docstring search by us\n" in text and "dev: cosine_ndcg@10" in text
    assert "## Training" not in text
    assert head(text)["model-index"]


def test_the_copy_in_the_run_is_used(run_dir: Path) -> None:
    (run_dir / "model").mkdir()
    (run_dir / TEMPLATE).write_text(WHOLE, encoding="utf-8")
    assert "by us" in write_card(run_dir, run_dir / "model").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a\n{% for x in log.rows %}\n", ("line 2", "endfor")),
        ("{{ titel }}", ("uses 'titel'", "Did you mean 'title'", "front_matter")),
        ("{% if evaluation %}x{% endif %}", ("uses 'evaluation'", "Did you mean 'evaluations'")),
        (None, ("cannot be read",)),
    ],
)
def test_what_cannot_work_is_refused_early(tmp_path: Path, text: str | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "none" if text is None else write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        check_user_template(path)
    for part in ("card.template", str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("---\n{{ front_matter }}\n---\n{{ evaluations[7].name }}\n", ("line 4", "UndefinedError")),
        ("---\n{{ front_matter }}\n---\n\n{{ 1 / 0 }}", ("line 5", "ZeroDivisionError")),
        ("# {{ title }}\n", ("does not start with front matter",)),
        ("---\nmodel-index: 3\n---\n", ("not what the Hub reads",)),
        ("---\na: [\n---\n", ("not what the Hub reads",)),
        ("---\n- a\n---\n", ("expected a mapping",)),
    ],
)
def test_what_fails_says_where_and_leaves_the_card_that_was_there(tmp_path: Path, run_dir: Path, text: str, parts: tuple[str, ...]) -> None:
    (run_dir / "model").mkdir()
    before = write_card(run_dir, run_dir / "model").read_bytes()
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        write_card(run_dir, run_dir / "model", template=path)
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert (run_dir / "model" / "README.md").read_bytes() == before
    assert [p.name for p in (run_dir / "model").iterdir()] == ["README.md"]
