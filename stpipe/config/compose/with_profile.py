"""`with_profile`: what a recipe says for the runs in which a profile is chosen too.

    with_profile:
      offline: {dataset: {max_rows: 3000}, optimizer: {lr: 1e-4}}

A block is laid right after the profile of its name, so it wins over the profile, and later profiles and the command line
win over it. Blocks of profiles that are not chosen are read as strictly as the others: a mistake that shows only when
somebody chooses the profile would be found by the wrong person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stpipe.config.decode import Decoder, kind_of
from stpipe.config.errors import Problem
from stpipe.config.interpolate import resolve_interpolations
from stpipe.config.layers import Tree
from stpipe.config.origins import Path, dotted
from stpipe.config.resolve import name_components, settle
from stpipe.config.rules import check
from stpipe.config.suggest import unknown_name

KEY = "with_profile"
GROUP = "profile"
#: Keys of a file that a block cannot have, and what to do instead.
NOT_IN_A_BLOCK = {
    "defaults": "a block chooses no options; name the component instead, like {loss: {name: mnrl}}",
    "imports": "modules are imported before anything is composed; list them at the top of the recipe",
    KEY: "a block holds for one profile; write a block for each profile",
}


@dataclass(frozen=True)
class Block:
    """The keys that hold with one profile; `places` has paths below the block."""

    profile: str
    values: dict[str, Any]
    places: dict[Path, str]


@dataclass
class Blocks:
    """The blocks of the files read so far, the profiles laid so far, and what is wrong with the blocks as such."""

    known: Collection[str]
    waiting: list[Block] = field(default_factory=list)
    profiles: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def take(self, values: dict[str, Any], places: Mapping[Path, str]) -> None:
        """Take the blocks out of the values of a file."""
        given = values.pop(KEY, None)
        if given is None:
            return
        if not isinstance(given, dict):
            self._problem((KEY,), f"expected a mapping of profiles; found {given!r} ({kind_of(given)})", places)
            return
        for name, block in given.items():
            if not isinstance(block, dict):
                self._problem((KEY, name), f"expected a mapping of keys; found {block!r} ({kind_of(block)})", places)
                continue
            if name not in self.known:
                self._problem((KEY, name), unknown_name(GROUP, name, self.known), places)
                continue
            for key in NOT_IN_A_BLOCK.keys() & block.keys():
                self._problem((KEY, name, key), NOT_IN_A_BLOCK[key], places)
            kept = {key: value for key, value in block.items() if key not in NOT_IN_A_BLOCK}
            self.waiting.append(Block(name, kept, {path[2:]: place for path, place in places.items() if path[:2] == (KEY, name)}))

    def due(self, profile: str | None) -> list[Block]:
        """The blocks that are to be laid now; `profile` is one that was laid just now."""
        if profile is not None and profile not in self.profiles:
            self.profiles.append(profile)
        due = [block for name in self.profiles for block in self.waiting if block.profile == name]
        self.waiting = [block for block in self.waiting if block.profile not in self.profiles]
        return due

    def _problem(self, path: Path, message: str, places: Mapping[Path, str]) -> None:
        self.problems.append(Problem(dotted(path), message, places.get(path, places.get((KEY,), ""))))


def block_values(values: Mapping[str, Any], profiles: Collection[str]) -> list[Mapping[str, Any]]:
    """The blocks of a file for these profiles, of what is well formed."""
    given = values.get(KEY)
    blocks = given if isinstance(given, dict) else {}
    return [blocks[name] for name in profiles if isinstance(blocks.get(name), dict)]


def problems_of_block(profile: str, tree: Tree, *, without: Tree, places: Sequence[str]) -> list[Problem]:
    """What is wrong in a composition because of the blocks of one profile: what the decoder finds, else the cross-field rules.

    Args:
        profile: its name.
        tree: recipe, profile and its blocks.
        without: the same without the blocks; what is wrong there is not held against them.
        places: of the blocks' keys, the place of a block as a whole first.
    """
    decoded, known = _Decoded(tree), _Decoded(without)
    problems, before = decoded.problems, known.problems
    if not problems and not before:
        problems, before = decoded.check(), known.check()
    return [
        Problem(f"{KEY}.{profile}.{problem.key}", problem.message, problem.where if problem.where in places else places[0])
        for problem in problems
        if problem not in before
    ]


class _Decoded:
    """A copy of a tree, decoded. An interpolation that fails says nothing about a run that does not use it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree.copy()
        self.whole = not resolve_interpolations(self.tree.values, tree.schema, self.tree.origins)
        decoder = Decoder(tree.schema, self.tree.origins)
        self.values = decoder.read(name_components(self.tree.values, tree.schema))
        self.problems = decoder.problems

    def check(self) -> list[Problem]:
        """What the cross-field rules find, which read every value."""
        if not self.whole:
            return []
        problems, _ = settle(self.values, self.tree.values, self.tree.origins, recipe=None, repeats=None)
        return [*problems, *check(self.values, self.tree.schema, self.tree.origins, elsewhere=True).problems]
