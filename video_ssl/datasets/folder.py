"""A folder of videos as a table: every video below it, with the names of the first sub-folders as classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.left_out import (
    AGAIN,
    BESIDE_VIDEOS,
    BROKEN_LINKS,
    HIDDEN,
    OTHER,
    PICTURES,
    RECORDINGS,
    SPECIAL,
    TARS,
    TRANSCODED,
    UNREADABLE,
    LeftOut,
)
from video_ssl.datasets.paths import (
    PICTURE_SUFFIXES,
    SOUND_SUFFIXES,
    TRANSCODE_JOURNAL,
    VIDEO_SUFFIXES,
    is_hidden,
    natural_key,
    printable,
    source_of_path,
)
from video_ssl.datasets.record_ids import made_ids
from video_ssl.datasets.subtitle_files import captions_beside
from video_ssl.datasets.subtitles import SUBTITLE_SUFFIXES
from video_ssl.datasets.table import Table, TableError

#: What this package leaves in the folder of a data set begins so, and is no news to its owner.
_OUR_OWN = ".video_ssl_"


def read_folder(
    folder: str | os.PathLike[str], *, suffixes: Sequence[str] = VIDEO_SUFFIXES
) -> Table:
    """Returns the table of all videos below `folder`, sorted by path; `id` is the path relative to it.

    Where there is none, every folder with pictures in it is a video of frames; where there are no pictures either, the
    tars are read (`video_ssl.datasets.archives.tar_shards`); and where there is nothing of that, recordings of sound
    alone are what the table is of.

    Labels are set if every video lies in a sub-folder and there are at least two of them: the class is the first
    sub-folder on the way to the video, and labels number the class names in sorted order.  Captions are set where there
    are subtitles beside videos (`subtitle_files`).  What is left out is counted by rule, and named, in the log: hidden
    files, files of other kinds, folders of frames beside video files.

    Args:
        folder: searched recursively; links to folders are followed.
        suffixes: what counts as a video, compared without case.

    Raises:
        TableError: no such folder, one that may not be read, or no video in it.
    """
    root = _existing(folder)
    wanted = tuple(suffix.lower() for suffix in suffixes)
    left_out = LeftOut()
    videos: list[str] = []
    tars: list[str] = []
    sounds: list[str] = []
    subtitles: list[str] = []
    pictures: dict[str, tuple[str, int]] = {}
    for parent, name in walk(root, left_out):
        lower, path = name.lower(), os.path.join(parent, name)
        if lower.endswith(wanted):
            videos.append(path)
        elif lower.endswith(PICTURE_SUFFIXES):
            first, count = pictures.get(parent, (name, 0))
            pictures[parent] = first, count + 1
        elif lower.endswith(".tar"):
            tars.append(path)
        elif lower.endswith(SUBTITLE_SUFFIXES):
            subtitles.append(path)
        elif lower.endswith(SOUND_SUFFIXES):
            sounds.append(path)
        else:
            suffix = os.path.splitext(lower)[1]
            left_out.add(OTHER, _below(root, path), kind=suffix or "no suffix")
    if not videos and not pictures and not tars:
        videos, sounds = sounds, []
    for sound in sounds:
        left_out.add(RECORDINGS, _below(root, sound))
    if not videos and not pictures and tars:
        from video_ssl.datasets.archives.tar_shards import open_shards

        left_out.log(str(folder))
        return open_shards(sorted(tars, key=natural_key), where=str(folder))
    if not videos and not pictures:
        found = "".join(f" Found: {line}." for line in left_out.lines())
        raise TableError(
            f"{folder} holds no video: a file counts as one if it ends in {', '.join(wanted)}, "
            f"a folder if it holds pictures ({', '.join(PICTURE_SUFFIXES)}). Nor recordings of sound "
            f"({', '.join(SOUND_SUFFIXES)}).{found}"
        )
    if videos:
        _leave_out_pictures(root, videos, pictures, left_out)
    for tar in tars:
        left_out.add(TARS, _below(root, tar))
    paths = sorted(videos or list(pictures))
    captions = captions_beside(paths, subtitles, root=root, left_out=left_out)
    left_out.log(str(folder))
    return _table_of_paths(root, paths, captions)


def _leave_out_pictures(
    root: Path, videos: list[str], pictures: dict[str, tuple[str, int]], left_out: LeftOut
) -> None:
    """Notes pictures beside videos, which are thumbnails, and folders that hold pictures only, which may be videos."""
    holders = {os.path.dirname(video) for video in videos}
    for parent, (first, count) in sorted(pictures.items()):
        if parent not in holders:
            left_out.add(BESIDE_VIDEOS, _below(root, parent))
        else:
            left_out.add(PICTURES, _below(root, os.path.join(parent, first)), count=count)


def _below(root: Path, path: str) -> str:
    return printable(path[len(str(root).rstrip(os.sep)) + 1 :])


def _existing(folder: str | os.PathLike[str]) -> Path:
    root = Path(os.path.abspath(folder))
    if not root.is_dir():
        raise TableError(f"no folder {folder}.")
    return root


def _table_of_paths(root: Path, paths: list[str], captions: Sequence[Any]) -> Table:
    """Sorted paths below `root`, with the first sub-folders as classes, and what is said in them."""
    skip = len(str(root).rstrip(os.sep)) + 1
    paths = [path[skip:] for path in paths]
    columns: dict[str, Any] = {
        "id": made_ids(pa.array([printable(path) or root.name for path in paths])),
        "source": [_source(root, path) for path in paths],
    }
    if any(captions):
        columns["captions"] = captions
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


def walk(
    root: Path, left_out: LeftOut | None = None, *, changed: dict[str, int] | None = None
) -> Iterator[tuple[str, str]]:
    """Yields (folder, name) of every file below `root` that is not hidden; links to folders are followed once.

    Args:
        root: a folder.
        left_out: notes what is not yielded, and why.
        changed: gets folder -> time of its last change in ns, as it was before the folder was listed.

    Raises:
        TableError: `root` itself cannot be listed.
    """
    left_out = LeftOut() if left_out is None else left_out
    seen: set[tuple[int, int]] = set()
    to_do = [str(root)]
    while to_do:
        parent = to_do.pop()
        try:
            state = os.stat(parent)
            if (state.st_dev, state.st_ino) in seen:  # a link back up would never end
                left_out.add(AGAIN, _below(root, parent))
                continue
            with os.scandir(parent) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as err:
            if parent == str(root):
                raise TableError(f"{root} cannot be read ({err.strerror}).") from err
            left_out.add(UNREADABLE, f"{_below(root, parent)} ({err.strerror})")
            continue
        seen.add((state.st_dev, state.st_ino))
        if parent != str(root) and any(entry.name == TRANSCODE_JOURNAL for entry in entries):
            left_out.add(TRANSCODED, _below(root, parent))  # the same videos once more
            continue
        if changed is not None:
            changed[parent] = state.st_mtime_ns
        folders = []
        for entry in entries:
            what = HIDDEN if is_hidden(entry.name) else _kind_of(entry)
            if what == "folder":
                folders.append(entry.path)
            elif what == "file":
                yield parent, entry.name
            elif not entry.name.startswith(_OUR_OWN):
                left_out.add(what, _below(root, entry.path))
        to_do += reversed(folders)


def _kind_of(entry: os.DirEntry[str]) -> str:
    """ "folder", "file", or the rule that leaves it out."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return BROKEN_LINKS if entry.is_symlink() else SPECIAL
    except OSError:  # a link to itself, or into what may not be read
        return BROKEN_LINKS if entry.is_symlink() else UNREADABLE
