"""Where a video lies now: where it was noted, or below the folder that its archive was moved to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from video_ssl.clips.contents import content_key
from video_ssl.datasets.archives.array_records import divide_record
from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.parts import divide_parts, join_parts
from video_ssl.datasets.paths import local_path, source_of_path
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.datasets.table import Record

__all__ = ["is_here", "whereabouts"]


def whereabouts(source: str, *, root: Path | None, content: str | None = None) -> str | None:
    """Returns the source of a video as it can be opened now; None where it is gone.

    Below `root` the file is looked for under its whole path, then without the first folder of it, and so on: the
    archive may have been moved whole or in part.

    Args:
        source: as it was noted: an absolute path, a member of an archive, several of them in a row.
        root: the folder that the archive lies in now; it wins over the place that was noted.
        content: what the video held (`content_key`), where that was noted; another file of its name is not taken.
    """
    if root is not None:
        for found in _below(source, root):
            if content is None or content_key(Record(index=0, id="", source=found)) == content:
                return found
    return source if is_here(source) else None


def is_here(source: str) -> bool:
    """Returns whether all files of a local source are there; what lies elsewhere is not fetched for a picture."""
    return all(
        not is_remote(_holder(p)) and os.path.exists(_holder(p)) for p in divide_parts(source)
    )


def _holder(part: str) -> str:
    """The file or folder that a part of a source lies in."""
    return local_path(divide_record(divide_member(part)[0])[0])


def _below(source: str, root: Path) -> Iterator[str]:
    """Where the video may lie below the root, the longest path first; only what is there."""
    parts = divide_parts(source)
    if any(is_remote(part) for part in parts):
        return
    longest = min(len(Path(_holder(part)).parts) for part in parts)
    for left_out in range(1, longest):
        found = [_moved(part, root, left_out) for part in parts]
        if all(os.path.exists(_holder(part)) for part in found):
            yield join_parts(found)


def _moved(part: str, root: Path, left_out: int) -> str:
    holder = divide_record(divide_member(part)[0])[0]
    path = Path(local_path(holder))
    moved = os.path.abspath(root.joinpath(*path.parts[left_out:]))
    return source_of_path(moved) + part[len(holder) :]
