"""Shell completion of verbs, flags, groups, options and keys. Needs neither Hydra nor torch, so it answers at once."""

from __future__ import annotations

import os
import sys
from typing import Any

from stpipe.config.catalog import catalog, groups
from stpipe.config.options import option_groups
from stpipe.config.schema import Schema, component, definition, load_schema, members, slot_group
from stpipe.config.suggest import unknown_name

BASH = """_stpipe() {
  local IFS=$'\\n'
  COMPREPLY=( $(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" stpipe -sc query=bash 2>/dev/null) )
}
complete -o nospace -o default -F _stpipe stpipe
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH
FISH = "complete -c stpipe -f -a '(env COMP_LINE=(commandline -cp) stpipe -sc query=fish 2>/dev/null)'\n"
INSTALL = {"bash": BASH, "zsh": ZSH, "fish": FISH}
UNINSTALL = {"bash": "complete -r stpipe\n", "zsh": "complete -r stpipe\n", "fish": "complete -e -c stpipe\n"}
FLAGS = ("--help", "--config-dir", "--config-name", "--multirun", "--cfg", "--info", "--resolve", "--package", "--from", "--pdb")
COMPOSING = ("train", "validate", "prepare", "evaluate", "fetch")
APPENDED = ("recipe", "profile")


def run_completion(arguments: list[str]) -> int:
    """`install=SHELL`, `uninstall=SHELL` print shell code; `query=SHELL` prints the completions of $COMP_LINE."""
    action, _, shell = (arguments[0] if arguments else "").partition("=")
    texts = {"install": INSTALL, "uninstall": UNINSTALL}
    if action not in (*texts, "query") or shell not in INSTALL:
        wrong = (
            unknown_name("shell", shell, INSTALL)
            if action in (*texts, "query")
            else "expected install=SHELL, uninstall=SHELL or query=SHELL"
        )
        print(f"stpipe -sc: {wrong}", file=sys.stderr)
        return 2
    if action in texts:
        print(texts[action][shell], end="")
        return 0
    line = os.environ.get("COMP_LINE", "")
    line = line[: int(os.environ.get("COMP_POINT", len(line)))]
    words = line.split(" ")
    found = complete(words[1:-1], words[-1])
    # bash takes `=` for the end of a word, so only what follows it is replaced.
    skip = len(words[-1].rpartition("=")[0]) + 1 if shell != "fish" and "=" in words[-1] else 0
    print("\n".join(text[skip:] for text in found))
    return 0


def complete(before: list[str], word: str) -> list[str]:
    """Whole words that `word` may become, after the words before it."""
    from stpipe.cli.main import VERBS

    before = [w for w in before if w]
    if not before:
        return [f"{v} " for v in (*VERBS, "--help", "--version") if v.startswith(word)]
    schema = load_schema()
    if before[0] == "list":
        return [f"{g} " for g in groups(schema) if g.startswith(word)]
    if before[0] not in COMPOSING:
        return []
    if word.startswith("-"):
        return [f"{flag} " for flag in (*FLAGS, *(("--dry-run", "--stage") if before[0] == "train" else ())) if flag.startswith(word)]
    plus = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word.lstrip("+~").partition("=")
    if equals:
        return [f"{plus}{key}={v}" for v in values_of(schema, key, before) if v.startswith(value)]
    return [plus + text for text in keys(schema, key, before, plus)]


def values_of(schema: Schema, key: str, before: list[str]) -> list[str]:
    """Options of a group, or the values that a key allows."""
    if key in groups(schema) and key != "callback":
        return [f"{name} " for name in catalog(schema, key)]
    node = node_at(schema, key.split("."), before)
    if node is None:
        return []
    options = [definition(schema, o) for o in definition(schema, node).get("anyOf", [node])]
    texts = [str(v) for o in options for v in o.get("enum", ())]
    texts += ["true", "false"] if any(o.get("type") == "boolean" for o in options) else []
    group = slot_group(schema, node)
    return [f"{t} " for t in texts] if not group else []


def keys(schema: Schema, prefix: str, before: list[str], plus: str) -> list[str]:
    """Groups and keys that start with `prefix`; sections end with a dot."""
    *path, last = prefix.split(".")
    base = "".join(f"{p}." for p in path)
    node = node_at(schema, path, before)
    found = []
    for key, child in properties(schema, node, path, before).items() if node is not None else ():
        if key.startswith(last):
            inner = definition(schema, child)
            section = "properties" in inner or slot_group(schema, child) or isinstance(inner.get("additionalProperties"), dict)
            found.append(f"{base}{key}{'.' if section else '='}")
    if not path:
        found += [f"{group}=" for group in groups(schema) if group.startswith(last) and (plus or group not in APPENDED)]
        found += [f"+{group}=" for group in APPENDED if group.startswith(last) and not plus]
    return sorted(found)


def node_at(schema: Schema, path: list[str], before: list[str]) -> Schema | None:
    """The schema of a key path; the component that an earlier word chose decides about its keys."""
    node: Schema | None = schema
    for i, part in enumerate(path):
        node = properties(schema, node, path[:i], before).get(part) if node is not None else None
    return node


def properties(schema: Schema, node: Schema, path: list[str], before: list[str]) -> dict[str, Any]:
    """Keys below a node: of the chosen component, or of all that may stand there."""
    group = slot_group(schema, node)
    if group is None:
        inner = definition(schema, node)
        free = inner.get("additionalProperties")
        if isinstance(free, dict) and "properties" not in inner:
            names = {w.lstrip("+").split(".")[len(path)] for w in before if w.lstrip("+").startswith(".".join(path) + ".") and path}
            return {name.split("=")[0]: free for name in names}
        return inner.get("properties", {})
    chosen = next((w.partition("=")[2] for w in before if w.partition("=")[0] in (".".join(path), ".".join((*path, "name")))), None)
    found = component(schema, group, chosen) if chosen and group in option_groups(schema) else None
    return {k: v for d in ([found] if found else members(schema, group)) for k, v in d.get("properties", {}).items()}
