"""Turns what a user writes after `data.table=` into a table: a file, a folder, a list, or a dataset by name."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.lists import LIST_SUFFIXES, read_list
from video_ssl.datasets.table import Table, TableError
from video_ssl.recipes import ConfigError, find_recipe, list_recipes, nearest, read_recipe

# kind -> the function that makes the folder of tables: build(root, **settings of the recipe) -> Path
KINDS: dict[str, str] = {"demo": "video_ssl.datasets.demo:build_demo"}

DATA_ENVIRONMENT = "VIDEO_SSL_DATA"


def open_table(
    spec: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Table:
    """Returns the table that `spec` names.

    Args:
        spec: `NAME_OR_PATH[:SPLIT]`, where the first part is
            an `.arrow` file; a `path label` list (.txt, .csv, .list); a folder with one `SPLIT.arrow` per split;
            a folder of videos (class sub-folders give labels); or the name of a dataset recipe (`demo:train`), whose
            data are made when they are missing.
        root: the folder that relative paths of a `path label` list are relative to, if not the list's own.

    Raises:
        TableError: nothing of that name, no split where one is needed or of the wrong name, empty data.
        ConfigError: a broken dataset recipe.
    """
    text = os.fspath(spec)
    name, split = (text, None) if Path(text).exists() else _divide(text)
    path = Path(name)
    if path.is_dir():
        return _open_folder(path, split)
    if path.is_file() and path.suffix != ".yaml":
        if split is not None:
            raise TableError(f"{name} is one file without splits: leave out {':' + split!r}.")
        if path.suffix == ".arrow":
            return Table.open(path)
        if path.suffix.lower() in LIST_SUFFIXES:
            return read_list(path, root=root)
        raise TableError(
            f"{name} is not a table: a file must end in .arrow or be a `path label` list ({', '.join(LIST_SUFFIXES)})."
        )
    if path.suffix in (".arrow", *LIST_SUFFIXES) or name.startswith(("/", "./", "../", "~")):
        raise TableError(f"no table {name}: there is no such file or folder.")
    return _open_folder(_build(name), split)


def _divide(text: str) -> tuple[str, str | None]:
    name, colon, split = text.rpartition(":")
    return (name, split) if colon and name else (text, None)


def _open_folder(folder: Path, split: str | None) -> Table:
    splits = sorted(file.stem for file in folder.glob("*.arrow"))
    if split is None:
        if splits:
            raise TableError(
                f"{folder} has the splits {splits}: write which one, for example {folder}:{splits[0]}."
            )
        return read_folder(folder)
    if split in splits:
        return Table.open(folder / f"{split}.arrow")
    if splits:
        raise TableError(
            f"{folder} has no split {split!r}: it has {splits}.{nearest(split, splits)}"
        )
    if (folder / split).is_dir():
        return read_folder(folder / split)
    raise TableError(f"{folder} has no split {split!r}: neither {split}.arrow nor a sub-folder.")


def _build(name: str) -> Path:
    """The folder of a dataset recipe, with its tables made where they are missing."""
    try:
        file = find_recipe(name, room="datasets")
    except ConfigError as err:
        known = sorted(list_recipes("datasets"))
        raise TableError(
            f"no data {name!r}: neither a file, nor a folder, nor a dataset recipe {known}.{nearest(name, known)}"
        ) from err
    recipe = read_recipe(file, room="datasets")
    kind, root = recipe.pop("kind", None), recipe.pop("root", None)
    if kind not in KINDS:
        raise ConfigError(
            f"{file}: kind={kind!r} is not one of {sorted(KINDS)}.{nearest(str(kind), KINDS)}"
        )
    if not isinstance(root, str):
        raise ConfigError(f"{file}: root={root!r} must be the folder that holds the data.")
    module, _, function = KINDS[kind].partition(":")
    build: Callable[..., Path] = getattr(importlib.import_module(module), function)
    _refuse_unknown_settings(file, recipe, build)
    return Path(build(_data_root(root), **recipe))


def _data_root(root: str) -> Path:
    """The data folder: relative to the current one, or below $VIDEO_SSL_DATA under its own last name."""
    parent = os.environ.get(DATA_ENVIRONMENT)
    if parent and not os.path.isabs(root):
        return Path(parent) / Path(root).name
    return Path(os.path.abspath(os.path.expanduser(root)))


def _refuse_unknown_settings(
    file: Path, settings: Mapping[str, Any], build: Callable[..., Any]
) -> None:
    allowed = list(inspect.signature(build).parameters)[1:]
    for key in settings:
        if key not in allowed:
            raise ConfigError(
                f"{file}: unknown key {key!r}, allowed are {['kind', 'root', *allowed]}.{nearest(key, allowed)}"
            )
