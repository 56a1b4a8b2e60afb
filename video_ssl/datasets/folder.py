"""A folder of videos as a table: every video below it, with the names of the first sub-folders as classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from video_ssl.datasets.table import Table, TableError

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts",
    ".wmv", ".flv", ".3gp", ".gif", ".ogv",
)  # fmt: skip


def read_folder(
    folder: str | os.PathLike[str], *, suffixes: Sequence[str] = VIDEO_SUFFIXES
) -> Table:
    """Returns the table of all videos below `folder`, sorted by path; `id` is the path relative to it.

    Labels are set if every video lies in a sub-folder and there are at least two of them: the class is the first
    sub-folder on the way to the video, and labels number the class names in sorted order.  Hidden files and folders
    are left out.

    Args:
        folder: searched recursively; links to folders are followed.
        suffixes: what counts as a video, compared without case.

    Raises:
        TableError: no such folder, or no video in it.
    """
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise TableError(f"no folder {folder}.")
    wanted = tuple(suffix.lower() for suffix in suffixes)
    sources = sorted(
        os.path.relpath(os.path.join(parent, name), root)
        for parent, name in _walk(root)
        if name.lower().endswith(wanted)
    )
    if not sources:
        raise TableError(
            f"{folder} holds no video: a file counts as one if it ends in {', '.join(wanted)}."
        )
    first = [source.partition(os.sep)[0] if os.sep in source else "" for source in sources]
    class_names = sorted(set(first))
    if "" in class_names or len(class_names) < 2:
        return Table.from_columns({"source": sources}, root=root)
    number = {name: label for label, name in enumerate(class_names)}
    return Table.from_columns(
        {"source": sources, "label": [number[name] for name in first]},
        root=root,
        class_names=class_names,
    )


def _walk(root: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(parent, name) for name in files if not name.startswith(".")]
    return found
