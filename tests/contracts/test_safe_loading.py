"""Nothing that is read can run code: no pickle, no weights that are more than tensors, no YAML with objects, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for folder in ("stpipe", "scripts") for p in (ROOT / folder).rglob("*.py"))
#: Calls that run what they read, whatever their arguments.
NEVER = {
    *(f"{module}.{name}" for module in ("pickle", "cPickle", "dill", "cloudpickle", "marshal") for name in ("load", "loads", "Unpickler")),
    *(
        f"yaml.{name}"
        for name in ("load", "load_all", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all", "UnsafeLoader", "Loader")
    ),
    *("joblib.load", "shelve.open", "pandas.read_pickle", "pd.read_pickle", "os.system", "os.popen", "eval", "exec", "compile"),
}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a call."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    return next((getattr(k.value, "value", "an expression") for k in call.keywords if k.arg == name), None)


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, why) of each call that could run what it reads."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in NEVER:
            yield node.lineno, name
        if name in ("torch.load", "torch.jit.load") and keyword(node, "weights_only") is not True:
            yield node.lineno, f"{name} without weights_only=True"
        if name in ("np.load", "numpy.load") and keyword(node, "allow_pickle") not in (None, False):
            yield node.lineno, f"{name} with allow_pickle"
        if name.startswith("subprocess.") and keyword(node, "shell") not in (None, False):
            yield node.lineno, f"{name} with a shell"


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "pickle.loads(data)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
    ],
)
def test_the_rule_finds_what_it_is_for(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_the_rule_lets_pass_what_is_safe() -> None:
    code = "torch.load(p, weights_only=True); np.load(p); np.load(p, mmap_mode='r'); yaml.safe_load(t); model.eval(); subprocess.run([a])"
    assert not list(unsafe(ast.parse(code)))


def test_sources_run_nothing_that_they_read() -> None:
    assert len(SOURCES) > 250
    found = [f"{p.relative_to(ROOT)}:{line}: {why}" for p in SOURCES for line, why in unsafe(ast.parse(p.read_text(encoding="utf-8")))]
    assert not found, found
