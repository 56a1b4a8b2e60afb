"""Help of the verbs that take a recipe: its keys with their defaults, read from the classes of the recipe."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Iterator
from typing import Any

import yaml
from typer.core import TyperCommand

from video_ssl.cli_flags import described, first_sentence

__all__ = ["EvaluateCommand", "PretrainCommand", "recipe_keys"]


class _RecipeCommand(TyperCommand):
    """A command whose help lists the keys of a recipe, which is imported only then."""

    recipe = ""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        module, name = self.recipe.split(":")
        with formatter.section("Keys, with the values they have where a recipe does not set them"):
            formatter.write_dl(list(recipe_keys(getattr(importlib.import_module(module), name))))


class PretrainCommand(_RecipeCommand):
    """`video-ssl pretrain`."""

    recipe = "video_ssl.pretrain.recipe:PretrainRecipe"


class EvaluateCommand(_RecipeCommand):
    """`video-ssl evaluate`."""

    recipe = "video_ssl.evaluate.recipe:EvaluateRecipe"


def recipe_keys(config: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (KEY=DEFAULT, what it means) of a dataclass and of those in it; a key without a default is KEY=...

    >>> from video_ssl.clips.upkeep.config import TranscodeConfig
    >>> key, meaning = next(recipe_keys(TranscodeConfig, "scan."))
    >>> key, meaning[:19]
    ('scan.cut=false', 'one file per record')
    """
    texts, hints = described(config), typing.get_type_hints(config)
    for each in dataclasses.fields(config):
        key, inner = prefix + each.name, _dataclass_in(hints[each.name])
        optional = inner is not hints[each.name]
        if inner is None or optional:
            yield f"{key}={_default(each)}", first_sentence(texts.get(each.name, ""))
        if inner is not None:
            yield from recipe_keys(inner, f"{key}.")


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a field holds or may hold, None where it holds none or one of several."""
    found = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
    return found[0] if len(found) == 1 else None  # type: ignore[return-value]


def _default(each: dataclasses.Field[Any]) -> str:
    """As it is written in a recipe."""
    value = each.default
    if each.default_factory is not dataclasses.MISSING:
        value = each.default_factory()
    if value is dataclasses.MISSING:
        return "..."
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
