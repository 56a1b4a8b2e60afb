"""A folder of videos as a table: every video below it, with the names of the first sub-folders as classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.paths import PICTURE_SUFFIXES, natural_key, printable, source_of_path
from video_ssl.datasets.paths import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from video_ssl.datasets.record_ids import made_ids
from video_ssl.datasets.table import Table, TableError


def read_folder(
    folder: str | os.PathLike[str], *, suffixes: Sequence[str] = VIDEO_SUFFIXES
) -> Table:
    """Returns the table of all videos below `folder`, sorted by path; `id` is the path relative to it.

    Where there is none, every folder with pictures in it is a video of frames; where there are no pictures either, the
    tars are read (`video_ssl.datasets.shards`).

    Labels are set if every video lies in a sub-folder and there are at least two of them: the class is the first
    sub-folder on the way to the video, and labels number the class names in sorted order.  Hidden files and folders
    are left out.

    Args:
        folder: searched recursively; links to folders are followed.
        suffixes: what counts as a video, compared without case.

    Raises:
        TableError: no such folder, or no video in it.
    """
    root = _existing(folder)
    wanted = tuple(suffix.lower() for suffix in suffixes)
    videos, frames, tars = [], set(), []
    for parent, name in walk(root):
        lower = name.lower()
        if lower.endswith(wanted):
            videos.append(os.path.join(parent, name))
        elif lower.endswith(PICTURE_SUFFIXES):
            frames.add(parent)
        elif lower.endswith(".tar"):
            tars.append(os.path.join(parent, name))
    if not videos and not frames and tars:
        from video_ssl.datasets.shards import open_shards

        return open_shards(sorted(tars, key=natural_key), where=str(folder))
    if not videos and not frames:
        raise TableError(
            f"{folder} holds no video: a file counts as one if it ends in {', '.join(wanted)}, "
            f"a folder if it holds pictures ({', '.join(PICTURE_SUFFIXES)})."
        )
    return _table_of_paths(root, videos or list(frames))


def read_pictures(folder: str | os.PathLike[str]) -> Table:
    """Returns the table of all pictures below `folder`, each a video of one frame; see `read_folder` for the labels."""
    root = _existing(folder)
    found = [os.path.join(p, n) for p, n in walk(root) if n.lower().endswith(PICTURE_SUFFIXES)]
    if not found:
        raise TableError(f"{folder} holds no picture ({', '.join(PICTURE_SUFFIXES)}).")
    return _table_of_paths(root, found)


def _existing(folder: str | os.PathLike[str]) -> Path:
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise TableError(f"no folder {folder}.")
    return root


def _table_of_paths(root: Path, paths: list[str]) -> Table:
    """Paths below `root`, with the first sub-folders as classes."""
    skip = len(str(root).rstrip(os.sep)) + 1
    paths = sorted(path[skip:] for path in paths)
    columns: dict[str, Any] = {
        "id": made_ids(pa.array([printable(path) or root.name for path in paths])),
        "source": [_source(root, path) for path in paths],
    }
    first = [path.partition(os.sep)[0] if os.sep in path else "" for path in paths]
    class_names = sorted(set(first))
    if "" in class_names or len(class_names) < 2:
        return Table.from_columns(columns, root=root)
    number = {name: label for label, name in enumerate(class_names)}
    columns["label"] = [number[name] for name in first]
    return Table.from_columns(columns, root=root, class_names=[printable(n) for n in class_names])


def _source(root: Path, path: str) -> str:
    source = source_of_path(path)
    return source_of_path(os.path.join(root, path)) if source != path else source or "."


def walk(root: Path) -> Iterator[tuple[str, str]]:
    """Yields (folder, name) of every file below `root` that is not hidden; links to folders are followed once."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield parent, name
