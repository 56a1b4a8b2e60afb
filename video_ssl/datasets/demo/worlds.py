"""The generated worlds by name; a new one is a line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from video_ssl.datasets.demo.scene import NuisanceConfig
from video_ssl.datasets.demo.video import VideoPlan, World
from video_ssl.recipes import build_config, nearest

# name -> the world; its `format` must be no other world's
WORLDS: dict[str, str] = {
    "demo": "video_ssl.datasets.demo.plan:WORLD",
    "exercises": "video_ssl.datasets.demo.exercises.plan:WORLD",
}


def world_of(name: str) -> World:
    """Returns the world of a name.

    Raises:
        ValueError: no such world.

    >>> world_of("exercises").class_names[:2]
    ('squat', 'jumping_jack')
    """
    if name not in WORLDS:
        raise ValueError(f"world={name!r} is not one of {list(WORLDS)}.{nearest(name, WORLDS)}")
    module, _, attribute = WORLDS[name].partition(":")
    world: World = getattr(importlib.import_module(module), attribute)
    return world


def world_of_format(number: object) -> World | None:
    """Returns the world whose generator has this format; None where no generator here has it."""
    return next((w for w in map(world_of, WORLDS) if w.format == number), None)


def plan_of(settings: Mapping[str, Any], split: str, index: int) -> VideoPlan:
    """Returns the plan of a video from the settings that a folder or table keeps (`format`, `size`, `seed`, ...).

    Raises:
        ValueError: no generator here has that format.
    """
    world = world_of_format(settings["format"])
    if world is None:
        known = {world_of(name).format: name for name in WORLDS}
        raise ValueError(f"format={settings['format']!r} is none that is generated here: {known}.")
    config = build_config(NuisanceConfig, settings["nuisances"])
    return world.plan(settings["seed"], split, index, world.sizes[settings["size"]], config)
