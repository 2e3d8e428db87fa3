"""Real text without a download: (docstring, source) pairs of the standard library of the running Python.

A query is the first paragraph of the docstring of a function or class, its document the source without docstrings.
The result depends on the installed standard library and on nothing else. A module is wholly in `train` or wholly in `test`.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import sys
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import xxhash

from stpipe.data import near_duplicates

TEST_SHARE = 0.16
MIN_WORDS = 3
MIN_SOURCE_CHARS = 40
SKIPPED_PACKAGES = frozenset({"antigravity", "ensurepip", "idlelib", "pydoc_data", "test", "this", "turtledemo"})
SKIPPED_FOLDERS = frozenset({"__pycache__", "_bundled", "dist-packages", "site-packages", "test", "tests"})
BANNER = re.compile(r"^#+\s*([-=#*~]{4,}.*)?$")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Pair:
    """One documented function or class. section: the class around it, or the run of module-level definitions that it stands in."""

    query: str
    document: str
    package: str
    module: str
    section: str
    name: str


def words(text: str) -> list[str]:
    """Lower-case words with identifiers split at underscores and capitals."""
    return [w.lower() for w in WORD.findall(text)]


def docstring_pairs() -> dict[str, list[Pair]]:
    """All pairs of the standard library by split (`train`, `test`), without near-duplicates, in order of their modules."""
    found = [pair for module, path in library_modules() for pair in module_pairs(module, path)]
    keep = near_duplicates.first_of_near_duplicates([words(p.document) for p in found])
    distinct: dict[tuple[str, ...], Pair] = {}
    for pair, kept in zip(found, keep, strict=True):
        if kept:
            distinct.setdefault(tuple(words(pair.query)), pair)
    pairs = list(distinct.values())
    held_out = _held_out_modules(pairs)
    return {
        "train": [p for p in pairs if p.module not in held_out],
        "test": [p for p in pairs if p.module in held_out],
    }


def library_fingerprint(*builders: ModuleType) -> str:
    """Changes with the Python version, the files of its library, and the code of this module and of `builders`.

    The code stands for the rules that it holds: nobody has to remember to raise a version when a rule changes.
    """
    files = [(module, path.stat().st_size) for module, path in library_modules()]
    code = [inspect.getsource(module) for module in (sys.modules[__name__], near_duplicates, *builders)]
    return xxhash.xxh3_128_hexdigest(repr((code, sys.version_info[:3], files)).encode())


def library_modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of each module that Python itself ships, sorted by name; no tests, nothing installed later."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, folders, names in os.walk(root):
        inside = Path(folder).relative_to(root).parts
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and _is_shipped(inside[0] if inside else f)]
        for name in names:
            parts = (*inside, name.removesuffix(".py"))
            if name.endswith(".py") and _is_shipped(parts[0]):
                files.append((".".join(parts).removesuffix(".__init__"), Path(folder, name)))
    return iter(sorted(files))


def _is_shipped(package: str) -> bool:
    """True for packages that Python documents as its own, but for tests, demonstrations and generated tables."""
    return package in sys.stdlib_module_names and package not in SKIPPED_PACKAGES and not package.startswith("_sysconfigdata")


def module_pairs(module: str, path: Path) -> list[Pair]:
    """The pairs of one file; none when it is not valid Python."""
    try:
        with tokenize.open(path) as handle:
            text = handle.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return []
    lines = text.splitlines()
    banners = _banner_lines(text)
    pairs = []
    for node, section in _documented(tree, module, banners):
        query = first_paragraph(ast.get_docstring(node, clean=False) or "")
        document = source_without_docstring(node, lines)
        if query and document:
            pairs.append(Pair(query, document, module.split(".")[0], module, section, node.name))
    return pairs


def first_paragraph(docstring: str) -> str:
    """Text up to the first blank line on one line; empty when that is no sentence (too short, or an example)."""
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    text = " ".join(paragraph.split())
    usable = len(words(text)) >= MIN_WORDS and not text.startswith(">>>")
    return text if usable else ""


def source_without_docstring(node: Documented, lines: list[str]) -> str:
    """Source of a function or class, decorators included, all docstrings in it taken out; empty when nothing is left to read."""
    if len(node.body) < 2 or node.end_lineno is None:
        return ""
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    text = {n: lines[n - 1].rstrip() for n in range(start, node.end_lineno + 1)}
    for inner in ast.walk(node):
        if not isinstance(inner, Documented) or ast.get_docstring(inner, clean=False) is None:
            continue
        docstring = inner.body[0]
        own = range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1)
        if docstring.lineno == inner.lineno or (len(inner.body) > 1 and inner.body[1].lineno in own):
            if inner is node:
                return ""
            continue  # it shares a line with code
        text.update(dict.fromkeys(own, ""))
        if len(inner.body) == 1:
            text[docstring.lineno] = " " * docstring.col_offset + "..."
    source = textwrap.dedent("\n".join(line for line in text.values() if line))
    return source if len(source) >= MIN_SOURCE_CHARS else ""


def _documented(tree: ast.Module, module: str, banners: list[int]) -> Iterator[tuple[Documented, str]]:
    """Each function and class with its section: `module.Class`, or `module:N` for the N-th run of module-level definitions.

    A run ends at a class and at a banner comment.
    """
    run = 0
    banner = iter([*banners, sys.maxsize])
    following = next(banner)
    for node in tree.body:
        while node.lineno > following:
            run, following = run + 1, next(banner)
        if isinstance(node, Documented):
            run += isinstance(node, ast.ClassDef)
            yield node, f"{module}:{run}"
            yield from _members(node, f"{module}.{node.name}")


def _members(owner: Documented, section: str) -> Iterator[tuple[Documented, str]]:
    for node in owner.body:
        if isinstance(node, Documented):
            yield node, section
            yield from _members(node, f"{section}.{node.name}")


def _banner_lines(text: str) -> list[int]:
    """Lines that hold a comment at the margin made of dashes or the like: authors set sections apart with them."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and token.start[1] == 0 and len(token.string) > 4 and BANNER.match(token.string):
                found.append(token.start[0])
    except (tokenize.TokenError, IndentationError):
        return []
    return found


def _held_out_modules(pairs: list[Pair]) -> set[str]:
    """Modules of the test split: in the order of a hash of their names until they hold TEST_SHARE of the pairs."""
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.module] = sizes.get(pair.module, 0) + 1
    held_out, total = set(), 0
    for module in sorted(sizes, key=lambda m: xxhash.xxh64_intdigest(m.encode())):
        if total + sizes[module] <= TEST_SHARE * len(pairs):
            held_out.add(module)
            total += sizes[module]
    return held_out
