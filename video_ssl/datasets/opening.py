"""Turns what a user writes after `data.table=` into a table: a file, a folder, a list, or a dataset by name."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from video_ssl.datasets.archives.array_records import (
    STAMP_SUFFIX,
    refuse_broken_shards,
    refuse_other_records,
)
from video_ssl.datasets.archives.tar_shards import is_shards, open_shards
from video_ssl.datasets.folder import read_folder
from video_ssl.datasets.lists.table_files import (
    CSV_SUFFIXES,
    TABLE_SUFFIXES,
    has_header,
    read_table_file,
)
from video_ssl.datasets.lists.video_lists import LIST_SUFFIXES, read_list
from video_ssl.datasets.mapped import mapped, open_mapped
from video_ssl.datasets.paths import at_home
from video_ssl.datasets.public.annotations import check_public, open_public
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.remote.fetching import fetch, is_remote
from video_ssl.datasets.table import Table, TableError
from video_ssl.recipes import ConfigError, find_recipe, list_recipes, nearest, read_recipe

log = logging.getLogger(__name__)

# kind -> the function that makes the folder of tables: build(root, **settings of the recipe) -> Path
KINDS: dict[str, str] = {"demo": "video_ssl.datasets.demo.build:build_demo"}

# kind -> the function that reads the annotation files of a public data set: read(root, **settings) -> Annotations
PUBLIC_KINDS: dict[str, str] = {
    "kinetics": "video_ssl.datasets.public.kinetics:read_kinetics",
    "ssv2": "video_ssl.datasets.public.ssv2:read_ssv2",
    "ucf101": "video_ssl.datasets.public.ucf101:read_ucf101",
    "hmdb51": "video_ssl.datasets.public.hmdb51:read_hmdb51",
    "diving48": "video_ssl.datasets.public.diving48:read_diving48",
    "imagenet": "video_ssl.datasets.public.imagenet:read_imagenet",
    "penn_action": "video_ssl.datasets.public.penn_action:read_penn_action",
    "pouring": "video_ssl.datasets.public.pouring:read_pouring",
    "finegym": "video_ssl.datasets.public.finegym:read_finegym",
    "segments": "video_ssl.datasets.public.segments:read_segments",
    "ava": "video_ssl.datasets.public.ava:read_ava",
    "davis": "video_ssl.datasets.public.davis:read_davis",
    "jhmdb": "video_ssl.datasets.public.jhmdb:read_jhmdb",
    "vip": "video_ssl.datasets.public.vip:read_vip",
    "otb": "video_ssl.datasets.public.otb:read_otb",
    "got10k": "video_ssl.datasets.public.got10k:read_got10k",
    "msrvtt": "video_ssl.datasets.public.msrvtt:read_msrvtt",
    "youcook2": "video_ssl.datasets.public.youcook2:read_youcook2",
    "esc50": "video_ssl.datasets.public.esc50:read_esc50",
    "audioset": "video_ssl.datasets.public.audioset:read_audioset",
}

DATA_ENVIRONMENT = "VIDEO_SSL_DATA"


def open_table(
    spec: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Table:
    """Returns the table that `spec` names.

    Args:
        spec: `NAME_OR_PATH[:SPLIT]`, where the first part is
            an `.arrow` file; a CSV or TSV with a header, JSON lines or Parquet (with a split: the rows whose column
            `split` says so); a `path label` list (.txt, .csv, .list); tars (`x-{000..010}.tar`, `x-*.tar`); any of
            these as a URI; a folder with one `SPLIT.arrow` per split (with ArrayRecord shards beside it where
            `video-ssl data build` has made it), here or, with a split, as a URI; a folder of videos, of folders of
            frames or of tars (class sub-folders give labels); or the name of a dataset recipe (`demo:train`), whose
            tables are made when they are missing; `./NAME` is a folder that is called like one.
        root: the folder that relative paths in a file, or in a folder of tables, are relative to, if not its own.

    Tables that are not Arrow files are kept as such in the cache when they are large, so that they are read once and
    worker processes map them.

    Raises:
        TableError: nothing of that name, no split where one is needed or of the wrong name, empty data, wrong columns.
        ConfigError: a broken dataset recipe.
        FetchError: a URI that cannot be fetched.

    >>> table = open_table("videos.csv:val")
    >>> [table.record(row).id for row in range(len(table))]
    ['videos/wave2.mp4', 'videos/bow1.mp4']
    """
    text = at_home(os.fspath(spec))
    name, split = (text, None) if Path(text).exists() else _divide(text)
    root = None if root is None else at_home(os.fspath(root))
    if is_shards(name):
        return open_shards(name, split=split)
    if is_remote(name):
        return _open_remote(name, split, root)
    if means_recipe(name):
        return _open_folder(_build(name), split)
    path = Path(name)
    if path.exists():
        refuse_other_records(path)
    if path.is_dir():
        return _open_folder(path, split, root)
    if path.is_file() and path.suffix != ".yaml":
        return _open_file(path, split, root)
    known = (".arrow", *LIST_SUFFIXES, *TABLE_SUFFIXES)
    if path.suffix in known or name.startswith(("/", "./", "../", "~")):
        raise TableError(f"no table {name}: there is no such file or folder.")
    return _open_folder(_build(name), split)


def open_splits(spec: str | os.PathLike[str]) -> dict[str, Table]:
    """Returns every split that `spec` names: all of a folder of tables or a dataset recipe, or the one after the colon.

    Data without splits are "train".

    Raises:
        TableError, ConfigError, FetchError: see `open_table`.
    """
    text = at_home(os.fspath(spec))
    name, split = (text, None) if Path(text).exists() else _divide(text)
    if split is not None:
        return {split: open_table(text)}
    folder = _build(name) if means_recipe(name) else Path(name)
    splits = sorted(file.stem for file in folder.glob("*.arrow")) if folder.is_dir() else []
    if splits:
        # Not by its name again: a path without its "./" may be the name of a recipe.
        return {split: _open_folder(folder, split) for split in splits}
    return {"train": open_table(text)}


def means_recipe(name: str) -> bool:
    """Returns whether a name, without a split, means a data set recipe: it goes before a folder that is called so.

    Beside the data themselves (cd /data; VIDEO_SSL_DATA=/data) every name is both.
    """
    path = Path(name)
    if path.exists() and (os.sep in name or not path.is_dir()):
        return False
    if name not in list_recipes("datasets"):
        return False
    if path.exists():
        _say_which(name)
    return True


def _spec_of(folder: Path, split: str) -> str:
    """What a user writes for a split of a folder of tables: `./NAME` where the name alone would mean a recipe."""
    here = f".{os.sep}" if str(folder) in list_recipes("datasets") else ""
    return f"{here}{folder}:{split}"


@functools.cache
def _say_which(name: str) -> None:
    log.warning(
        "%s is a data set recipe and a folder here: the recipe is taken; write ./%s for the folder.",
        name,
        name,
    )


def _divide(text: str) -> tuple[str, str | None]:
    name, colon, split = text.rpartition(":")
    if (
        not colon or not name or (is_remote(text) and "/" in split)
    ):  # s3://bucket, http://host:80/...
        return text, None
    return name, split


def _open_file(
    path: Path, split: str | None, root: str | os.PathLike[str] | None, *, look: bool = True
) -> Table:
    """The table of a file; with `look`, a list is refused of which no video is there."""
    suffix = path.suffix.lower()
    folder = Path(os.path.abspath(path)).parent if root is None else Path(os.path.abspath(root))
    if suffix in TABLE_SUFFIXES and (suffix not in CSV_SUFFIXES or has_header(path)):
        return open_mapped(
            path,
            lambda: read_table_file(path, root=folder, split=split),
            root=folder,
            what=f"{split}",
        )
    if split is not None:
        raise TableError(f"{path} is one file without splits: leave out {':' + split!r}.")
    if suffix == ".arrow":
        return Table.open(path, root=root)
    if suffix in LIST_SUFFIXES:
        return open_mapped(path, lambda: read_list(path, root=folder, look=look), root=folder)
    raise TableError(
        f"{path} is not a table: a file must end in .arrow, {', '.join(TABLE_SUFFIXES)}, or be a `path label` list "
        f"({', '.join(LIST_SUFFIXES)})."
    )


def _open_remote(uri: str, split: str | None, root: str | os.PathLike[str] | None) -> Table:
    """The table of a file that lies elsewhere; its relative sources lie beside it, unless `root` says other."""
    suffixes = (".arrow", *LIST_SUFFIXES, *TABLE_SUFFIXES)
    if split is not None and not os.path.splitext(uri.rpartition("/")[2])[1]:  # a folder of tables
        return _open_remote(f"{uri.rstrip('/')}/{split}.arrow", None, root)
    if not uri.lower().endswith(suffixes):
        raise TableError(
            f"{redacted(uri)} is not a table: a URI must name tars or end in {', '.join(suffixes)}. "
            "For a folder of videos elsewhere give a list of their URIs, for one of tables FOLDER:SPLIT."
        )
    cached = fetch(uri)
    try:
        table = _open_file(Path(cached.path), split, root, look=False)
        if root is None:
            table = table.moved(uri.rpartition("/")[0])
        return mapped(table)
    finally:
        cached.release()


def _open_folder(
    folder: Path, split: str | None, root: str | os.PathLike[str] | None = None
) -> Table:
    """The table of a folder; `root` counts where it holds tables: videos lie where they lie."""
    splits = sorted(file.stem for file in folder.glob("*.arrow"))
    if split is None:
        if len(splits) == 1 and (folder / f"{splits[0]}{STAMP_SUFFIX}").exists():
            return _open_folder(folder, splits[0], root)
        if splits:
            raise TableError(
                f"{folder} has the splits {splits}: write which one, for example {_spec_of(folder, splits[0])}."
            )
        return mapped(read_folder(folder))
    refuse_broken_shards(folder, split)
    if split in splits:
        return Table.open(folder / f"{split}.arrow", root=root)
    if splits:
        raise TableError(
            f"{folder} has no split {split!r}: it has {splits}.{nearest(split, splits)}"
        )
    if (folder / split).is_dir():
        return mapped(read_folder(folder / split))
    raise TableError(f"{folder} has no split {split!r}: neither {split}.arrow nor a sub-folder.")


def lacks_tables(spec: str) -> bool:
    """Returns whether `open_table` would first make the data that `spec` names: generated ones that are not there."""
    text = at_home(spec)
    if is_remote(text):
        return False
    name = text if Path(text).exists() else _divide(text)[0]
    if not means_recipe(name):
        return False
    kind, root, _ = resolve_recipe(name)
    return kind not in PUBLIC_KINDS and not any(root.glob("*.arrow"))


def _build(name: str) -> Path:
    """The folder of a dataset recipe, with its tables made where they are missing."""
    kind, root, make = resolve_recipe(name)
    if kind in PUBLIC_KINDS:
        return open_public(name, root, make)
    return Path(make(root))


def resolve_recipe(name: str) -> tuple[str, Path, Callable[[Path], Any]]:
    """Returns (kind, folder of the data, function of that folder) of a dataset recipe.

    The function makes the tables, or reads the annotation files where the kind is one of `PUBLIC_KINDS`.

    Raises:
        TableError: no such recipe.
        ConfigError: a broken one.
    """
    try:
        file = find_recipe(name, room="datasets")
    except ConfigError as err:
        known = sorted(list_recipes("datasets"))
        raise TableError(
            f"no data {name!r}: neither a file, nor a folder, nor a dataset recipe {known}.{nearest(name, known)}"
        ) from err
    recipe = read_recipe(file, room="datasets")
    kind, root = recipe.pop("kind", None), recipe.pop("root", None)
    kinds = {**KINDS, **PUBLIC_KINDS}
    if kind not in kinds:
        raise ConfigError(
            f"{file}: kind={kind!r} is not one of {sorted(kinds)}.{nearest(str(kind), kinds)}"
        )
    if not isinstance(root, str):
        raise ConfigError(f"{file}: root={root!r} must be the folder that holds the data.")
    module, _, function = kinds[kind].partition(":")
    make: Callable[..., Any] = getattr(importlib.import_module(module), function)
    _refuse_unknown_settings(file, recipe, make)
    return kind, _data_root(root), functools.partial(make, **recipe)


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


def check_data(name: str) -> tuple[list[str], bool]:
    """Returns (lines that say what of a public data set is there and what is missing, whether all is there).

    Raises:
        TableError: no dataset recipe of that name, or one that is made and not downloaded.
    """
    kind, root, read = resolve_recipe(name)
    if kind not in PUBLIC_KINDS:
        raise TableError(
            f"{name} is not a public data set with annotation files: its data are made when they are opened."
        )
    return check_public(name, root, read)
