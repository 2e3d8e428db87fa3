"""Which layer may import which: a rule of the architecture (docs/architecture.md) as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "stpipe"

#: Layer -> layers of stpipe that it may import (besides itself); "*" is every layer.
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "core": {"config"},
    "ops": {"core", "config"},
    "losses": {"core", "ops", "config"},
    "models": {"core", "ops", "config"},
    "data": {"core", "config"},
    "search": {"core", "ops", "config"},
    "util": {"core", "ops", "models", "search", "config"},
    "evaluation": {"core", "ops", "models", "search", "config"},
    "trackers": {"config"},
    "engine": {"config", "core", "ops", "losses", "models", "data", "evaluation"},
    "export": {"models", "evaluation", "config", "core"},
    "cards": {"reports", "export", "models", "evaluation", "config", "core"},
    "reports": {"export", "models", "evaluation", "config", "core"},
    "pipeline": {
        "config",
        "core",
        "ops",
        "losses",
        "models",
        "data",
        "search",
        "util",
        "evaluation",
        "engine",
        "cards",
        "reports",
        "trackers",
        "export",
    },
    "gate": {"config", "evaluation", "pipeline", "reports"},
    "launch": {"config", "core", "pipeline", "reports"},
    "cli": {"*"},
}
#: Layer -> packages of others that it must not import, with the reason in the message of the test.
MUST_NOT_IMPORT: dict[str, set[str]] = {
    "config": {"torch", "transformers", "datasets", "accelerate", "deepspeed", "numpy"},
    "core": {"transformers", "datasets", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "ops": {"datasets", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "losses": {"transformers", "datasets", "accelerate", "deepspeed", "hydra", "omegaconf", "torch.distributed"},
    "models": {"datasets", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "data": {"transformers", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "search": {"transformers", "datasets", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "util": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "evaluation": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "trackers": {"torch", "transformers", "datasets", "accelerate", "deepspeed", "hydra", "omegaconf", "numpy"},
    "engine": {"hydra", "omegaconf"},
    "export": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "cards": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "reports": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "pipeline": {"deepspeed", "hydra", "omegaconf"},
    "gate": {"accelerate", "deepspeed", "hydra", "omegaconf"},
    "launch": {"transformers", "datasets", "accelerate", "deepspeed", "hydra", "omegaconf"},
    "cli": {"accelerate", "deepspeed"},
}
#: sentence-transformers is the oracle of the tests, never a dependency.
NEVER = {"sentence_transformers"}


def files(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob("*.py"))


def imported_modules(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also of those inside functions; `if TYPE_CHECKING:` counts, too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_layer_has_a_rule():
    layers = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("_")}
    assert layers == set(MAY_IMPORT) == set(MUST_NOT_IMPORT)
    assert sum(len(files(layer)) for layer in layers) > 80


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layer_imports_only_what_it_may(layer):
    allowed = MAY_IMPORT[layer] | {layer}
    seen = 0
    for file in files(layer):
        for line, module in imported_modules(file):
            parts = module.split(".")
            place = f"{file.relative_to(PACKAGE.parent)}:{line} imports {module}"
            assert parts[0] not in NEVER, place
            for forbidden in MUST_NOT_IMPORT[layer]:
                assert module != forbidden and not module.startswith(f"{forbidden}."), f"{place}; {layer}/ must not"
            if parts[0] == "stpipe" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
                assert "*" in allowed or parts[1] in allowed, f"{place}; {layer}/ may import {', '.join(sorted(allowed))}"
            seen += 1
    assert seen


def test_hydra_is_known_to_composition_and_command_line_only():
    users = {
        f.relative_to(PACKAGE).as_posix() for f in PACKAGE.rglob("*.py") if any(m.split(".")[0] == "hydra" for _, m in imported_modules(f))
    }
    assert users
    assert all(user.startswith(("config/compose/", "cli/")) for user in users), users


def test_accelerate_is_known_to_the_engine_only():
    users = {
        f.relative_to(PACKAGE).parts[0]
        for f in PACKAGE.rglob("*.py")
        if any(m.split(".")[0] == "accelerate" for _, m in imported_modules(f))
    }
    assert users == {"engine"}


def test_the_rule_can_fail(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from torch import distributed\n")
    assert (2, "torch.distributed") in list(imported_modules(file))
