"""Recipe files: YAML plus dotted overrides become one validated, frozen configuration.

A recipe may name a `base:` (a path relative to itself); keys of the file win over the base,
overrides win over both (`overrides.py` says how their values are read, `recipe_text.py` what
may stand in a file).  `read_recipe` resolves that to a plain dictionary; `build_config` turns a
dictionary into the frozen dataclass that owns it.  A key that the dataclass does not have is an
error that names the nearest one it has: nothing a user writes is ever silently ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from video_ssl.limits import check_sizes
from video_ssl.overrides import (
    IdleNull,
    apply_override,
    dataclasses_in,
    hints_of_keys,
    members,
    nearest,
    read_typed,
    variant,
)
from video_ssl.recipe_text import (
    ConfigError,
    load_yaml,
    merged,
    resolved,
    to_yaml,
    unprintable,
)

__all__ = [
    "ROOMS",
    "ConfigError",
    "build_config",
    "find_recipe",
    "known_settings",
    "list_recipes",
    "load_yaml",
    "nearest",
    "origin_of",
    "read_recipe",
    "read_typed",
    "recipe_folder",
    "recipe_layers",
    "recipe_origins",
    "to_plain",
    "to_yaml",
    "unprintable",
]

T = TypeVar("T")

ROOMS = ("pretrain", "evaluate", "datasets", "launch")

#: Rooms of their own inside of others.
_NESTED = ("launch/comparisons",)

#: What other projects call a key -> its name here, for suggestions only.
_OTHER_NAMES = {
    "learning_rate": "base_lr",
    "lr": "base_lr",
    "wd": "weight_decay",
    "batch": "global_batch_size",
    "batch_size": "global_batch_size",
    "epochs": "duration",
    "num_epochs": "duration",
    "max_epochs": "duration",
    "steps": "duration",
    "num_steps": "duration",
    "max_steps": "duration",
    "warmup_epochs": "warmup",
    "warmup_steps": "warmup",
    "workers": "num_workers",
    "amp": "precision",
    "dataset": "table",
    "resolution": "size",
}


def recipe_folder(room: str) -> Path:
    """Returns the folder that holds the recipes of `room`, one of `ROOMS` or a room inside of one.

    In a checkout it is the folder of that name beside the package, in a wheel the packaged copy.
    """
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file() and (root / room).is_dir():
        return root / room
    return Path(str(resources.files("video_ssl"))) / "_recipes" / room


def list_recipes(room: str) -> dict[str, Path]:
    """Returns name -> file for every recipe of a room; a name is the path below it, no `.yaml`."""
    folder = recipe_folder(room)
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    names = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    nested = tuple(f"{other.removeprefix(f'{room}/')}/" for other in _NESTED if other != room)
    return {name: file for name, file in names.items() if not name.startswith(nested)}


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
    refuse_other_rooms(name, room)
    folder = key.rpartition("/")[0]
    beside = [other for other in sorted(known) if other.startswith(f"{folder}/")]
    there = f"There are {', '.join(beside or sorted(known))}."
    if not beside and any("/" in other for other in known):
        folders = dict.fromkeys(other.partition("/")[0] for other in sorted(known))
        there = f"There are folders of them, {', '.join(folders)}: `video-ssl recipes` lists all."
    raise ConfigError(
        f"no recipe {name!r}, neither a file nor a name of the room {room}.{nearest(key, known)} {there}"
    )


def refuse_other_rooms(name: str, room: str) -> None:
    """Raises ConfigError for the name of a recipe of another room, or a run in place of a recipe."""
    for other in ROOMS:
        key = name.removeprefix(f"{other}/").removesuffix(".yaml")
        if other != room and key in list_recipes(other):
            raise ConfigError(f"{name!r} is a recipe of {other}, and one of {room} is meant here.")
    if (Path(name) / "recipe.yaml").is_file():
        way = (
            f": video-ssl evaluate RECIPE encoder={shlex.quote(name)}"
            if room == "evaluate"
            else "."
        )
        raise ConfigError(f"{name!r} is the folder of a run, and a recipe is meant here{way}")


def read_recipe(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    room: str = "pretrain",
    as_typed: bool = False,
) -> dict[str, Any]:
    """Returns the resolved content of a recipe file as a plain nested dictionary.

    Args:
        name: a file, or the name of a recipe of `room`.
        overrides: `dotted.key=value`.
        room: where names are looked up.
        as_typed: values of overrides stay `Typed`, so that `build_config` reads them by the type of
            their keys; otherwise all are YAML.

    Raises:
        ConfigError: missing file, broken YAML, an override without `=`, a circular `base:`, a
            reference to what is no key.
    """
    content: dict[Any, Any] = {}
    for _, layer in recipe_layers(name, room=room):
        content = merged(content, layer)
    for override in overrides:
        apply_override(content, override)
    try:
        found = resolved(content)
    except ConfigError as err:
        raise ConfigError(f"{name}: {err}") from err
    return found if as_typed else read_typed(None, found)


def recipe_layers(name: str | Path, *, room: str) -> list[tuple[Path, dict[Any, Any]]]:
    """Returns the files that a recipe is made of and what each says, without `base`: the outermost base first.

    Raises:
        ConfigError: as `read_recipe`.
    """
    layers: list[tuple[Path, dict[Any, Any]]] = []
    path: Path | None = find_recipe(str(name), room).resolve()
    while path is not None:
        seen = [file for file, _ in layers]
        if path in seen:
            chain = " -> ".join(str(p) for p in (*seen, path))
            raise ConfigError(f"circular base: {chain}. Remove one of these `base:` lines.")
        try:
            content = load_yaml(path)
        except FileNotFoundError as err:
            named = f", named as base by {seen[-1]}" if seen else ""
            raise ConfigError(f"no recipe file {path}{named}") from err
        base = content.pop("base", None)
        layers.append((path, content))
        path = None if base is None else (path.parent / str(base)).resolve()
    return layers[::-1]


def recipe_origins(
    name: str | Path, overrides: Sequence[str] = (), *, room: str
) -> dict[str, Path | str]:
    """Returns dotted key -> the file that has the last word about it, or the override that has; see `origin_of`."""
    origins: dict[str, Path | str] = {}
    layers: list[tuple[Path | str, Any]] = [*recipe_layers(name, room=room)]
    for override in overrides:
        content: dict[Any, Any] = {}
        apply_override(content, override)
        layers.append((override, read_typed(None, content)))
    for origin, content in layers:
        for key in _leaves(content):
            origins = {k: o for k, o in origins.items() if not k.startswith(f"{key}.")}
            origins[key] = origin
    return origins


def origin_of(key: str, origins: Mapping[str, Path | str]) -> Path | str | None:
    """Returns who says what a key is, which may be about a section that it lies in; None where nobody does."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key)


def _leaves(content: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of what is no section; a list is one value."""
    for key, value in content.items():
        place = _place(prefix, key)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, place)
        else:
            yield place


def build_config(
    cls: type[T],
    mapping: Mapping[str, Any] | None,
    where: str = "",
    *,
    several_lines: Sequence[str] = (),
) -> T:
    """Returns an instance of the dataclass `cls` filled from `mapping`, nested dataclasses included.

    Args:
        cls: a dataclass; types of its fields are enforced, missing keys take their defaults.
        mapping: what the recipe says; None counts as empty.
        where: dotted position in the recipe, for the text of errors.
        several_lines: keys whose texts may have line breaks and other control characters.

    Raises:
        ConfigError: unknown key (the nearest is named), missing key, wrong type, refused value.
    """
    if mapping is not None and not isinstance(mapping, Mapping):
        raise ConfigError(f"{where or cls.__name__}={mapping!r:.80} must be keys and values.")
    content = over_own_defaults(cls, read_typed(cls, dict(mapping or {}), where))
    content = _without_left_out(cls, content, where, idle=_idle_nulls(mapping or {}, where))
    _refuse_unknown_keys(cls, content, where, root=(cls, where))
    _refuse_truth_values(cls, content, where)
    # Before any check of a range, whose sentence would mislead.
    _refuse_not_finite(content, where, cls)
    for key, value in content.items():
        if key not in several_lines:
            _refuse_unprintable(value, ".".join(filter(None, (where, str(key)))))
    try:
        config = TypeAdapter(cls).validate_python(content)
    except ValidationError as err:
        lines = [_explain(error, where) for error in err.errors()]
        raise ConfigError("; ".join(lines)) from err
    _refuse_not_finite(to_plain(config), where)
    try:
        check_sizes(config, where)
    except ValueError as err:
        raise ConfigError(str(err)) from err
    return config


#: Settings that decide what the others of their section mean: with another one, a section has the usual defaults.
_KINDS = ("kind", "law", "architecture", "preset", "head")


def over_own_defaults(cls: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a dataclass with those filled in of sections that are given in part, where the dataclass
    has defaults of its own for them: one key of a section leaves the others as they were.

    >>> from video_ssl.objectives.hico.config import Config
    >>> sorted(over_own_defaults(Config, {"crop": {"size": 64}})["crop"])
    ['area', 'aspect', 'flip_probability', 'kind', 'size']
    >>> over_own_defaults(Config, {"crop": {"size": 64, "kind": "center"}})["crop"]
    {'size': 64, 'kind': 'center'}
    """
    found = dict(content)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        given = found.get(field.name)
        if not isinstance(given, Mapping):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            own = _own_defaults(default)
            if any(key in given and key in own and given[key] != own[key] for key in _KINDS):
                own = {}
            found[field.name] = over_own_defaults(type(default), {**own, **given})
    return found


def _without_left_out(
    cls: type, content: Mapping[str, Any], where: str, *, idle: Mapping[str, IdleNull]
) -> dict[str, Any]:
    """Returns the settings without the entries of name -> value that are null, which is how an override or a recipe
    leaves out what its base names; where null is a value of such an entry, it stays.

    Raises:
        ConfigError: an override leaves out what is not there.
    """
    hints = typing.get_type_hints(cls)
    found = dict(content)
    for key, value in content.items():
        if key not in hints or not isinstance(value, Mapping):
            continue
        place = _place(where, key)
        named = next((k for k in members(hints[key]) if typing.get_origin(k) is dict), None)
        if named is not None:
            if not {type(None), Any} & {*members(typing.get_args(named)[1])}:
                _refuse_idle_nulls(value, place, idle)
                found[key] = {name: item for name, item in value.items() if item is not None}
            continue
        inner = variant(dataclasses_in(hints[key]), value, place)
        if inner is not None:
            found[key] = _without_left_out(inner, value, place, idle=idle)
    return found


def _idle_nulls(content: Mapping[Any, Any], where: str) -> dict[str, IdleNull]:
    """Dotted place -> the null of an override that takes the place of nothing."""
    found = {}
    for key, value in content.items():
        place = _place(where, key)
        if isinstance(value, IdleNull):
            found[place] = value
        elif isinstance(value, Mapping):
            found |= _idle_nulls(value, place)
    return found


def _refuse_idle_nulls(
    content: Mapping[str, Any], where: str, idle: Mapping[str, IdleNull]
) -> None:
    for name, value in content.items():
        null = idle.get(_place(where, name))
        if value is None and null is not None:
            there = f"there are {', '.join(null.beside)}" if null.beside else "there is nothing"
            raise ConfigError(
                f"{_place(where, name)}=null would leave out {name!r} of {where}, but {there}."
                f"{nearest(name, null.beside)}"
            )


def _own_defaults(default: Any) -> dict[str, Any]:
    """What an instance has otherwise than one of its class for which nothing is given; nothing if there is none."""
    try:
        usual = to_plain(type(default)())
    except (TypeError, ValueError):
        return {}
    return {key: value for key, value in to_plain(default).items() if value != usual[key]}


def known_settings(cls: type[T], settings: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns settings that a function of Python takes by name, for the dataclass that they are fields of.

    Args:
        what: that has these settings, for the text of the error.

    Raises:
        ConfigError: no such setting; the nearest is named.
    """
    names = [field.name for field in dataclasses.fields(typing.cast(Any, cls)) if field.init]
    for name in settings:
        if name not in names:
            raise ConfigError(
                f"there is no setting {name!r} of {what}.{nearest(name, names)} There are {', '.join(sorted(names))}."
            )
    return dict(settings)


#: What pydantic says in Python's words -> in those of a recipe.
_IN_RECIPES = {
    "dataclass_type": "must be keys and values, {key: value}; leave it out for the defaults.",
    "dict_type": "must be keys and values, {key: value}.",
    "tuple_type": "must be a list, [a, b].",
    "list_type": "must be a list, [a, b].",
}


def _explain(error: Any, where: str) -> str:
    key = ".".join(str(part) for part in (where, *error["loc"]) if part != "")
    given = error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is not set: the recipe must give it."
    if error["type"] == "value_error" and isinstance(given, dict):
        return f"{key}: {message}" if key else message
    if error["type"] == "string_type" and isinstance(given, (int, float)):
        kind = "a truth value" if isinstance(given, bool) else "a number"
        return f"{key}={given!r} is {kind} for YAML, but must be text: write it in quotes."
    written = {None: "null", True: "true", False: "false"}
    shown = written[given] if given is None or isinstance(given, bool) else repr(given)
    if error["type"] in _IN_RECIPES:
        return f"{key}={shown} {_IN_RECIPES[error['type']]}"
    return f"{key}={shown}: {message}"


def _refuse_unprintable(value: Any, place: str) -> None:
    """Refuses texts that do not fit into a line of a file or a script."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_unprintable(str(key), place)
            _refuse_unprintable(inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            _refuse_unprintable(inner, f"{place}.{number}")
    elif isinstance(value, str) and unprintable(value):
        raise ConfigError(f"{place}={value!r} holds {unprintable(value)}: use plain text.")


def _refuse_not_finite(value: Any, place: str, hint: Any = None) -> None:
    """Refuses numbers that are none, and infinite ones.

    Every comparison with NaN is false, so no check of a range would see it, and few have an upper end.

    Args:
        hint: the type of a field; where it takes numbers and no text, `inf` and `nan`, which are texts for YAML, would
            be read as numbers.  None = unknown.
    """
    if isinstance(value, Mapping):
        hint_of = hints_of_keys(hint, value, place)
        for key, inner in value.items():
            _refuse_not_finite(inner, _place(place, key), hint_of(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            _refuse_not_finite(inner, f"{place}.{number}", hint)
    else:
        number_given = _as_number(value) if _takes_numbers_only(hint) else value
        if isinstance(number_given, float) and not math.isfinite(number_given):
            wrong = "no number" if math.isnan(number_given) else "not finite"
            raise ConfigError(f"{place}={value} is {wrong}: give a finite number.")


def _takes_numbers_only(hint: Any) -> bool:
    inside = [*_types_in(hint)]
    return float in inside and str not in inside


def _types_in(hint: Any) -> Iterator[Any]:
    """A type and those that it is put together from: float and None of `tuple[float, ...] | None`."""
    yield hint
    for inner in typing.get_args(hint):
        yield from _types_in(inner)


def _as_number(value: Any) -> Any:
    """What a text says as a number; anything else, and text that is none, as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _refuse_unknown_keys(cls: Any, content: Any, where: str, *, root: tuple[Any, str]) -> None:
    """Walks mapping and dataclass together, so that an unknown key is named with its position.

    Args:
        root: the outermost dataclass and its position: a key that is unknown here may be meant for another place.
    """
    if not dataclasses.is_dataclass(cls) or not isinstance(content, Mapping):
        return
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    for key, value in content.items():
        if key not in names:
            hint = _near_key(str(key), names, root)
            raise ConfigError(
                f"unknown key {_place(where, key)!r}.{hint} Allowed here are {', '.join(names)}."
            )
        for inner, item, place in _configs_in(hints[key], value, _place(where, key)):
            _refuse_unknown_keys(inner, item, place, root=root)


def _near_key(key: str, names: Sequence[str], root: tuple[Any, str]) -> str:
    """Which key may be meant: one of the same section before one of another, what has the same words before what is
    spelt alike."""
    meant = _OTHER_NAMES.get(key, key)
    if meant in names:
        return f" Did you mean {meant!r}?"
    elsewhere: dict[str, str] = {}
    for dotted in _dotted_keys(*root):
        *_, last = parts = dotted.split(".")
        elsewhere.setdefault(last, dotted)
        elsewhere.setdefault("_".join(parts[-2:]), dotted)  # mask_ratio is mask.ratio
    if meant in elsewhere:
        return f" Did you mean {elsewhere[meant]!r}?"
    here, there = nearest(meant, names), nearest(meant, elsewhere)
    if here or not there:
        return here
    found = there.split("'")[1]
    return f" Did you mean {elsewhere[found]!r}?"


def _dotted_keys(cls: Any, where: str) -> Iterator[str]:
    """Every key of a dataclass and of those in it, from the outside in."""
    hints = typing.get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.init]
    yield from (_place(where, field.name) for field in fields)
    for field in fields:
        for inner in dataclasses_in(hints[field.name]):
            yield from _dotted_keys(inner, _place(where, field.name))


def _refuse_truth_values(cls: Any, content: Any, where: str) -> None:
    """Refuses `yes`, `on` and `true` where a number belongs: Python would count them as 1."""
    if not dataclasses.is_dataclass(cls) or not isinstance(content, Mapping):
        return
    hints = typing.get_type_hints(cls)
    for key, value in content.items():
        place = _place(where, key)
        kinds = members(hints[key])
        if isinstance(value, bool) and {int, float} & {*kinds} and bool not in kinds:
            raise ConfigError(f"{place}={value!r} is a truth value, but must be a number.")
        for inner, item, position in _configs_in(hints[key], value, place):
            _refuse_truth_values(inner, item, position)


def _configs_in(hint: Any, value: Any, place: str) -> Iterator[tuple[Any, Any, str]]:
    """(dataclass or None, content, position) of what a key holds: one, several in a list, or name -> one."""
    named = next((kind for kind in members(hint) if typing.get_origin(kind) is dict), None)
    if named is not None and isinstance(value, Mapping):
        hint = typing.get_args(named)[1]
        items = [(_place(place, name), item) for name, item in value.items()]
    else:
        items = [(place, item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    for position, item in items:
        yield variant(dataclasses_in(hint), item, position), item, position


def _place(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def to_plain(config: Any) -> Any:
    """Returns a configuration as nested dictionaries, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_plain(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(v) for v in config]
    return str(config) if isinstance(config, Path) else config


def recipe_changes(before: Any, now: Any) -> dict[str, str]:
    """Returns dotted key -> readable line for every setting that differs between two recipes.

    >>> recipe_changes({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    {'a.b': 'a.b: 3 <- 1'}
    """
    old, new = _flat(before), _flat(now)
    lines = {}
    for key in [*new, *(k for k in old if k not in new)]:
        left = repr(new[key]) if key in new else "(absent)"
        right = repr(old[key]) if key in old else "(absent)"
        if left != right:
            lines[key] = f"{key}: {left} <- {right}"
    return lines


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(content, Mapping) and content:
        pairs: Any = content.items()
    elif isinstance(content, (list, tuple)) and content:
        pairs = enumerate(content)
    else:
        return {prefix: list(content) if isinstance(content, tuple) else content}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
