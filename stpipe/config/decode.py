"""The strict decoder: the authority on what a configuration may hold.

Hydra neither notices a misspelt key that comes from a YAML file nor a value of a wrong type, so everything that it
composed is read against the schema here. All problems are collected: unknown keys (with the nearest valid one), wrong
types, numbers out of range, values that are not among those allowed, missing keys, unknown component names. Nothing is
converted silently, but for integers where a float is expected. Imports no torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.origins import UNRESOLVED, Origins, Path, dotted
from stpipe.config.schema import Schema, component, definition, members, slot_group
from stpipe.config.suggest import did_you_mean, nearest, unknown_name

TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
NOUNS = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "text",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
BOUND_WORDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def decode(values: Mapping[str, Any], schema: Schema, origins: Origins | None = None) -> dict[str, Any]:
    """The configuration with all defaults filled in, all plain JSON values, components under their registered names.

    Raises:
        ConfigError: with every problem found.
    """
    decoder = Decoder(schema, origins or Origins())
    decoded = decoder.read(values)
    if decoder.problems:
        raise ConfigError(decoder.problems)
    return decoded


class Decoder:
    """Reads values against a schema and collects what is wrong in `problems`; wrong values are kept as they are."""

    def __init__(self, schema: Schema, origins: Origins) -> None:
        self.schema = schema
        self.origins = origins
        self.problems: list[Problem] = []

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._object(self.schema, values, (), "the configuration")

    def _problem(self, path: Path, message: str) -> None:
        self.problems.append(Problem(dotted(path), message, self.origins.where(path)))

    def _value(self, node: Schema, value: Any, path: Path) -> Any:
        node = definition(self.schema, node)
        if value is UNRESOLVED:
            return value
        if isinstance(value, str) and value == "???":
            self._problem(path, f"must be given: {expected(self.schema, node)}")
            return value
        if "anyOf" in node and "x-component" not in node:
            return self._union(node["anyOf"], value, path)
        if "x-component" in node:
            return self._component(node["x-component"], value, path)
        if "enum" in node:
            return self._enum(node["enum"], value, path)
        kind = node.get("type")
        if kind is None:
            return value
        if not has_type(value, kind):
            self._problem(path, self._wrong_type(node, value, path))
            return value
        if kind == "object":
            return self._object(node, value, path, "")
        if kind == "array":
            return self._array(node, value, path)
        if kind == "string" and not is_unicode(value):
            self._problem(path, f"holds characters that are no Unicode, like those of a file name in another encoding: {ascii(value)[:80]}")
            return value
        return self._number(node, value, path) if kind in ("integer", "number") else value

    def _union(self, options: list[Schema], value: Any, path: Path) -> Any:
        """The first option of the value's type; nested problems are then those of that option."""
        for option in options:
            node = definition(self.schema, option)
            if value in node.get("enum", ()) or has_type(value, node.get("type", "")):
                return self._value(option, value, path)
        real = [o for o in options if definition(self.schema, o).get("type") != "null"]
        if len(real) == 1:
            return self._value(real[0], value, path)
        self._problem(path, self._wrong_type({"anyOf": options}, value, path))
        return value

    def _enum(self, allowed: list[Any], value: Any, path: Path) -> Any:
        if any(value == a and type(value) is type(a) for a in allowed):
            return value
        texts = [str(a) for a in allowed]
        message = f"expected one of {', '.join(texts)}; found {self.origins.shown(path, value)}"
        guess = did_you_mean(value, texts).strip() if isinstance(value, str) else ""
        self._problem(path, f"{message}. {guess}".rstrip(". ") if not guess else f"{message}. {guess}")
        return value

    def _number(self, node: Schema, value: Any, path: Path) -> Any:
        if node["type"] == "number":
            try:
                value = float(value)
            except OverflowError:  # an integer with more than 308 digits
                value = math.inf
        inside = {
            "minimum": lambda bound: value >= bound,
            "exclusiveMinimum": lambda bound: value > bound,
            "maximum": lambda bound: value <= bound,
            "exclusiveMaximum": lambda bound: value < bound,
        }
        if (isinstance(value, float) and not math.isfinite(value)) or not all(
            test(node[word]) for word, test in inside.items() if word in node
        ):
            self._problem(path, f"expected {expected(self.schema, node)}; found {self.origins.shown(path, value)}")
        return value

    def _array(self, node: Schema, value: list[Any], path: Path) -> list[Any]:
        fixed = node.get("prefixItems")
        if fixed is not None:
            if len(value) != len(fixed):
                self._problem(path, f"expected {len(fixed)} values, found {len(value)}")
                return value
            return [self._value(option, item, (*path, i)) for i, (option, item) in enumerate(zip(fixed, value, strict=True))]
        return [self._value(node.get("items", {}), item, (*path, i)) for i, item in enumerate(value)]

    def _component(self, group: str, value: Any, path: Path) -> Any:
        names = [d["x-name"] for d in members(self.schema, group)]
        if not isinstance(value, dict):
            example = value if isinstance(value, str) and component(self.schema, group, value) else next(iter(names), "...")
            self._problem(
                path, f"expected a mapping that names a {group}, like {{name: {example}}}; found {self.origins.shown(path, value)}"
            )
            return value
        if "name" not in value:
            near = nearest("name", [k for k in value if len(k) in (3, 4, 5)])
            hint = f" (is '{near}' meant to be 'name'?)" if near else ""
            self._problem(path, f"required key 'name' is missing{hint}. Known {group} names: {', '.join(sorted(names))}")
            return value
        chosen = component(self.schema, group, value["name"]) if isinstance(value["name"], str) else None
        if chosen is None:
            if value["name"] is not UNRESOLVED:
                aliases = [alias for d in members(self.schema, group) for alias in d["x-aliases"]]
                guess = nearest(str(value["name"]), [*names, *aliases])
                text = unknown_name(group, str(value["name"]), names)
                if guess in aliases and "Did you mean" not in text:
                    text = text.replace(" Known:", f" Did you mean '{guess}'? Known:")
                self._problem((*path, "name"), text)
            return value
        decoded = self._object(chosen, value, path, f"{group} '{chosen['x-name']}'")
        return {**decoded, "name": chosen["x-name"]}

    def _object(self, node: Schema, value: Mapping[str, Any], path: Path, what: str) -> dict[str, Any]:
        properties: Schema = node.get("properties", {})
        free = node.get("additionalProperties", False)
        decoded: dict[str, Any] = {}
        for key, item in value.items():
            if key in properties:
                decoded[key] = self._value(properties[key], item, (*path, key))
            elif free is not False:
                decoded[key] = self._value(free, item, (*path, key))
            else:
                self._unknown_key(key, list(properties), (*path, key), what)
        required = node.get("required", ())
        for key, option in properties.items():
            if key not in value and key in required:
                self._missing(key, option, value, path, properties)
            elif key not in value:
                decoded[key] = self._default(option)
        return {key: decoded[key] for key in (*properties, *(k for k in decoded if k not in properties)) if key in decoded}

    def _missing(self, key: str, option: Schema, value: Mapping[str, Any], path: Path, properties: Schema) -> None:
        if any(k not in properties and nearest(k, properties) == key for k in value):
            return  # a misspelt key is there and already reported: one mistake, one problem
        self._problem((*path, key), f"required key is missing: {option.get('description') or expected(self.schema, option)}")

    def _default(self, option: Schema) -> Any:
        """The default of a field, its nested sections and components with their own defaults."""
        default = option.get("default")
        if default is None or not isinstance(default, (dict, list)):
            return default
        return Decoder(self.schema, Origins())._value(option, default, ())

    def _unknown_key(self, key: str, known: list[str], path: Path, what: str) -> None:
        owner = f" of {what}" if what and what != "the configuration" else ""
        guess = nearest(key, known)
        places = [] if guess and close(key, guess) else elsewhere(self.schema, key)
        hint = f"Did you mean '{places[0]}'? " if places and (*path[:-1], key) != tuple(places[0].split(".")) else ""
        hint = hint or (f"Did you mean '{guess}'? " if guess else "")
        self._problem(path, f"unknown key{owner}. {hint}Keys: {', '.join(known) or 'none'}")

    def _wrong_type(self, node: Schema, value: Any, path: Path) -> str:
        message = f"expected {expected(self.schema, node)}; found {self.origins.shown(path, value)} ({kind_of(value)})"
        kinds = {definition(self.schema, o).get("type") for o in node.get("anyOf", [node])}
        if isinstance(value, str) and kinds & {"integer", "number", "boolean"}:
            if any("oc.env" in text for p, text in self.origins.from_environment.items() if p == path):
                return f"{message}. The environment holds text; write ${{oc.decode:{self.origins.shown(path, value)}}}"
            return f"{message}{'. Remove the quotes' if looks_like_number(value) else ''}"
        if isinstance(value, float) and "integer" in kinds and value.is_integer():
            return f"{message}. Write {int(value)}"
        return message


def is_unicode(text: str) -> bool:
    """Whether a text can be written to a file; halves of surrogate pairs cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def has_type(value: Any, kind: str) -> bool:
    """True when a value has the JSON type; true and false are no numbers."""
    return isinstance(value, TYPES.get(kind, ())) and (kind == "boolean" or not isinstance(value, bool))


def kind_of(value: Any) -> str:
    """What a value is, in the words that messages use."""
    return next(noun for kind, noun in NOUNS.items() if has_type(value, kind)) if value is not None else "null"


def expected(schema: Schema, node: Schema) -> str:
    """What a value may be, in words: `an integer >= 1 or null`."""
    node = definition(schema, node)
    if "x-component" in node:
        return f"a {node['x-component']} ({{name: ...}})"
    if "anyOf" in node:
        return " or ".join(expected(schema, option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(str(v) for v in node["enum"])
    bounds = " and ".join(f"{word} {node[key]}" for key, word in BOUND_WORDS.items() if key in node)
    return f"{NOUNS[node['type']]} {bounds}".strip() if "type" in node else "any value"


def close(word: str, candidate: str) -> bool:
    """True for a likely slip of the keyboard, not merely some likeness."""
    return difflib.SequenceMatcher(None, word.lower(), candidate.lower()).ratio() >= 0.75


def looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def elsewhere(schema: Schema, key: str) -> list[str]:
    """Full paths of keys with exactly this name in the sections and in the components of the top groups."""
    found: list[str] = []
    for section, node in schema["properties"].items():
        group = slot_group(schema, node)
        inner: Iterable[Schema] = members(schema, group) if group else [definition(schema, node)]
        if any(key in option.get("properties", {}) for option in inner):
            found.append(f"{section}.{key}")
    return found
