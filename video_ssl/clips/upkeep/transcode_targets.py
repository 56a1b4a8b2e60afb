"""What `video-ssl transcode` may write: names that stay below OUT/videos, and no file that it has not made itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from video_ssl.clips.upkeep.journal import Journal
from video_ssl.clips.upkeep.probe import stamp
from video_ssl.datasets.archives.tars import divide_member
from video_ssl.datasets.remote.fetching import is_remote
from video_ssl.files import OutputError, check_writable, identity

# File systems allow 255 bytes; a character may take four.
_LONGEST_NAME = 40


def file_name(source: str, root: Path, key: tuple[Any, ...], taken: set[str]) -> str:
    """Returns a name below the folder of videos, and adds it to `taken`.

    It is as the source lies below the table, made unique where two would be equal, also for file systems that take
    large and small letters for the same.  No part of it leads out of the folder.

    >>> file_name("/data/a/../../b/x.avi", Path("/data"), (), set())
    'x.mp4'
    >>> file_name("/data/a/./x.avi", Path("/data"), (), set())
    'a/x.mp4'
    >>> file_name("/data/a.mp4/x.avi", Path("/data"), (), set())
    'a.mp4_/x.mp4'
    """
    whole = source if is_remote(source) else os.path.normpath(source)
    inside = whole.startswith(os.path.normpath(root).rstrip(os.sep) + os.sep)
    path = os.path.relpath(whole, root) if inside else whole.rsplit("/", 1)[-1]
    path = path.replace("!/", "/")  # members of a tar come from a folder, and are none any more
    *folders, last = [p for p in path.split("/") if p not in ("", ".", "..")] or ["video"]
    # A folder never has the name that a file may get.
    folders = [f"{name}_" if name.lower().endswith(".mp4") else name for name in folders]
    last = os.path.splitext(last)[0]
    stem = "/".join([*folders, last])
    is_segment = len(key) > 3 and key[3:] != (None, None)
    if f"{stem}.mp4".casefold() in taken or is_segment or len(last) > _LONGEST_NAME:
        digest = hashlib.sha1(json.dumps(key).encode()).hexdigest()[:12]
        stem = "/".join([*folders, f"{last[:_LONGEST_NAME]}-{digest}"])
    taken.add(f"{stem}.mp4".casefold())
    return f"{stem}.mp4"


def claim_targets(
    targets: Mapping[str, Path], journal: Journal, sources: Iterable[str], out: Path
) -> None:
    """Refuses to write over a source, by whatever name or link, and over what the journal does not know as our work.

    Args:
        targets: key in the journal -> file.
        journal: of the folder.
        sources: of all files, as records have them.
        out: the folder, for the text.

    Raises:
        OutputError: the first such file, or a folder that cannot be written.
    """
    there = {key: path for key, path in targets.items() if os.path.lexists(path)}
    known = {identity(path): path for path in there.values()}
    known.pop(None, None)
    for source in sources if known else ():
        holder, _ = divide_member(source)
        found = None if is_remote(holder) else known.get(identity(holder))
        if found is not None:
            raise OutputError(
                f"{found} is {source}, which is read: nothing is written over a source. Choose another folder than "
                f"{out}."
            )
    for key, path in there.items():
        if not _is_ours(key, path, journal):
            raise OutputError(
                f"{path} is there already and is not as `video-ssl transcode` has written it: it is not replaced. "
                "Choose another folder, or move that file away."
            )
    for folder in {path.parent for path in targets.values()}:
        check_writable(folder, folder)


def _is_ours(key: str, path: Path, journal: Journal) -> bool:
    """Whether the file is the one in the journal, or was begun without its end being noted."""
    if key in journal.begun:
        return True
    entry = journal.entries.get(key, {})
    written = entry.get("left") or [entry.get("file_size"), entry.get("file_mtime")]
    return None not in written and list(stamp(str(path))) == list(written)
