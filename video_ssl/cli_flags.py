"""Flags of a command from a dataclass: names, types and defaults are its fields', help is what its docstring says.

    @app.command()
    @with_flags
    def embed(encoder: str, config: EmbedConfig, device: str = "auto") -> None: ...

`embed` then has a flag for every field of `EmbedConfig` and gets an instance of it, checked as recipes are.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from video_ssl.recipes import ConfigError, build_config

__all__ = ["Flags", "described", "example", "first_sentence", "with_flags"]

_WIDE = 28  # characters of a list of choices that stand beside a flag
_FLAG_TYPES = (bool, int, float, str, Path)
#: Of these a flag takes several, with commas between.
_SEVERAL: dict[Any, type] = {tuple[str, ...]: str, tuple[int, ...]: int}


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is special about the flags of a dataclass: `config: Annotated[Config, Flags(...)]`.

    Attributes:
        leave_out: fields that are no flags and keep their defaults.
        names: field -> its flag, where that is not the field with dashes.
        choices: field -> the texts that it may be, where its type does not say them.
    """

    leave_out: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def example(words: str) -> str:
    """Returns the end of a command's help: a command that works, on a line of its own (`\\b` keeps it whole)."""
    return f"\b\nExample:\n  video-ssl {words}"


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with the fields of its dataclasses as flags, in their place.

    Raises:
        TypeError: a field that is neither left out nor a number, a text, a path, a truth value, one of some texts, or
            a tuple of texts or of whole numbers (commas between).
        ValueError: a field that the docstring of its class does not describe.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in signature.parameters.values():
        config, flags = _config_of(parameter.annotation)
        if config is None:
            parameters.append(parameter)
            continue
        made = list(_parameters(config, flags))
        groups[parameter.name] = config, [flag.name for flag in made]
        parameters += made

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (config, fields) in groups.items():
            given = {key: _read(values.pop(key), config, key) for key in fields}
            values[name] = build_config(config, given)
        command(**values)

    run.__signature__ = signature.replace(parameters=_keyword_only(parameters))  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def described(config: type) -> dict[str, str]:
    """Returns what the `Attributes:` of a docstring say about each field, in one line; of its bases too.

    >>> described(Flags)["leave_out"]
    'fields that are no flags and keep their defaults.'
    """
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        found |= _described_here(cls)
    return found


def _described_here(config: type) -> dict[str, str]:
    section = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")[2]
    section = re.split(r"\n\n(?=\S)", section)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", section):
        names, _, text = entry.strip().partition(": ")
        found |= {name: " ".join(text.split()) for name in names.split(", ")}
    return found


def _config_of(annotation: Any) -> tuple[type | None, Flags]:
    """The dataclass that a parameter is annotated with, if it is."""
    flags = Flags()
    if typing.get_origin(annotation) is Annotated:
        annotation, *notes = typing.get_args(annotation)
        flags = next((note for note in notes if isinstance(note, Flags)), flags)
    return (annotation if dataclasses.is_dataclass(annotation) else None), flags  # type: ignore[return-value]


def _parameters(config: type, flags: Flags) -> Iterator[inspect.Parameter]:
    texts, hints = described(config), typing.get_type_hints(config)
    for each in dataclasses.fields(config):
        if each.name in flags.leave_out:
            continue
        if each.name not in texts:
            raise ValueError(f"the docstring of {config.__name__} does not describe {each.name}.")
        kind, choices = _kind(hints[each.name], f"{config.__name__}.{each.name}")
        choices = choices or flags.choices.get(each.name, ())
        names = (flags.names[each.name],) if each.name in flags.names else ()
        text = _help(texts[each.name], [other.name for other in dataclasses.fields(config)])
        metavar = "|".join(choices) or None
        if metavar is not None and len(metavar) > _WIDE:
            text, metavar = f"{text} One of {', '.join(choices)}.", None
        option = typer.Option(*names, help=text, metavar=metavar)
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=",".join(map(str, each.default))
            if isinstance(each.default, tuple)
            else each.default,
            annotation=Annotated[kind, option],
        )


def _read(value: Any, config: type, field_name: str) -> Any:
    """The value of a field as its flag gives it: what has commas between becomes a tuple."""
    kind = _SEVERAL.get(typing.get_type_hints(config)[field_name])
    if kind is None:
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as err:
        raise ConfigError(
            f"{field_name}={value!r} must be whole numbers with commas between them: 1,5,10."
        ) from err


def _kind(hint: Any, where: str) -> tuple[Any, tuple[str, ...]]:
    """The type of a flag, and the texts that it may be."""
    optional = False
    if hint in _SEVERAL:
        return str, ()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
        optional = len(parts) < len(typing.get_args(hint))
        hint = parts[0] if len(parts) == 1 else None
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = str if choices and all(isinstance(choice, str) for choice in choices) else hint
    if kind not in _FLAG_TYPES:
        raise TypeError(f"{where} cannot be a flag: name it in leave_out.")
    return (kind | None if optional else kind), choices


def first_sentence(text: str) -> str:
    """Returns what is before the first full stop, without the signs around names."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0].replace("`", "")


def _help(text: str, fields: list[str]) -> str:
    """The first sentence, with the flags of other fields instead of their names.

    >>> _help("of all, if `num_clips` is 1; else 0.  More of it.", ["num_clips"])
    'Of all, if --num-clips is 1; else 0.'
    """
    text = first_sentence(text)
    for name in fields:
        if "_" in name:
            text = re.sub(rf"\b{name}\b", f"--{name.replace('_', '-')}", text)
    return text[:1].upper() + text[1:]


def _keyword_only(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """As typer calls with keywords, so that a parameter without a default may follow one with."""
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
