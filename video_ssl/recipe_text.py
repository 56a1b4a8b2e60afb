"""The text of recipes: YAML in and out, and references from one key to another.

YAML 1.1 as PyYAML's safe loader reads it, except that `1e-4` is a number, and a date, `010` (which was octal, 8) and
`1:30` (which was 90) are text.  What a file may hold is
bounded, since recipes come from strangers: size, depth, number of values, and what references expand to.

A value may refer to another key, `${data.table}`.  That is all that stands between `${` and `}`: nothing reads the
environment, a file or the network, so a recipe cannot carry a secret of this machine anywhere.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
MAX_VALUES = 50_000
MAX_DEPTH = 50
MAX_TEXT = 20_000

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)")
_NAMES = {"\n": "a line break", "\r": "a line break", "\t": "a tab", "\0": "a zero byte"}


class ConfigError(ValueError):
    """A recipe, an override or a setting that cannot be used; the text says what is allowed."""


def unprintable(text: str) -> str:
    """Returns in words what of a text cannot stand in a line of a file or a script; "" if all of it can.

    >>> unprintable("my run"), unprintable("a\\nb")
    ('', 'a line break')
    """
    for letter in text:
        if not letter.isprintable() and unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs"):
            return _NAMES.get(letter, f"the control character {letter!r}")
    return ""


class _Loader(yaml.SafeLoader):
    """The safe loader that refuses a key which is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [
            key.value
            for key, _ in getattr(node, "value", ())
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode)
        ]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _resolvers() -> dict[Any, list[tuple[str, Any]]]:
    number, date = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
    integer = "tag:yaml.org,2002:int"
    found = {
        first: [(tag, rule) for tag, rule in rules if tag not in (number, date, integer)]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+0123456789.":
        rules = found.setdefault(first, [])
        rules.append((number, re.compile(f"^(?:{_FLOAT.pattern})$")))
        rules.append((integer, re.compile(f"^(?:{_INTEGER.pattern})$")))
    return found


# What is written must be read back as it was: both follow the same rules about what looks like a number.
_Loader.yaml_implicit_resolvers = _resolvers()
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read_yaml(text: str) -> Any:
    """Returns the dictionaries, lists, texts, numbers and truth values of a YAML text.

    Raises:
        ConfigError: it is no YAML, or more or deeper than a recipe is.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"it has {len(text):,} letters, a recipe at most {MAX_BYTES:,}")
    try:
        content = yaml.load(text, Loader=_Loader)
    except RecursionError as err:
        raise ConfigError(f"it is nested deeper than {MAX_DEPTH} levels") from err
    except (yaml.YAMLError, ValueError, TypeError) as err:
        raise ConfigError(" ".join(str(err).split())) from err
    return _plain(content, 0, [0])


def _plain(value: Any, depth: int, count: list[int]) -> Any:
    """A copy of what YAML has made, every alias written out; bounded, since aliases multiply."""
    count[0] += 1
    if depth > MAX_DEPTH:
        raise ConfigError(f"it is nested deeper than {MAX_DEPTH} levels")
    if count[0] > MAX_VALUES:
        raise ConfigError(
            f"it holds more than {MAX_VALUES:,} values, counted with every repetition"
        )
    if isinstance(value, dict):
        return {key: _plain(inner, depth + 1, count) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth + 1, count) for inner in value]
    if value is not None and not isinstance(value, (str, int, float)):
        raise ConfigError(f"it holds a {type(value).__name__}, which no setting is")
    return value


def load_yaml(path: Path) -> dict[Any, Any]:
    """Returns the keys and values of a YAML file; an empty one has none.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: it cannot be read as YAML, or holds no keys and values.
    """
    try:
        with open(path, "rb") as file:
            content = read_yaml(file.read(MAX_BYTES + 1).decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except (ConfigError, OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} is not readable as YAML: {err}.") from err
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ConfigError(f"{path} must hold keys and values, but holds a {kind}.")
    return content


def to_yaml(content: Any) -> str:
    """Returns plain nested content as YAML that `read_yaml` reads back as it was."""
    text: str = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def merged(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns `above` over `below`: mappings are merged key by key, everything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def resolved(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a copy of a recipe with every reference replaced by what it refers to.

    Raises:
        ConfigError: a reference to nothing, to itself, or to anything else than a key.
    """
    return _References(content).all()


class _References:
    def __init__(self, content: Mapping[Any, Any]) -> None:
        self._content = content
        self._count = 0

    def all(self) -> dict[str, Any]:
        return {str(key): self._value(v, str(key), ()) for key, v in self._content.items()}

    def _value(self, value: Any, place: str, within: tuple[str, ...]) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or len(within) > MAX_DEPTH:
            raise ConfigError(f"{place}: its references never end, or expand to too much.")
        if isinstance(value, Mapping):
            return {k: self._value(v, f"{place}.{k}", within) for k, v in value.items()}
        if isinstance(value, list):
            return [self._value(v, f"{place}.{i}", within) for i, v in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return self._text(value, place, within)
        return copy.copy(value)

    def _text(self, text: str, place: str, within: tuple[str, ...]) -> Any:
        if "${" in _REFERENCE.sub("", text):
            raise ConfigError(
                _no_reference(place, text, "here a brace does not close, or is doubled")
            )
        whole = _REFERENCE.fullmatch(text)
        if whole:
            return self._target(whole[1], place, text, within)

        def put(match: re.Match[str]) -> str:
            found = self._target(match[1], place, text, within)
            if found is None or isinstance(found, (dict, list)):
                raise ConfigError(f"{place}={text!r}: {match[1]} is no text or number.")
            return str(found)

        filled = _REFERENCE.sub(put, text)
        if len(filled) > MAX_TEXT:
            raise ConfigError(f"{place}: its references expand to {len(filled):,} letters.")
        return type(text)(filled)  # an override stays one

    def _target(self, key: str, place: str, text: str, within: tuple[str, ...]) -> Any:
        if key in within:
            raise ConfigError(f"{place}={text!r}: {key} refers to itself.")
        node: Any = self._content
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise ConfigError(_no_reference(place, text, f"there is no key {key!r}"))
            node = node[part]
        return self._value(node, place, (*within, key))


def _no_reference(place: str, text: str, reason: str) -> str:
    return (
        f"{place}={text!r}: ${{...}} stands for another key of the recipe, as in ${{data.table}}, and {reason}. "
        "Nothing in a recipe reads the environment: let the shell put in what belongs there, or set the key."
    )
