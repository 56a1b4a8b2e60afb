"""What `video-ssl recipes` shows: one line about every recipe, or every key of one with meaning, default and origin.

The head of a recipe file is read as it is written by hand:

    # MVD ViT-B with ViT-B teachers on Kinetics-400.  The first sentence is what the list shows.
    # Command:   ...
    # Hardware:  what it is made for, in a few words; without it that of its base

A label is a word or a few with a colon, from the second line on; lines that are indented below it belong to it.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from video_ssl.cli_flags import described, first_sentence
from video_ssl.recipes import (
    ROOMS,
    ConfigError,
    build_config,
    find_recipe,
    list_recipes,
    nearest,
    origin_of,
    read_recipe,
    recipe_layers,
    recipe_origins,
    to_plain,
)

__all__ = ["recipe_list", "recipe_sheet"]

_LABEL = re.compile(r"([A-Z][a-z]+(?: [a-z]+){0,2}):\s+(\S.*)")
_HARDWARE = "Hardware"
_WIDTH, _ABOUT = 110, 90


@dataclass(frozen=True)
class Head:
    """What a recipe file says about itself in its first comments.

    Attributes:
        lines: as they are, without the signs.
        description: the first sentence.
        notes: label -> text: "Command", "Hardware", "Published".
    """

    lines: tuple[str, ...]
    description: str
    notes: Mapping[str, str]


def read_head(path: Path) -> Head:
    """Returns the head of a recipe file; empty where it has none."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    prose: list[str] = []
    notes: dict[str, str] = {}
    label: str | None = None
    for number, line in enumerate(lines):
        match = _LABEL.fullmatch(line)
        if match is not None and number:  # the first line is the description, whatever it is like
            label = match[1]
            notes[label] = match[2]
        elif label is not None and line.startswith("  "):
            notes[label] += f" {line.strip()}"
        else:
            label = None
            prose += [line] if not notes and not line.startswith("  ") else []
    return Head(tuple(lines), first_sentence(" ".join(" ".join(prose).split())), notes)


def recipe_list() -> Iterator[str]:
    """Yields a line about every recipe, room by room: name, what it is about, size, data and hardware."""
    for room in ROOMS:
        known = list_recipes(room)
        yield f"{room}:"
        width = max(map(len, known), default=0)
        for name, file in known.items():
            facts = "; ".join(filter(None, _facts(room, name)))
            about = textwrap.shorten(
                read_head(file).description.rstrip("."), _ABOUT, placeholder=" ..."
            )
            yield f"  {name:{width}}  {about}{f'  [{facts}]' if facts else ''}"


def _facts(room: str, name: str) -> Iterator[str]:
    """Size, data and hardware, as far as they are known."""
    if room == "pretrain":
        content = read_recipe(name, room=room)
        yield _size(content.get("objective", {}))
        yield str(content.get("data", {}).get("table", ""))
    layers = recipe_layers(name, room=room)
    heads = [read_head(path) for path, _ in reversed(layers)]
    stated = (head.notes[_HARDWARE] for head in heads if _HARDWARE in head.notes)
    yield next(stated, "").rstrip(".")


def _size(objective: Mapping[str, Any]) -> str:
    """Sides and number of frames, or seconds of sound, that a recipe says, and the preset of its network."""
    from video_ssl.objectives import OBJECTIVES

    settings = {key: value for key, value in objective.items() if key != "name"}
    config = build_config(OBJECTIVES[objective["name"]].config(), settings, "objective")
    plain = to_plain(config)
    frames = next((value for key, value in _numbers(plain) if key in _FRAMES), None)
    # None: of an encoder that a fine-tuning starts from.
    encoder = {} if config.encoder is None else to_plain(config.encoder)
    preset = encoder.get("preset") or encoder.get("model")
    size = (plain.get("crop") or {}).get("size")
    parts = [f"{size} px" if size else "", f"x {frames}" if frames else ""]
    if "crop" not in plain:
        rate, count = plain["rate"], plain["num_samples"]
        parts = [f"{count / rate:g} s of sound" if rate and count else "sound"]
    return " ".join(filter(None, [*parts, f"({preset})" if preset else ""]))


_FRAMES = ("clip.num_frames", "frames.num_frames", "num_frames", "long_frames", "frames_per_video")


def _numbers(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int):
            yield f"{prefix}{key}", value


def recipe_sheet(name: str, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Yields the lines about one recipe: its head, and every key with value, origin, meaning and default.

    Args:
        name: a file, the name of a recipe (`mvd/demo`), or ROOM/NAME where several rooms have one of that name.
        overrides: as for the verb that takes the recipe; they are shown as what they make of it.

    Raises:
        ConfigError: no such recipe (the nearest is named), or one that is not valid.
    """
    room, short = _find(name)
    layers = recipe_layers(short, room=room)
    yield from (f"# {line}".rstrip() for line in read_head(layers[-1][0]).lines)
    yield f"# {room}: " + " <- ".join(_shown(path, room) for path, _ in reversed(layers))
    yield ""
    origins = recipe_origins(short, overrides, room=room)
    for key in _CONFIGS[room](short, overrides):
        yield from key.lines(_shown_origin(key, origins, room))


def _find(name: str) -> tuple[str, str]:
    """The room of a recipe, and its name there or its file."""
    first, _, rest = name.partition("/")
    if first in ROOMS and rest:
        return first, str(find_recipe(rest if not Path(name).is_file() else name, first))
    if Path(name).is_file():
        return _room_of(Path(name)), name
    rooms = [room for room in ROOMS if name in list_recipes(room)]
    if len(rooms) == 1:
        return rooms[0], name
    if rooms:
        raise ConfigError(
            f"several rooms have a recipe {name!r}: write {' or '.join(f'{room}/{name}' for room in rooms)}."
        )
    known = [recipe for room in ROOMS for recipe in list_recipes(room)]
    raise ConfigError(
        f"no recipe {name!r}.{nearest(name, known)} `video-ssl recipes` lists all of them."
    )


def _room_of(file: Path) -> str:
    """The room that a file of the user's own is for, by what only the recipes of that room have."""
    keys = {key for _, content in recipe_layers(file, room="pretrain") for key in content}
    for room, own in (("pretrain", "objective"), ("launch", "executor"), ("datasets", "kind")):
        if own in keys:
            return room
    return "evaluate"


@dataclass(frozen=True)
class _Key:
    """A key of a recipe: `value` is what it has, `default` what it would have, None where it must be given."""

    name: str
    value: str
    meaning: str
    default: str | None

    def lines(self, origin: str) -> Iterator[str]:
        yield f"{self.name}={self.value}    [{origin}]"
        told = self.meaning[:1].upper() + self.meaning[1:]
        if origin != _DEFAULT:
            known = f"Default: {self.default}." if self.default is not None else "No default."
            told = f"{told} {known}".strip()
        yield from textwrap.wrap(told, _WIDTH, initial_indent="    ", subsequent_indent="    ")


_DEFAULT, _DERIVED = "default", "follows from the others"


def _keys(config: Any, prefix: str = "") -> Iterator[_Key]:
    """The keys of a dataclass and of those in it, with what they hold."""
    texts = described(type(config))
    for each in dataclasses.fields(config):
        value, key = getattr(config, each.name), prefix + each.name
        if dataclasses.is_dataclass(value):
            yield from _keys(value, f"{key}.")
            continue
        default = None
        if each.default is not dataclasses.MISSING:
            default = _written(each.default)
        elif each.default_factory is not dataclasses.MISSING:
            default = _written(each.default_factory())
        yield _Key(key, _written(value), texts.get(each.name, ""), default)


def _written(value: Any) -> str:
    """As it is written behind the sign."""
    text = yaml.safe_dump(to_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _pretrain_keys(name: str, overrides: Sequence[str]) -> Iterator[_Key]:
    from video_ssl.pretrain.recipe import load_pretrain_recipe

    for key in _keys(load_pretrain_recipe(name, overrides)):
        called = "objective.name" if key.name == "objective_name" else key.name
        yield dataclasses.replace(key, name=called)


def _evaluate_keys(name: str, overrides: Sequence[str]) -> Iterator[_Key]:
    from video_ssl.evaluate.evaluators import evaluator_class
    from video_ssl.evaluate.recipe import load_evaluate_recipe

    recipe = load_evaluate_recipe(name, overrides)
    yield from (key for key in _keys(recipe) if key.name != "evaluators")
    for evaluator, settings in recipe.evaluators.items():
        config: Any = build_config(evaluator_class(evaluator).Config, settings)
        yield from _keys(config, f"evaluators.{evaluator}.")


def _launch_keys(name: str, overrides: Sequence[str]) -> Iterator[_Key]:
    from video_ssl.launch.profile import load_profile

    yield from _keys(load_profile(name, overrides))


def _dataset_keys(name: str, overrides: Sequence[str]) -> Iterator[_Key]:
    for key, value in read_recipe(name, overrides, room="datasets").items():
        yield _Key(key, _written(value), "", None)


_CONFIGS: dict[str, Callable[[str, Sequence[str]], Iterator[_Key]]] = {
    "pretrain": _pretrain_keys,
    "evaluate": _evaluate_keys,
    "datasets": _dataset_keys,
    "launch": _launch_keys,
}


def _shown_origin(key: _Key, origins: Mapping[str, Path | str], room: str) -> str:
    origin = origin_of(key.name, origins)
    if isinstance(origin, Path):
        return _shown(origin, room)
    if origin is not None:
        return "command line"
    return _DEFAULT if key.value == key.default else _DERIVED


def _shown(path: Path, room: str) -> str:
    """The name of a recipe, or the path of a file that is none of ours."""
    for name, file in list_recipes(room).items():
        if file.resolve() == path:
            return name
    return str(path)
