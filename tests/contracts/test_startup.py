"""Commands that answer at once: no torch, and a time limit.

Times are CPU time, and the least of three: what else a machine does can only add to them.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stpipe.config.locations import recipes_dir

HEAVY = ("torch", "transformers", "datasets", "accelerate", "sentence_transformers", "sklearn", "pandas", "scipy")
PROBE = """
import io, json, resource, sys
from contextlib import redirect_stderr, redirect_stdout
code = None
with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
    {statement}
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [m for m in {heavy} if m in sys.modules]
print(json.dumps(dict(code=code, heavy=heavy, seconds=used.ru_utime + used.ru_stime, out=out.getvalue(), err=err.getvalue())))
"""


def probe(statement, *, limit):
    code = PROBE.format(statement=statement, heavy=HEAVY)
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if found["seconds"] < limit:
            return found
    raise AssertionError(f"took {found['seconds']:.3f} s of CPU time three times, expected less than {limit}")


def command(*arguments, limit):
    return probe(f"from stpipe.cli.main import main; code = main({list(arguments)!r})", limit=limit)


def test_import_of_the_package():
    found = probe("import stpipe", limit=0.3)
    assert found["heavy"] == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["validate", "--help"], ["evaluate", "--help"], ["list", "--help"], ["--version"]]
)
def test_help(arguments):
    found = command(*arguments, limit=0.3)
    assert (found["code"], found["heavy"]) == (0, [])
    assert found["out"]


@pytest.mark.parametrize("arguments", [["list"], ["list", "loss", "--json"], ["-sc", "install=bash"]])
def test_listing(arguments):
    found = command(*arguments, limit=1)
    assert (found["code"], found["heavy"]) == (0, [])


@pytest.mark.parametrize("arguments", [["+recipe=multi_dataset", "+profile=offline", "+profile=smoke"], ["+recipe=splade_nq"]])
def test_validate_of_a_recipe(arguments):
    found = command("validate", *arguments, limit=2)
    assert (found["code"], found["heavy"]) == (0, []), found["err"]
    assert found["out"].strip().endswith("valid")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "+recipe=mnrl_all_nil"], "Did you mean 'mnrl_all_nli'?"),
        (["validate", "+recipe=mnrl_all_nli", "loss=mnlr"], "Did you mean 'mnrl'?"),
        (["train", "+recipe=mnrl_all_nli", "trainer.batchsize=8"], "Did you mean 'batch_size'?"),
        (["train", "+recipe=mnrl_all_nli", "trainer.batch_size=eight"], "trainer.batch_size: expected an integer"),
        (["prepare", "+recipe=mnrl_all_nli", "~model.name_or_path"], "model.name_or_path: required key is missing"),
        (["train", "+recipe=cosent_stsb", "loss=mnrl"], "'mnrl' trains on pair"),
        (["evaluate"], "MODEL is missing"),
        (["trian"], "Did you mean 'train'?"),
    ],
)
def test_mistakes_are_refused_at_once(arguments, message):
    found = command(*arguments, limit=2)
    assert found["code"] == 2
    assert message in found["err"]
    assert "Traceback" not in found["err"]
    assert found["heavy"] == []


def test_a_mistake_in_a_block_that_is_not_used_is_refused_at_once(tmp_path):
    """splade_nq with a slip in what it says for the offline profile."""
    text = (recipes_dir() / "splade_nq.yaml").read_text()
    line = next(
        i for i, content in enumerate(text.splitlines(), 1) if i > text[: text.index("with_profile:")].count("\n") and "max_rows" in content
    )
    lines = text.splitlines()
    lines[line - 1] = lines[line - 1].replace("max_rows", "max_row")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "slip.yaml").write_text("\n".join(lines) + "\n")
    found = command("validate", "+recipe=slip", "--config-dir", str(tmp_path), limit=2)
    assert found["code"] == 2
    assert "with_profile.offline.dataset.max_row: unknown key. Did you mean 'max_rows'?" in found["err"]
    assert f"slip.yaml:{line}]" in found["err"]
    assert found["heavy"] == []


def test_completion_of_keys():
    found = probe(
        "import os; os.environ.update(COMP_LINE='stpipe train loss=mnrl trainer.prec', COMP_POINT='36');"
        "from stpipe.cli.main import main; code = main(['-sc', 'query=bash'])",
        limit=0.3,
    )
    assert (found["code"], found["heavy"], found["out"]) == (0, [], "trainer.precision=\n")
