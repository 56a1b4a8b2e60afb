"""Recipe files: YAML plus dotted overrides become one validated, frozen configuration.

A recipe may name a `base:` (a path relative to itself); keys of the file win over the base,
overrides win over both.  `read_recipe` resolves that to a plain dictionary; `build_config` turns a
dictionary into the frozen dataclass that owns it.  A key that the dataclass does not have is an
error that names the nearest one it has: nothing a user writes is ever silently ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

ROOMS = ("pretrain", "evaluate", "datasets", "launch")


class ConfigError(ValueError):
    """A recipe, an override or a setting that cannot be used; the text says what is allowed."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the allowed word nearest to `word`, or an empty string.

    >>> nearest("objectiv", ["objective", "data"])
    " Did you mean 'objective'?"
    """
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def recipe_folder(room: str) -> Path:
    """Returns the folder that holds the recipes of `room`, one of `ROOMS`.

    In a checkout it is the folder of that name beside the package, in a wheel the packaged copy.
    """
    checkout = Path(__file__).resolve().parent.parent / room
    if (checkout.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return Path(str(resources.files("video_ssl"))) / "_recipes" / room


def list_recipes(room: str) -> dict[str, Path]:
    """Returns name -> file for every recipe of a room; a name is the path below it, no `.yaml`."""
    folder = recipe_folder(room)
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_recipe(name: str, room: str) -> Path:
    """Returns the file of a recipe given as a path (`pretrain/mvd/demo.yaml`) or name (`mvd/demo`).

    Raises:
        ConfigError: no such file and no recipe of that name; the nearest one is named.
    """
    if Path(name).is_file():
        return Path(name)
    known = list_recipes(room)
    key = name.removeprefix(f"{room}/").removesuffix(".yaml")
    if key in known:
        return known[key]
    raise ConfigError(
        f"no recipe {name!r}: neither a file nor one of the {room} recipes {sorted(known)}."
        f"{nearest(key, known)}"
    )


def read_recipe(
    name: str | Path, overrides: Sequence[str] = (), *, room: str = "pretrain"
) -> dict[str, Any]:
    """Returns the resolved content of a recipe file as a plain nested dictionary.

    Args:
        name: a file, or the name of a recipe of `room`.
        overrides: `dotted.key=value`; the value is read as YAML (`1e-4` is a number, `[1,2]` a
            list).
        room: where names are looked up.

    Raises:
        ConfigError: missing file, broken YAML, an override without `=`, a circular `base:`.
    """
    merged = _with_bases(find_recipe(str(name), room), ())
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"override {override!r} has no key and value: write dotted.key=value, "
                "for example optimizer.lr=1e-4."
            )
        try:
            merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([f"{key.strip()}={value}"]))
        except OmegaConfBaseException as err:
            raise ConfigError(f"override {override!r} cannot be applied: {err}") from err
    try:
        resolved = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as err:
        raise ConfigError(f"{name}: {err}") from err
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _with_bases(path: Path, seen: tuple[Path, ...]) -> Any:
    path = path.resolve()
    if path in seen:
        chain = " -> ".join(str(p) for p in (*seen, path))
        raise ConfigError(f"circular base: {chain}. Remove one of these `base:` lines.")
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError as err:
        raise ConfigError(
            f"no recipe file {path}" + (f", named as base by {seen[-1]}" if seen else "")
        ) from err
    except (
        Exception
    ) as err:  # the YAML library's own error classes are not part of OmegaConf's contract
        raise ConfigError(f"{path} is not readable as YAML: {err}") from err
    if not isinstance(content, DictConfig):
        kind = type(content).__name__
        raise ConfigError(f"{path} must hold keys and values, but holds a {kind}.")
    base = content.pop("base", None)
    if base is None:
        return content
    return OmegaConf.merge(_with_bases(path.parent / str(base), (*seen, path)), content)


def build_config(cls: type[T], mapping: Mapping[str, Any] | None, where: str = "") -> T:
    """Returns an instance of the dataclass `cls` filled from `mapping`, nested dataclasses included.

    Args:
        cls: a dataclass; types of its fields are enforced, missing keys take their defaults.
        mapping: what the recipe says; None counts as empty.
        where: dotted position in the recipe, for the text of errors.

    Raises:
        ConfigError: unknown key (the nearest is named), missing key, wrong type, refused value.
    """
    content = dict(mapping or {})
    _refuse_unknown_keys(cls, content, where)
    try:
        return TypeAdapter(cls).validate_python(content)
    except ValidationError as err:
        lines = [_explain(error, where) for error in err.errors()]
        raise ConfigError("; ".join(lines)) from err


def _explain(error: Any, where: str) -> str:
    key = ".".join(str(part) for part in (where, *error["loc"]) if part != "")
    given = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is not set: the recipe must give it."
    if error["type"] == "value_error" and isinstance(given, dict):
        return f"{key}: {message}" if key else message
    return f"{key}={given!r}: {message}"


def _refuse_unknown_keys(cls: Any, content: Any, where: str) -> None:
    """Walks mapping and dataclass together, so that an unknown key is named with its position."""
    if not dataclasses.is_dataclass(cls) or not isinstance(content, Mapping):
        return
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    for key, value in content.items():
        if key not in names:
            raise ConfigError(
                f"unknown key {'.'.join(filter(None, (where, str(key))))!r}: "
                f"allowed here are {names}.{nearest(str(key), names)}"
            )
        place = ".".join(filter(None, (where, key)))
        for item in value if isinstance(value, (list, tuple)) else [value]:
            inner = _variant(_dataclasses_in(hints[key]), item, place)
            _refuse_unknown_keys(inner, item, place)


def _dataclasses_in(hint: Any) -> list[Any]:
    """The dataclasses in a hint such as `X | None`, `tuple[X, ...]` or `X | Y`."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, tuple, list):
        return [c for arg in typing.get_args(hint) for c in _dataclasses_in(arg)]
    return []


def _variant(candidates: Sequence[Any], content: Any, where: str) -> Any:
    """The dataclass that `content` is meant for; None if there is none, or nothing that tells which.

    Among several, a field that in each of them allows one value of its own tells; without it, the first is meant.
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


def to_plain(config: Any) -> Any:
    """Returns a configuration as nested dictionaries, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_plain(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(v) for v in config]
    return str(config) if isinstance(config, Path) else config
