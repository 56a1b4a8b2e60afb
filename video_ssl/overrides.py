"""Overrides, `dotted.key=value`: the type of the key says how the text behind the sign is read.

A key of type text takes the text as it was typed, so that paths with ` #`, brackets or quotes and names that look like
numbers or dates stay what they are.  Every other value is YAML: `1e-4` a number, `[1, 2]` a list, `null` nothing.
Where a key takes text or something else, what reads as the something else is that, and everything else is text.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.recipe_text import ConfigError, read_yaml

_PART = re.compile(r"\[([^\[\]]*)\]|([^.\[\]]+)")
_NULL = ("null", "Null", "NULL", "~", "")


class Choice:
    """Base of types of fields that take one of several dataclasses, which are looked up when a recipe is read."""

    @classmethod
    def classes(cls) -> list[type]:
        """Returns the dataclasses; the first is meant where nothing decides."""
        raise NotImplementedError


class Typed(str):
    """The value of an override as it was typed; `read_typed` makes of it what its key takes."""

    __slots__ = ()


class IdleNull(Typed):
    """A null where the recipe has no such key: it leaves out nothing, if that is what a null does there.

    Attributes:
        beside: the keys that the recipe has there.
    """

    beside: tuple[str, ...] = ()

    def __new__(cls, text: str, beside: Iterable[object] = ()) -> IdleNull:
        """Returns the text as it was typed, with the keys."""
        found = super().__new__(cls, text)
        found.beside = tuple(str(key) for key in beside)
        return found


def split_override(override: str) -> tuple[list[str], Typed]:
    """Returns the parts of the key, and the value.

    Raises:
        ConfigError: there is no key, or no sign.

    >>> split_override("optimizer.lr=1e-4")
    (['optimizer', 'lr'], '1e-4')
    """
    key, equals, value = override.partition("=")
    parts = [a or b for a, b in _PART.findall(key.strip())]
    if not equals or not parts:
        raise ConfigError(
            f"override {override!r} has no key and value: write dotted.key=value, for example optimizer.lr=1e-4. If it "
            "belongs to the value before it, put both into quotes: 'data.table=my videos'."
        )
    return parts, Typed(value)


def apply_override(content: dict[Any, Any], override: str) -> None:
    """Puts an override into a recipe; its value stays `Typed`."""
    parts, value = split_override(override)
    node: Any = content
    for part in parts[:-1]:
        inner = _child(node, part, override)
        if isinstance(inner, Typed):
            inner = _yaml_or_none(inner)
        elif isinstance(inner, str) and inner.startswith("${"):
            raise ConfigError(f"override {override!r}: {part} is the reference {inner}; set that.")
        inner = dict(inner) if isinstance(inner, Mapping) else inner
        inner = list(inner) if isinstance(inner, list) else inner
        if not isinstance(inner, (dict, list)):
            inner = {}
        _put(node, part, inner)
        node = inner
    last, before = parts[-1], _child(node, parts[-1], override)
    if isinstance(before, Mapping):  # as with a base: what is not named stays
        given = _yaml_or_none(value)
        if isinstance(given, Mapping):
            idle = {
                k: IdleNull("null", before)
                for k, v in given.items()
                if v is None and k not in before
            }
            _put(node, last, {**before, **given, **idle})
            return
    if value in _NULL and isinstance(node, dict) and last not in node:
        value = IdleNull(value, node)
    _put(node, last, value)


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            raise ConfigError(
                f"override {override!r}: {part!r} is no item of a list of {len(node)}; they count from 0."
            )
        return node[int(part)]
    return node.get(part)


def _put(node: Any, part: str, value: Any) -> None:
    node[int(part) if isinstance(node, list) else part] = value


def _yaml_or_none(text: str) -> Any:
    try:
        return read_yaml(text)
    except ConfigError:
        return None


def read_typed(hint: Any, value: Any, place: str = "") -> Any:
    """Returns content with every `Typed` value read as the type at its place says.

    Args:
        hint: a dataclass or any other type of a field; None = unknown, all is YAML.
        value: what a recipe and its overrides say there.
        place: dotted position, for errors.

    Raises:
        ConfigError: text that cannot be what its key takes.
    """
    if isinstance(value, Typed):
        return _read(hint, value, place)
    if isinstance(value, Mapping):
        inner = hints_of_keys(hint, value, place)
        return {k: read_typed(inner(k), v, _joined(place, k)) for k, v in value.items()}
    if isinstance(value, list):
        item = next((h for h in members(hint) if typing.get_origin(h) in (tuple, list)), None)
        inside = typing.get_args(item)[0] if item is not None else None
        return [read_typed(inside, v, _joined(place, i)) for i, v in enumerate(value)]
    return value


def _joined(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def hints_of_keys(hint: Any, content: Mapping[Any, Any], place: str) -> Any:
    """Returns a function from a key of a mapping to the type of what it holds; None where that is not known."""
    candidates = dataclasses_in(hint)
    chosen = variant(candidates, content, place)
    if chosen is not None:
        return typing.get_type_hints(chosen).get
    for member in members(hint):
        if typing.get_origin(member) is dict:
            # Nothing, which leaves the entry out, is always one of its values.
            return lambda _key: typing.get_args(member)[1] | None
        if member is Any:
            return lambda _key: Any
    return lambda _key: None


def members(hint: Any) -> list[Any]:
    """Returns the types of a union, without wrappers; of anything else the type itself."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [m for arg in typing.get_args(hint) for m in members(arg)]
    if origin is typing.Annotated:
        return members(typing.get_args(hint)[0])
    return [] if hint is None else [hint]


def _read(hint: Any, text: Typed, place: str) -> Any:
    kinds = members(hint)
    if Any in kinds:
        return text  # another rule below decides
    words = [w for k in kinds if typing.get_origin(k) is typing.Literal for w in typing.get_args(k)]
    if text in words:
        return str(text)
    takes_text = str in kinds or Path in kinds or any(isinstance(w, str) for w in words)
    if not takes_text:
        return _as_yaml(text, place)
    if type(None) in kinds and text.strip() in _NULL:
        return None
    others = [k for k in kinds if k not in (str, Path, type(None))]
    found = _yaml_or_none(text) if others else None
    if found is not None and any(_is_a(found, kind) for kind in others):
        return found
    if not text.strip():
        raise ConfigError(f"{place}= is empty: put a value behind the sign.")
    return str(text)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value of YAML is of a type; a truth value is no number."""
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, (int, float)):
        return kind is float or (kind is int and isinstance(value, int))
    if isinstance(value, list):
        return typing.get_origin(kind) in (tuple, list)
    if isinstance(value, dict):
        choice = isinstance(kind, type) and issubclass(kind, Choice)
        return choice or dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict
    return False


def _as_yaml(text: Typed, place: str) -> Any:
    try:
        return read_yaml(text)
    except ConfigError as err:
        raise ConfigError(f"{place}={str(text)!r} is not readable as YAML: {err}.") from err


def dataclasses_in(hint: Any) -> list[Any]:
    """Returns the dataclasses in a hint such as `X | None`, `tuple[X, ...]`, `X | Y` or a `Choice`."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    if isinstance(hint, type) and issubclass(hint, Choice):
        return hint.classes()
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, tuple, list):
        return [c for arg in typing.get_args(hint) for c in dataclasses_in(arg)]
    return []


def variant(candidates: Sequence[Any], content: Any, where: str) -> Any:
    """Returns the dataclass that `content` is meant for; None if there is none, or nothing that decides.

    Among several, a field that in each of them allows one value of its own decides; without it, the first is meant.
    """
    if len(candidates) <= 1 or not isinstance(content, Mapping):
        return candidates[0] if candidates else None
    for tag in (f.name for f in dataclasses.fields(candidates[0])):
        values = [typing.get_args(typing.get_type_hints(c).get(tag)) for c in candidates]
        if all(len(v) == 1 for v in values) and len(set(values)) == len(values):
            named = {v[0]: c for v, c in zip(values, candidates, strict=True)}
            chosen = content.get(tag, values[0][0])
            if chosen not in named:
                raise ConfigError(
                    f"{where}.{tag}={chosen!r}: allowed are {list(named)}.{nearest(str(chosen), named)}"
                )
            return named[chosen]
    return None


def nearest(word: object, allowed: Iterable[object]) -> str:
    """Returns ` Did you mean 'x'?` for the allowed word nearest to `word`, or an empty string.

    Near is what is spelt alike, else what has all words of the other: `lr` and `base_lr`.  Keys may be numbers.

    >>> nearest("objectiv", ["objective", "data"])
    " Did you mean 'objective'?"
    >>> nearest("lr", ["name", "base_lr", "momentum"])
    " Did you mean 'base_lr'?"
    """
    names = [str(name) for name in allowed]
    match = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5) or _sharing_words(
        str(word), names
    )
    return f" Did you mean '{match[0]}'?" if match else ""


def _sharing_words(word: str, names: Sequence[str]) -> list[str]:
    """The names that have all words of `word`, or whose words it has; those with the fewest others first."""
    own = _words(word)
    found = [name for name in names if own and (own <= _words(name) or _words(name) <= own)]
    return sorted(found, key=lambda name: len(own ^ _words(name)))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^0-9a-z]+", name.lower())) - {""}
