"""Packages that a recipe needs and that not everybody has: what is missing is told before anything is read or made."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

from video_ssl.error_sentences import EXTRAS
from video_ssl.models import network_of_config
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import PretrainRecipe, stage_recipe
from video_ssl.pretrain.trackers import TRACKERS


def refuse_missing_packages(recipe: PretrainRecipe) -> None:
    """Raises RunError for the first package that a recipe or one of its stages needs and that is not installed."""
    for package, what in _needed(recipe):
        if importlib.util.find_spec(package) is None:
            raise RunError(f"{what} needs {package}: pip install 'video_ssl[{EXTRAS[package]}]'.")
    for name, source in recipe.objective.stages().items():
        if isinstance(source, EncoderSource) and source.recipe is not None:
            refuse_missing_packages(stage_recipe(recipe, name, source))


def _needed(recipe: PretrainRecipe) -> Iterator[tuple[str, str]]:
    """Yields (package, what needs it)."""
    if recipe.training.sharding == "oss":
        yield "fairscale", "training.sharding=oss"
    for name in recipe.training.tracker_names:
        if not TRACKERS[name].optional:
            yield TRACKERS[name].package, f"training.trackers={name}"
    for config in _dataclasses_in(recipe.objective):
        network = network_of_config(config)
        if network is not None and network.package is not None:
            yield network.package, f"the encoder of {recipe.name}"
        package, what = getattr(config, "needs_package", None) or (None, "")
        if package is not None:
            yield package, what


def _dataclasses_in(config: Any) -> Iterator[Any]:
    """Yields a config and those in it."""
    yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _dataclasses_in(value)
